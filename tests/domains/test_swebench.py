# SPDX-License-Identifier: Apache-2.0
"""Instances of SWE-bench: which files, which prompts, which verdicts."""

import dataclasses
import inspect
import pathlib
import pickle
import textwrap

import pytest

from srl_jax.domains.software import swebench
from srl_jax.domains.software.repositories import Entry, make_git, open_clones
from srl_jax.domains.software.swebench import Instance
from tests.support import repositories
from tests.support.repositories import CUTTING, GOLD, SOURCES

FILE, LINK = Entry("100644", "0" * 40), Entry("120000", "0" * 40)
FIX = """\
<think>
```python
### parts/cutting.py
<<<<<<< SEARCH
def third(count):
=======
def fourth(count):
>>>>>>> REPLACE
```
</think>
It divides by the wrong number.

```python
### parts/cutting.py
<<<<<<< SEARCH
  \"\"\"Returns half of a number.\"\"\"
  return count // 3
=======
  \"\"\"Returns half of a number.\"\"\"
  return count // 2
>>>>>>> REPLACE
```"""


@pytest.fixture(scope="module")
def clones(tmp_path_factory):
  folder = tmp_path_factory.mktemp("swebench")
  (folder / "clones").mkdir()
  return open_clones(folder / "clones", make_git(folder / "empty.git"))


@pytest.fixture(scope="module")
def instance(clones):
  folder = pathlib.Path(clones.folder) / "acme__parts"
  repositories.make(
    folder, SOURCES | {"latin.py": b"# \xfc\n", "b.py": b"a\0b"}
  )
  (folder / "link.py").symlink_to("setup.py")
  return Instance(
    "acme__parts-1",
    "half(4) is 1.",
    GOLD,
    subject="acme/parts",
    suite="toy",
    base_commit=repositories.commit(folder),
    files=("parts/cutting.py",),
  )


def test_the_gold_files_are_the_python_files_that_the_patch_finds_there():
  patch = (
    "diff --git a/new.py b/new.py\nnew file mode 100644\n"
    "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+a\n"
    "diff --git a/gone.py b/gone.py\ndeleted file mode 100644\n"
    "--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
    "diff --git a/old.py b/moved.py\nsimilarity index 100%\n"
    "rename from old.py\nrename to moved.py\n"
    "diff --git a/doc.rst b/doc.rst\n"
    "--- a/doc.rst\n+++ b/doc.rst\n@@ -1 +1 @@\n-a\n+b\n"
  ) + GOLD
  found = swebench.gold_files(Instance("i", "?", patch))
  assert found == ("gone.py", "old.py", "parts/cutting.py")
  assert swebench.gold_files(Instance("i", "?", "")) == ()


def test_tests_are_no_sources_except_in_pytest():
  paths = ["a.py", "test_a.py", "tests/b.py", "c/testing/d.py", "latest.py"]
  tree = dict.fromkeys([*paths, "a.txt"], FILE) | {"link.py": LINK}
  instance = Instance("i", "?", "", subject="acme/parts")
  assert swebench.source_files(instance, tree) == ["a.py", "latest.py"]
  instance = dataclasses.replace(instance, subject="pytest-dev/pytest")
  assert swebench.source_files(instance, tree) == paths


def test_paths_are_listed_as_a_tree():
  docs = inspect.getdoc(swebench.listing).split(" give\n")[1]
  example = textwrap.dedent(docs)
  assert swebench.listing(["a.py", "b/c.py", "b/d/e.py"]) == example.strip("\n")
  assert swebench.listing(["a/b/c.py", "a/d.py", "e/b/f.py", "g.py"]) == (
    "a/\n    b/\n        c.py\n    d.py\ne/\n    b/\n        f.py\ng.py"
  )


def test_only_a_line_that_is_a_path_names_a_file():
  paths = [f"{x}.py" for x in "abcdefg"] + ["h/i.py"]
  answer = (
    "<think>\ng.py\n</think>\nThe files are:\n```\nh/i.py\nb.py\n./a.py\n"
    " a.py\n`a.py`\n- a.py\na.py # why\nz.py\nb.py\n```\nc.py\nd.py\ne.py\n"
    "f.py\n"
  )
  assert swebench.named_files(answer, paths) == [
    *("h/i.py", "b.py", "c.py", "d.py", "e.py")
  ]
  assert swebench.named_files("", paths) == []


