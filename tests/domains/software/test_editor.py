# SPDX-License-Identifier: Apache-2.0
"""The editor's answers are those that models know, and it loses nothing."""

import pytest

from srl_jax.domains.software.editor import Editor
from tests.domains.software.drill_for_tests import bash
from tests.domains.software.marks_for_tests import needs_sandbox

pytestmark = needs_sandbox

TEN = "".join(f"line {number}\n" for number in range(1, 11))


@pytest.fixture
def editor(sandbox):
  bash(sandbox, "rm -rf /testbed/* /testbed/.h; mkdir -p /testbed/d/e/f")
  return Editor(sandbox)


@pytest.fixture
def edit(editor):
  def run(command, path="/testbed/a.txt", **parameters):
    return editor.run({"command": command, "path": path, **parameters})

  return run


def text_of(sandbox, path="/testbed/a.txt"):
  return sandbox.run(["cat", path]).output.decode()


def test_a_file_is_created_once(edit, sandbox):
  created = edit("create", file_text=TEN)
  assert created == "File created successfully at: /testbed/a.txt"
  assert text_of(sandbox) == TEN
  assert "overwrites nothing" in edit("create", file_text="x")
  assert text_of(sandbox) == TEN
  assert "does not exist; create it" in edit(
    "create", "/testbed/x/y", file_text=""
  )
  assert "File created" in edit("create", "/testbed/empty", file_text="")


def test_a_file_is_viewed_with_numbers(edit):
  edit("create", file_text="a\n\tb\n")
  assert edit("view") == (
    "Here's the result of running `cat -n` on /testbed/a.txt:\n"
    "     1\ta\n     2\t        b\n     3\t\n"
  )
  seen = edit("view", view_range="[2, 2]")
  assert seen.split("\n")[1:] == ["     2\t        b", ""]
  assert edit("view", view_range="[2, -1]").count("\n") == 3


@pytest.mark.parametrize(
  ("asked", "said"),
  [
    ("[0, 2]", "it must lie in [1, 3]"),
    ("[2, 9]", "it must lie in [1, 3]"),
    ("[3, 2]", "must not be the smaller one"),
    ("[1]", "write two numbers"),
    ("1, 2", "write two numbers"),
    ('["a", 2]', "write a whole number"),
    ("[1.5, 2]", "write a whole number"),
    ("7", "write two numbers"),
    ("[" * 100_000, "write two numbers"),
  ],
)
def test_a_range_that_cannot_be_shown_is_explained(edit, asked, said):
  edit("create", file_text="a\nb\n")
  assert said in edit("view", view_range=asked)


def test_a_directory_is_listed_to_its_second_level(edit, sandbox):
  bash(sandbox, "cd /testbed; touch d/x .h d/e/y d/e/f/z")
  assert edit("view", "/testbed") == (
    "Here's the files and directories up to 2 levels deep in /testbed,"
    " excluding hidden items:\n/testbed\n/testbed/d\n/testbed/d/e\n"
    "/testbed/d/x\n\n"
  )
  assert "can only be viewed" in edit("str_replace", "/testbed/d", old_str="a")


def test_one_place_is_replaced_and_shown(edit, sandbox):
  edit("create", file_text=TEN)
  answer = edit("str_replace", old_str="line 6\n", new_str="six\nand more\n")
  assert answer == (
    "The file /testbed/a.txt has been edited. Here's the result of running"
    " `cat -n` on a snippet of /testbed/a.txt:\n"
    "     1\tline 1\n     2\tline 2\n     3\tline 3\n     4\tline 4\n"
    "     5\tline 5\n     6\tsix\n     7\tand more\n     8\tline 7\n"
    "     9\tline 8\n    10\tline 9\n    11\tline 10\n"
    "Review the changes and make sure they are as expected. Edit the file"
    " again if necessary."
  )
  assert text_of(sandbox) == TEN.replace("line 6\n", "six\nand more\n")
  # The empty line after the last line break is not shown.
  assert "  10\tline 9\n    11\tten\nReview" in edit(
    "str_replace", old_str="line 10", new_str="ten"
  )
  # Without new_str, the place is removed.
  edit("str_replace", old_str="six\n")
  assert "six" not in text_of(sandbox)


