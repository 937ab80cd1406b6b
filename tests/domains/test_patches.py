# SPDX-License-Identifier: Apache-2.0
"""Patches are what git reads, and are read as git writes them."""

import pytest

from srl_jax.domains.software import patches
from srl_jax.domains.software.patches import BLANK_LINES, DOES_NOT_PARSE, Change
from srl_jax.domains.software.repositories import make_git
from tests.support import repositories

OLD = {
  "a.py": "a = 1\nb = 2\nc = 3\n",
  "deep/down/b.py": "x = 'ü'\r\ny = 2",
  "späte zeile.py": "x = 1\n",
  "tool.py": "#!/usr/bin/env python\nx = 1\n",
}
NEW = {
  "a.py": "a = 1\nb = 4\nc = 3\n",
  "deep/down/b.py": "x = 'ü'\r\ny = 3\r\n",
  "späte zeile.py": "x = 2\n",
  "tool.py": "#!/usr/bin/env python\nx = 2\n",
}
MODES = dict.fromkeys(OLD, "100644") | {"tool.py": "100755"}


@pytest.fixture(scope="module")
def git(tmp_path_factory):
  return make_git(tmp_path_factory.mktemp("git") / "empty.git")


def patch_of(git, old, new):
  return patches.make_patch(git, old, new, dict.fromkeys(old, "100644"))


def test_git_applies_a_patch_and_then_has_the_new_texts(git, tmp_path):
  folder = tmp_path / "repository"
  repositories.make(folder, OLD)
  (folder / "tool.py").chmod(0o755)
  repositories.commit(folder)
  patch = patches.make_patch(git, OLD, NEW, MODES)
  (tmp_path / "patch").write_bytes(patch.encode())
  repositories.git(folder, "apply", "--3way", str(tmp_path / "patch"))
  for path, text in NEW.items():
    assert (folder / path).read_bytes() == text.encode()
  # It is what git itself says of the files.
  theirs = repositories.git(folder, "diff", "--cached", "--full-index")
  assert theirs == patch.strip()
  assert (folder / "tool.py").stat().st_mode & 0o777 == 0o755


def test_files_that_do_not_change_are_in_no_patch(git):
  new = {"a.py": NEW["a.py"]}
  assert [c.after for c in patches.changes(patch_of(git, OLD, new))] == ["a.py"]
  assert patch_of(git, OLD, {}) == ""


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("a = (1\n", DOES_NOT_PARSE),
    ("a = 1\nb = 2\nc = '\0'\n", DOES_NOT_PARSE),
    ("\n\na = 1\n\nb = 2\nc = 3\n \n", BLANK_LINES),
    ("a = 1\nb = 2\nc = 4\n", ""),
    ("\ufeffa = 1\n", ""),
    ("a = '\\d'\n", ""),  # A warning, and warnings are errors here.
  ],
)
def test_what_is_no_patch_is_said(text, said):
  assert patches.objection(
    {"a.py": "a = 1\nb = 2\nc = 3\n"}, {"a.py": text}
  ) == (said)


def test_code_that_no_parser_has_room_for_does_not_parse():
  for text in (
    "(" * 9999,
    "-" * 99_999 + "1",
    "[" * 99_999,
    "a" + ".b" * 99_999,
  ):
    assert patches.parsed(text) is None
  # More than the parser takes, but not the printer.
  text = "x = " + "+".join(["1"] * 1500) + "\n"
  if patches.parsed(text) is not None:
    assert patches.code_key({"a.py": ""}, {"a.py": text})


def test_one_file_with_more_than_blank_lines_is_enough():
  old = {"a.py": "a = 1\n", "b.py": "b = 1\n"}
  new = {"a.py": "\na = 1\n", "b.py": "b = 2\n"}
  assert patches.objection(old, new) == ""


def test_other_files_than_python_need_not_parse():
  assert patches.objection({"a.txt": "a"}, {"a.txt": "a ("}) == ""


def changes_of(folder):
  repositories.git(folder, "add", "--all")
  return patches.changes(
    repositories.git(
      folder, "diff", "--cached", "--find-renames", "--no-rename-empty"
    )
  )


