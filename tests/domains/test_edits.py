# SPDX-License-Identifier: Apache-2.0
"""Edits are read out of answers and applied to texts."""

import pytest

from srl_jax.domains.software import edits
from srl_jax.domains.software.edits import FAILURES, Edit
from srl_jax.domains.software.repositories import Entry

FILE = Entry("100644", "0" * 40)
LINK = Entry("120000", "0" * 40)


def block(search, replace, path="### a.py", language="python"):
  lines = [path, "<<<<<<< SEARCH", search, "=======", replace]
  return "\n".join([f"```{language}", *lines, ">>>>>>> REPLACE", "```"])


def failures(answer, shown=None, tree=None):
  shown = {"a.py": "a = 1\nb = 2\n"} if shown is None else shown
  tree = dict.fromkeys(shown, FILE) | (tree or {})
  return edits.apply(edits.parse(answer), shown, tree).failures


def changed(answer, **shown):
  shown = {f"{name}.py": text for name, text in shown.items()}
  return edits.apply(edits.parse(answer), shown, {}).texts


def test_the_documented_form_is_read():
  answer = edits.__doc__.split("answers.\n\n")[1].split("\n\nThis is")[0]
  answer = "\n".join(line[2:] for line in answer.split("\n"))
  assert edits.parse(f"Because.\n\n{answer}\nDone.") == [
    Edit("package/module.py", "return n / 3", "return n / 2")
  ]


def test_edits_apply_in_order_to_what_those_before_them_left():
  answer = block("a = 1", "a = 2") + "\n" + block("a = 2", "a = 3")
  assert changed(answer, a="a = 1\n") == {"a.py": "a = 3\n"}
  # The other way round, the second has nothing to find.
  answer = block("a = 2", "a = 3") + "\n" + block("a = 1", "a = 2")
  assert changed(answer, a="a = 1\n") == {"a.py": "a = 2\n"}
  assert failures(answer) == ("not in the file", "")


def test_a_search_is_literal_and_means_every_place():
  answer = block("f(x.*)", r"g(\1)")
  assert changed(answer, a="f(x.*)\nif f(x.*):\nf(xyz)\n") == {
    "a.py": "g(\\1)\nif g(\\1):\nf(xyz)\n"
  }


def test_several_edits_may_stand_in_a_block_and_several_files_be_changed():
  answer = "\n".join(
    [
      "```python",
      "### a.py",
      "<<<<<<< SEARCH\na = 1\n=======\na = 3\n>>>>>>> REPLACE",
      "",
      "<<<<<<< SEARCH\nb = 2\n=======\nb = 4\n>>>>>>> REPLACE",
      "# c.py",
      "<<<<<<< SEARCH\na = 1\n=======\na = 5\n>>>>>>> REPLACE",
      "```",
    ]
  )
  assert changed(answer, a="a = 1\nb = 2\n", c="a = 1\n") == {
    "a.py": "a = 3\nb = 4\n",
    "c.py": "a = 5\n",
  }
  # The path of a block is not that of the next.
  lone = "<<<<<<< SEARCH\nb = 2\n=======\nb = 4\n>>>>>>> REPLACE"
  answer = block("a = 1", "a = 3") + f"\n```python\n{lone}\n```"
  assert failures(answer) == ("", "not complete")


@pytest.mark.parametrize(
  "line",
  ["  =======", "  ```", "  ```python", "  >>>>>>> REPLACE", "\t======="],
)
def test_an_indented_marker_is_text_of_the_edit(line):
  search, replace = f"Usage\n{line}", f"Use\n{line}\nx"
  assert edits.parse(block(search, replace)) == [Edit("a.py", search, replace)]
  # Space behind a marker is not seen, and no text.
  answer = block("a", "b").replace("=======", "======= ")
  assert edits.parse(answer) == [Edit("a.py", "a", "b")]


def test_lines_may_be_removed_and_blank_ones_be_part_of_an_edit():
  answer = block("\nb = 2\n", "").replace("=======\n\n", "=======\n")
  assert edits.parse(answer) == [Edit("a.py", "\nb = 2\n", "")]
  assert changed(answer, a="a = 1\n\nb = 2\n\nc = 3\n") == {
    "a.py": "a = 1\n\nc = 3\n"
  }