@pytest.mark.parametrize(
  ("old", "new", "said"),
  [
    ("line", "x", "old_str stands 10 times"),
    ("line 1\nline", "x", "old_str stands 1 times"),
    ("nothing", "x", "old_str stands 0 times"),
    ("", "x", "old_str stands 0 times"),
    ("line 2", "line 2", "are the same"),
  ],
)
def test_what_does_not_stand_there_once_is_not_replaced(
  edit, sandbox, old, new, said
):
  edit("create", file_text=TEN)
  answer = edit("str_replace", old_str=old, new_str=new)
  if said == "old_str stands 1 times":
    assert "has been edited" in answer
    return
  assert said in answer
  assert text_of(sandbox) == TEN


def test_tabs_stay_though_only_spaces_match(edit, sandbox):
  edit("create", file_text="all:\n\tmake\n\ttest\n")
  edit("str_replace", old_str="\tmake", new_str="\tbuild")
  assert text_of(sandbox) == "all:\n\tbuild\n\ttest\n"
  edit("str_replace", old_str="        build", new_str="        make")
  assert text_of(sandbox) == "all:\n\tmake\n\ttest\n"
  # The same text is no edit, however it is written.
  answer = edit("str_replace", old_str="        make", new_str="        make")
  assert "are the same" in answer


CODE = "SEP = '\t'\n\n\ndef f(a):\n\tx = a\t# odd\n\treturn x\n"


@pytest.mark.parametrize(
  ("before", "old", "new", "after"),
  [
    (
      CODE,
      " " * 8 + "return x",
      " " * 8 + "return 2",
      ("return x", "return 2"),
    ),
    (
      CODE,
      "        x = a   # odd\n        return x",
      "        x = a   # odd\n        if x:\n            return x",
      ("\treturn x", "\tif x:\n\t    return x"),
    ),
    # Lines around tell what indented lines begin with.
    (
      CODE,
      "SEP = ' '",
      "def g():\n        return '\t'",
      ("SEP = '\t'", "def g():\n\treturn '\t'"),
    ),
    (
      "def f(a):\n        return a\n\tb\n",
      "return a\n        b",
      "return b\n        c",
      ("return a\n\tb", "return b\n        c"),
    ),
  ],
)
def test_lines_that_do_not_change_keep_their_tabs(
  edit, sandbox, before, old, new, after
):
  edit("create", file_text=before)
  edit("str_replace", old_str=old, new_str=new)
  assert text_of(sandbox) == before.replace(*after)


def test_lines_are_inserted_after_a_line(edit, sandbox):
  edit("create", file_text="a\nb\n")
  answer = edit("insert", insert_line="1", new_str="x\ny")
  assert "a snippet of the edited file:\n     1\ta\n     2\tx\n" in answer
  assert text_of(sandbox) == "a\nx\ny\nb\n"
  edit("insert", insert_line="0", new_str="top")
  assert text_of(sandbox).startswith("top\na\n")
  assert "has lines 0 to 6" in edit("insert", insert_line="7", new_str="x")
  assert "write a whole number" in edit("insert", insert_line="a", new_str="x")


def test_an_edit_across_tabs_is_undone_with_its_tabs(edit, sandbox):
  edit("create", file_text="all:\n\tmake a\n\tmake b\n")
  edit("str_replace", old_str="        make a", new_str="        make c")
  edit("undo_edit")
  assert text_of(sandbox) == "all:\n\tmake a\n\tmake b\n"


def test_lines_of_an_outline_are_those_of_python(edit):
  body = "".join(f"  x = {number}  # {'y' * 400}\n" for number in range(50))
  edit("create", "/testbed/a.py", file_text=f"# \f\n\ndef f():\n{body}")
  seen = edit("view", "/testbed/a.py")
  assert "     3 def f():\n     4 ... eliding lines 4-53 ..." in seen


def test_edits_are_undone_one_by_one(edit, sandbox):
  edit("create", file_text=TEN)
  edit("str_replace", old_str="line 3", new_str="three")
  edit("insert", insert_line="0", new_str="top")
  answer = edit("undo_edit")
  assert answer.startswith("Last edit to /testbed/a.txt undone successfully. ")
  assert text_of(sandbox) == TEN.replace("line 3", "three")
  edit("undo_edit")
  assert text_of(sandbox) == TEN
  edit("undo_edit")  # Of the creation, which leaves what was created.
  assert "There is no edit" in edit("undo_edit")


