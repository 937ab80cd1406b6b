# SPDX-License-Identifier: Apache-2.0
"""Edits by search and replace, as models write them into their answers.

  ```python
  ### package/module.py
  <<<<<<< SEARCH
  return n / 3
  =======
  return n / 2
  >>>>>>> REPLACE
  ```

This is the form of SWE-RL (arXiv 2502.18449, after Agentless). The searched
text is literal, and wherever it stands in the file it is replaced; edits apply
one after the other. Files are only texts here: no edit reaches a disk.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from srl_jax.domains.software.repositories import Entry

SEARCH, DIVIDER, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
_FENCE = "```"
_TAB = 8

# Why an edit has no effect. An edit has the first reason that holds.
FAILURES = (
  "not in a python block",
  "not complete",  # cut, or its markers do not come one after the other
  "searches for nothing",
  "path outside of the repository",
  "symbolic link",
  "no such file",  # also where the edit is to make it
  "file not shown",
  "not in the file",
  "changes nothing",
  "leaves an empty file",
)


class Edit(NamedTuple):
  """An edit; `failure` is "" or one of FAILURES, if its form is at fault."""

  path: str
  search: str
  replace: str
  failure: str = ""


class EditedFiles(NamedTuple):
  """What edits have made of files.

  Attributes:
    texts: the changed files' new texts, by path.
    failures: for each edit "", or why it had no effect.
  """

  texts: dict[str, str]
  failures: tuple[str, ...]


def parse(text: str) -> list[Edit]:
  """Returns the edits in an answer, in order.

  The path is the last line before the edit, less the # in front of it; an edit
  without such a line is of the file of the one before it in its block. Edits
  that come again are left out, as agentless-mini does.

  Args:
    text: the answer without its thoughts.
  """
  reader = _Reader()
  for line in text.split("\n"):
    reader.take(line.removesuffix("\r"))
  reader.end()
  return list(dict.fromkeys(reader.edits))


def apply(
  edits: Sequence[Edit],
  shown: Mapping[str, str],
  tree: Mapping[str, Entry],
) -> EditedFiles:
  """Applies edits to texts, one after the other.

  A file all of whose lines end in CRLF is searched as it is shown, with LF, and
  keeps its line ends.

  Args:
    edits: the edits.
    shown: texts of the files that may be edited, by path.
    tree: all files of the repository, to say what is wrong with a path.
  """
  texts = {path: as_shown(text) for path, text in shown.items()}
  before = dict(texts)
  failures = tuple(_apply(edit, texts, tree) for edit in edits)
  changed = {
    path: as_stored(text, shown[path])
    for path, text in texts.items()
    if text != before[path]
  }
  return EditedFiles(changed, failures)


def as_shown(text: str) -> str:
  """Returns a file's text as the model sees it: with LF, if all is CRLF."""
  return text.replace("\r\n", "\n") if _is_crlf(text) else text


def as_stored(text: str, before: str) -> str:
  """Returns a file's new text with the line ends of the one before."""
  if not _is_crlf(before):
    return text
  return text.replace("\r\n", "\n").replace("\n", "\r\n")


def replace_among_tabs(text: str, old: str, new: str) -> str:
  """Replaces what stands once in a text whose tabs are seen as spaces.

  Only the lines that change lose tabs, and they begin with tabs if the lines
  before did: those replaced, or of the file where none of these is indented.

  Args:
    text: the text, with tabs.
    old: what is replaced, without tabs.
    new: what comes instead.
  """
  lines, seen = text.split("\n"), text.expandtabs().split("\n")
  before, _, after = text.expandtabs().partition(old)
  first = before.count("\n")
  end = first + old.count("\n") + 1
  stay = dict(zip(seen[first:end], lines[first:end], strict=True))
  near = [x for x in lines[first:end] if x.startswith((" ", "\t"))]
  near = near or [x for x in lines if x.startswith((" ", "\t"))]
  has_tabs = 2 * sum(x.startswith("\t") for x in near) > len(near)

  def stored(line: str) -> str:
    body = line.lstrip(" \t")
    width = len(line[: len(line) - len(body)].expandtabs())
    tabs = width // _TAB if has_tabs else 0
    own = "\t" * tabs + " " * (width - tabs * _TAB) + body
    return stay.get(line.expandtabs(), own)

  written = before.rpartition("\n")[2] + new + after.partition("\n")[0]
  changed = [stored(line) for line in written.split("\n")]
  return "\n".join([*lines[:first], *changed, *lines[end:]])


def _is_crlf(text: str) -> bool:
  lines = text.count("\n")
  return lines > 0 and lines == text.count("\r\n") == text.count("\r")


def _apply(edit: Edit, texts: dict[str, str], tree: Mapping[str, Entry]) -> str:
  """Applies an edit to the texts; returns why it has no effect, or ""."""
  if edit.failure:
    return edit.failure
  if edit.path not in texts:
    return _fault(edit.path, tree)
  before = texts[edit.path]
  if edit.search not in before:
    return "not in the file"
  after = before.replace(edit.search, edit.replace)
  if after == before:
    return "changes nothing"
  if not after.strip():
    return "leaves an empty file"
  texts[edit.path] = after
  return ""


def _fault(path: str, tree: Mapping[str, Entry]) -> str:
  """Returns what is wrong with the path of a file that is not shown."""
  parts = pathlib.PurePosixPath(path)
  if parts.is_absolute() or ".." in parts.parts:
    return "path outside of the repository"
  if path not in tree:
    # Something in a linked folder is no file of the tree either.
    above = {str(folder) for folder in parts.parents}
    linked = any(tree[x].is_symlink for x in above & tree.keys())
    return "symbolic link" if linked else "no such file"
  return "symbolic link" if tree[path].is_symlink else "file not shown"


class _Reader:
  """Reads an answer line by line."""

  def __init__(self):
    self.edits: list[Edit] = []
    # The language of the open block; None outside of blocks.
    self._language: str | None = None
    # The path of the open edit, and the block's last line outside of edits.
    self._path = self._line = ""
    # The lines of the open edit, before and after each dividing line.
    self._parts: list[list[str]] = []

  def take(self, line: str) -> None:
    """Reads the next line."""
    # Within an edit what is indented is text: headings of docstrings are
    # underlined by =======, and Markdown in them has fences.
    mark = line.rstrip() if self._parts else line.strip()
    if mark.startswith(_FENCE):
      self.end()
      language = mark.removeprefix(_FENCE).strip()
      is_end = not language and self._language is not None
      self._language = None if is_end else language
      self._line = ""
    elif mark == SEARCH:
      self.end()
      self._path = self._line.lstrip("#").strip()
      self._parts = [[]]
    elif not self._parts:
      self._line = mark or self._line
    elif mark == DIVIDER:
      self._parts.append([])
    elif mark == REPLACE:
      self._close(is_complete=len(self._parts) == 2 and self._path != "")
    else:
      self._parts[-1].append(line)

  def end(self) -> None:
    """Ends an edit that is open, which then is not complete."""
    if self._parts:
      self._close(is_complete=False)

  def _close(self, *, is_complete: bool) -> None:
    search, *rest = ("\n".join(lines) for lines in self._parts)
    self._parts = []
    if self._language != "python":
      failure = "not in a python block"
    elif not is_complete:
      failure = "not complete"
    else:
      failure = "" if search.strip() else "searches for nothing"
    replace = f"\n{DIVIDER}\n".join(rest)
    self.edits.append(Edit(self._path, search, replace, failure))