def test_an_edit_that_comes_again_counts_once():
  answer = (
    block("a = 1", "a = 1\na = 1") + "\n" + block("a = 1", "a = 1\na = 1")
  )
  assert changed(answer, a="a = 1\n") == {"a.py": "a = 1\na = 1\n"}
  assert failures(answer) == ("",)


BROKEN = {
  "not in a python block": (
    block("a = 1", "a = 2", language=""),
    block("a = 1", "a = 2", language="diff"),
    block("a = 1", "a = 2").strip("`").removeprefix("python\n"),
    # The block before it is over.
    "```python\nx\n```\n" + block("a = 1", "a = 2")[len("```python\n") : -4],
  ),
  "not complete": (
    block("a = 1", "a = 2").partition("\n>>>>>>>")[0],
    block("a = 1", "a = 2").partition("\n>>>>>>>")[0] + "\n```",
    block("a = 1", "a = 2").replace("=======\n", ""),
    block("a = 1\n=======\nb = 1", "a = 2"),
    block("a = 1", "a = 2", path=""),
  ),
  "searches for nothing": (block("", "a = 2"), block(" \n ", "a = 2")),
  "path outside of the repository": (
    block("a = 1", "a = 2", path="### /etc/passwd"),
    block("a = 1", "a = 2", path="### ../a.py"),
    block("a = 1", "a = 2", path="### b/../../a.py"),
  ),
  "symbolic link": (
    block("a = 1", "a = 2", path="### link.py"),
    block("a = 1", "a = 2", path="### linked/a.py"),
  ),
  "no such file": (
    block("a = 1", "a = 2", path="### new.py"),
    block("a = 1", "a = 2", path="### ./a.py"),
    block("", "a = 2", path="### `a.py`").replace("\n\n", "\nx\n"),
  ),
  "file not shown": (block("a = 1", "a = 2", path="### hidden.py"),),
  "not in the file": (
    block("a=1", "a = 2"),
    block("  a = 1", "  a = 2"),
    block("b = 2\na = 1", "a = 2"),
  ),
  "changes nothing": (block("a = 1", "a = 1"),),
  "leaves an empty file": (block("a = 1\nb = 2", ""),),
}
TREE = {"link.py": LINK, "linked": LINK, "hidden.py": FILE}


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_is_named(failure):
  for answer in BROKEN[failure]:
    assert failures(answer, tree=TREE) == (failure,), answer


def test_a_failed_edit_keeps_no_other_from_applying():
  for answers in BROKEN.values():
    # What is cut ends at the next edit.
    answer = f"{answers[0]}\n{block('b = 2', 'b = 3')}"
    assert failures(answer, tree=TREE)[-1] == "", answer
    assert changed(answer, a="a = 1\nb = 2\n") == {"a.py": "a = 1\nb = 3\n"}


def test_an_edit_that_begins_ends_the_one_before_it():
  answer = block("b = 2\n<<<<<<< SEARCH\na = 1", "a = 3")
  assert failures(answer) == ("not complete", "")
  assert changed(answer, a="a = 1\nb = 2\n") == {"a.py": "a = 3\nb = 2\n"}


def test_edits_that_undo_one_another_change_no_file():
  answer = block("a = 1", "a = 2") + "\n" + block("a = 2", "a = 1")
  assert changed(answer, a="a = 1\n") == {}
  assert failures(answer) == ("", "")


def test_line_ends_of_a_file_stay_as_they_are():
  answer = block("a = 1\nb = 2", "a = 3\nb = 4\nc = 5")
  assert changed(answer, a="a = 1\r\nb = 2\r\n") == {
    "a.py": "a = 3\r\nb = 4\r\nc = 5\r\n"
  }
  # So for answers that come with such line ends.
  dos = answer.replace("\n", "\r\n")
  assert changed(dos, a="a = 1\nb = 2\n") == {"a.py": "a = 3\nb = 4\nc = 5\n"}
  # In a file with both no line changes but those of the edit.
  answer = block("b = 2", "b = 3")
  assert changed(answer, a="a = 1\r\nb = 2\nc = 1\r\n") == {
    "a.py": "a = 1\r\nb = 3\nc = 1\r\n"
  }


def test_a_file_is_shown_with_one_kind_of_line_end():
  assert edits.as_shown("a\r\nb\r\n") == "a\nb\n"
  for text in ("a\r\nb\n", "a\nb", "a\rb\r\n", ""):
    assert edits.as_shown(text) == text