def test_a_named_file_is_one_that_was_listed(clones, instance):
  judge = swebench.judge_files
  both = "parts/cutting.py\nsetup.py\ntest_all.py\nlink.py\nREADME.md"
  found = judge(both, instance, clones=clones)
  assert found == ("parts/cutting.py\nsetup.py", True)
  assert judge("setup.py", instance, clones=clones) == ("setup.py", False)
  assert judge("none", instance, clones=clones) == ("", False)
  without = dataclasses.replace(instance, answer="")
  assert judge(both, without, clones=clones) == (found[0], False)


def test_what_cannot_be_read_is_said_file_by_file(clones, instance):
  paths = ["setup.py", "latin.py", "b.py", "link.py", "none.py", "setup.py"]
  found = swebench.files_of(clones, instance, paths)
  assert found.texts == {"setup.py": SOURCES["setup.py"]}
  assert found.unreadable == {
    "latin.py": "binary, or not UTF-8",
    "b.py": "binary, or not UTF-8",
    "link.py": "symbolic link",
    "none.py": "not at the base commit",
  }


def test_an_answer_becomes_a_patch_that_git_applies(clones, instance, tmp_path):
  patch, is_gold = swebench.judge_edits(FIX, instance, clones=clones)
  assert is_gold
  folder = pathlib.Path(clones.folder) / "acme__parts"
  (tmp_path / "patch").write_text(patch)
  repositories.git(
    tmp_path, "clone", "-q", str(folder), str(tmp_path / "clone")
  )
  repositories.git(tmp_path / "clone", "apply", str(tmp_path / "patch"))
  assert (tmp_path / "clone" / "parts" / "cutting.py").read_text() == (
    CUTTING.replace("// 3", "// 2", 1)
  )
  other = FIX.replace("// 2", "// 4")
  patch, is_gold = swebench.judge_edits(other, instance, clones=clones)
  assert patch and not is_gold


@pytest.mark.parametrize(
  ("answer", "failures", "objection"),
  [
    ("I do not know.", (), ""),
    (FIX.replace("// 2", "// ("), ("",), "a changed file does not parse"),
    (FIX.replace("// 2", "// 3\n"), ("",), "only blank lines changed"),
    (FIX.replace("parts/cutting", "setup"), ("file not shown",), ""),
    (FIX.replace("\n  return", "\n  ret"), ("not in the file",), ""),
    ("<think>" + FIX.replace("<think>", ""), ("",), None),
  ],
)
def test_why_an_answer_gives_no_patch_is_known(
  clones, instance, answer, failures, objection
):
  made = swebench.attempt(answer, instance, clones)
  assert made.failures == failures
  if objection is not None:
    assert made.objection == objection
    assert swebench.judge_edits(answer, instance, clones=clones) == ("", False)


def test_half_a_character_is_no_reason_to_stop(clones, instance):
  answer = FIX.replace("// 2", "// 2  # \ud800")
  patch, _ = swebench.judge_edits(answer, instance, clones=clones)
  assert "+  return count // 2  # ?\n" in patch


def test_instances_and_clones_travel_to_worker_processes(clones, instance):
  assert pickle.loads(pickle.dumps((clones, instance))) == (clones, instance)


def test_the_prompt_shows_the_form_that_is_read(clones, instance):
  files = swebench.files_of(clones, instance, instance.files)
  blocks = [swebench.file_block(*item) for item in files.texts.items()]
  prompt = swebench.edits_prompt(instance, blocks)
  [edit] = swebench.edits.parse(prompt.split("</files>")[1])
  assert (edit.path, edit.failure) == ("package/parts.py", "")
  assert f"### parts/cutting.py\n{CUTTING}\n</files>" in prompt
  assert "<issue>\nhalf(4) is 1.\n</issue>" in prompt


def test_the_files_that_the_prompt_names_as_an_example_would_count(
  clones, instance
):
  tree = swebench.tree_of(clones, instance)
  prompt = swebench.files_prompt(instance, tree)
  assert "parts/\n    __init__.py\n    cutting.py\n    deep/" in prompt
  assert "test" not in prompt.split("folder:")[1].split("Which")[0]
  example = prompt.split("in this form:")[1]
  paths = ["package/parts.py", "package/tools/cutting.py"]
  assert swebench.named_files(example, paths) == paths