def test_what_git_writes_is_read(tmp_path):
  folder = tmp_path / "repository"
  repositories.make(
    folder,
    {
      "changed.py": "-- a\n++ b\nc\n",
      "gone.py": "gone\n",
      "moved.py": "one\ntwo\nthree\nfour\n",
      "only mode.py": "m\n",
      'quo"ted\\ü.py': "q\n",
      "bin": b"\0\1",
      "empty.py": "",
      "a b/x b/y.py": "1\n",
    },
  )
  # Lines that look like those that say which file it is.
  (folder / "changed.py").write_text("-- z\n++ b\nc\n+++ d")
  (folder / "gone.py").unlink()
  (folder / "moved.py").rename(folder / "there.py")
  (folder / "there.py").write_text("one\ntwo\nthree\n4\n")
  (folder / "only mode.py").chmod(0o755)
  (folder / 'quo"ted\\ü.py').write_text("r\n")
  (folder / "bin").write_bytes(b"\0\2")
  (folder / "empty.py").unlink()
  (folder / "a b/x b/y.py").write_text("2\n")
  (folder / "made.py").write_text("made\n\n")
  (folder / "made_empty.py").write_text("")
  assert {(c.before, c.after): c for c in changes_of(folder)} == {
    (c.before, c.after): c
    for c in (
      Change("changed.py", "changed.py", ("--- a", "+-- z", "++++ d")),
      Change("gone.py", "", ("-gone",)),
      Change("moved.py", "there.py", ("-four", "+4")),
      Change("only mode.py", "only mode.py", ()),
      Change('quo"ted\\ü.py', 'quo"ted\\ü.py', ("-q", "+r")),
      Change("bin", "bin", ()),
      Change("empty.py", "", ()),
      Change("a b/x b/y.py", "a b/x b/y.py", ("-1", "+2")),
      Change("", "made.py", ("+made", "+")),
      Change("", "made_empty.py", ()),
    )
  }


def test_a_patch_of_other_programs_is_read():
  patch = (
    "Index: x\n"
    "--- a/x.py\t2024-01-01 00:00:00\n+++ b/x.py\t2024-01-01 00:00:00\n"
    "@@ -1 +1,2 @@\n-a\n+b\n+\n"
    "--- /dev/null\n+++ b/y.py\n@@ -0,0 +1 @@\n+c\n"
    "--- a/z.py\n+++ b/z.py\n@@ -1,3 +1 @@\n-d\n\n-e\n"
    "--- a/old.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-f\n"
  )
  assert patches.changes(patch) == [
    Change("x.py", "x.py", ("-a", "+b", "+")),
    Change("", "y.py", ("+c",)),
    Change("z.py", "z.py", ("-d", "-e")),
    Change("old.py", "", ("-f",)),
  ]


@pytest.mark.parametrize("text", ["", "no patch", "@@ -1 +1 @@\n-a\n+b\n"])
def test_what_is_no_patch_changes_nothing(text):
  assert patches.changes(text) == []
  assert not patches.same_change(text, text)


def test_the_same_change_may_be_written_differently(git):
  old, new = {"a.py": repositories.CUTTING}, {}
  new["a.py"] = repositories.CUTTING.replace("// 3", "// 2", 1)
  ours = patch_of(git, old, new).replace("a.py", "parts/cutting.py")
  assert ours != repositories.GOLD
  assert patches.same_change(ours, repositories.GOLD)
  for other in (
    ours.replace("// 2", "// 4"),
    ours.replace("parts/", "other/"),
    ours.replace("+++ b/parts/", "+++ b/other/"),
    ours + patch_of(git, {"b.py": "1\n"}, {"b.py": "2\n"}),
  ):
    assert not patches.same_change(other, repositories.GOLD)


CODE = '''class A:
  """Doc."""

  def f(self, x):
    """Doc."""
    return x + 1
'''


@pytest.mark.parametrize(
  "same",
  [
    CODE.replace("x + 2", "x+2"),
    CODE.replace("x + 2", "(x + 2)  # Two."),
    CODE.replace('"""Doc."""', '"""Other.\n\n  More."""'),
    CODE.replace("    return", "\n    # Why.\n\n    return"),
    CODE.replace('  """Doc."""\n\n', ""),
  ],
)
def test_patches_are_the_same_if_the_code_is(same):
  old = {"a.py": CODE}
  new = CODE.replace("x + 1", "x + 2")
  one = patches.code_key(old, {"a.py": new})
  two = patches.code_key(old, {"a.py": same.replace("x + 1", "x + 2")})
  assert one == two != ()
  other = patches.code_key(old, {"a.py": new.replace("x + 2", "x + 3")})
  assert other != one
  # The same code is no change.
  assert patches.code_key(old, {"a.py": same}) == ()


def test_texts_that_are_no_code_are_compared_line_by_line():
  old = {"a.txt": "a (\n", "b.py": "print 1\n"}
  assert patches.code_key(old, {"a.txt": "a (\n\n"}) == ()
  assert patches.code_key(old, {"a.txt": "b (\n"}) == (("a.txt", "b ("),)
  assert patches.code_key(old, {"b.py": "print(1)\n"}) == (
    ("b.py", "print(1)"),
  )


def test_a_file_whose_code_is_as_it_was_makes_no_difference():
  old = {"a.py": "a = 1\n", "b.py": "b = 1\n"}
  one = patches.code_key(old, {"a.py": "a = 2\n", "b.py": "b = 1  # One.\n"})
  assert one == patches.code_key(old, {"a.py": "a = 2\n"})