def test_a_long_python_file_is_shown_without_its_bodies(edit):
  body = "".join(f"    x{i} = {i}\n" for i in range(1500))
  text = f"import os\n\n\ndef f(a):\n{body}\n\nclass C:\n\n  y = 1\n"
  edit("create", "/testbed/a.py", file_text=text)
  seen = edit("view", "/testbed/a.py")
  assert (
    "     4 def f(a):\n     5 ... eliding lines 5-1504 ...\n  1505 \n" in seen
  )
  assert "  1509   y = 1" in seen
  # What is no Python is cut.
  edit("create", "/testbed/b.py", file_text="def (" + "x\n" * 9000)
  assert "<response clipped>" in edit("view", "/testbed/b.py")
  edit("create", "/testbed/c.txt", file_text="x\n" * 9000)
  seen = edit("view", "/testbed/c.txt")
  assert len(seen) < 16_000 * 8
  assert "<response clipped>" in seen


@pytest.mark.parametrize(
  ("make", "said"),
  [
    ("true", "does not exist"),
    ("printf 'a\\0b' > a.txt", "is a binary file of 3 bytes"),
    ("printf 'a\\xff' > a.txt", "is no text in UTF-8"),
    ("echo x > a.txt; chmod 000 a.txt", "cannot be read: cat: "),
    ("mkfifo a.txt", "neither a file nor a directory"),
    ("ln -s /nowhere a.txt", "neither a file nor a directory"),
    ("ln -s /dev/zero a.txt", "neither a file nor a directory"),
    ("ln -s /etc/shadow a.txt", "neither a file nor a directory"),
    (
      "head -c 20000000 /dev/zero | tr '\\0' x > a.txt",
      "over the limit of out",
    ),
  ],
)
def test_what_cannot_be_viewed_is_explained(edit, sandbox, make, said):
  bash(sandbox, f"cd /testbed; {make}")
  assert said in edit("view")


def test_files_outside_can_be_read_and_not_written(edit):
  assert "cannot be written" in edit("create", "/usr/new", file_text="x")
  answer = edit("view", "/usr/../etc/ld.so.conf")
  assert "cat -n" in answer or "does not exist" in answer


@pytest.mark.parametrize(
  ("parameters", "said"),
  [
    ({}, "`command` is required for str_replace_editor"),
    ({"command": "view"}, "`path` is required for view"),
    ({"command": "print", "path": "/a"}, "There is no command 'print'; use"),
    ({"command": "view", "path": "a"}, "Did you mean /testbed/a?"),
    ({"command": "create", "path": "/testbed/n"}, "`file_text` is required"),
    ({"command": "view", "path": "/a\0"}, "NUL character"),
    ({"command": "view", "path": "/" * 5000}, "too long"),
  ],
)
def test_a_call_that_lacks_something_is_explained(editor, parameters, said):
  assert said in editor.run(parameters)


def test_lines_that_end_in_crlf_are_shown_and_edited_as_others_are(
  edit, sandbox
):
  dos = TEN.replace("\n", "\r\n")
  assert sandbox.run(["bash", "-c", "cat > a.txt"], dos.encode()).succeeded
  assert "\r" not in edit("view") + edit("view", view_range="[2, 3]")
  edited = edit("str_replace", old_str="line 2\nline 3", new_str="new\nlines")
  assert edited.startswith("The file /testbed/a.txt has been edited")
  assert "\r" not in edited + edit("insert", insert_line="1", new_str="a\nb")
  changed = TEN.replace("line 2\nline 3", "a\nb\nnew\nlines")
  assert text_of(sandbox) == changed.replace("\n", "\r\n")
  assert "\r" not in edit("undo_edit") + edit("undo_edit")
  assert text_of(sandbox) == dos
  # Where lines end in both, no line changes but those of the edit.
  mixed = b"a\r\nb\nc\r\n"
  assert sandbox.run(["bash", "-c", "cat > a.txt"], mixed).succeeded
  edit("str_replace", old_str="b\nc", new_str="d\nc")
  assert text_of(sandbox) == "a\r\nd\nc\r\n"
