# SPDX-License-Identifier: Apache-2.0
"""The tool str_replace_editor: views and edits files of a sandbox.

What it answers after success is what SWE-agent's tool of this name answers, as
models have seen it in training. The texts of errors are our own. Unlike that
tool it keeps the tabs of lines that do not change, and it shows no binary file.
A file all of whose lines end in CRLF is shown and searched with LF, and keeps
its line ends.
"""

from __future__ import annotations

import ast
import collections
import json
from collections.abc import Mapping

from srl_jax.domains.software import edits
from srl_jax.domains.software.sandbox import Sandbox

COMMANDS = ("view", "create", "str_replace", "insert", "undo_edit")
# Longer texts are cut, or their functions are.
_MOST_CHARACTERS = 16_000
_PATH_CHARACTERS = 4000
_SNIPPET_LINES = 4
_FUNCTION_LINES = 5
_CLIPPED = (
  "<response clipped><NOTE>Only the beginning is shown. Find the lines that you"
  " need by `grep -n`, then view them.</NOTE>"
)
_ABBREVIATED = (
  "<NOTE>This file is too long to be shown as a whole. Bodies of functions are"
  " left out; view them by `view_range`.</NOTE>"
)

# Says what there is, and a file's text.
_LOOK = """
if [ -d "$1" ]; then echo folder
elif [ -f "$1" ]; then echo file; cat -- "$1"
elif [ -e "$1" ] || [ -L "$1" ]; then echo odd
elif [ -d "$(dirname -- "$1")" ]; then echo free
else echo nowhere; fi
"""
_LIST = """
find "$1" -maxdepth 2 -not -path '*/.*' | LC_ALL=C sort
"""
_WRITE = 'cat > "$1"'


class _RefusedError(Exception):
  """The call cannot be carried out; the text says why, to the model."""


class Editor:
  """The tool, with what it remembers to undo."""

  def __init__(self, sandbox: Sandbox) -> None:
    """Edits files in a sandbox."""
    self._sandbox = sandbox
    self._history: dict[str, list[str]] = collections.defaultdict(list)

  def run(self, parameters: Mapping[str, str]) -> str:
    """Carries a call out and returns the observation, also of bad calls.

    Raises:
      SandboxError: the sandbox has ended.
    """
    try:
      return self._run(parameters)
    except _RefusedError as error:
      return str(error)

  def _run(self, parameters: Mapping[str, str]) -> str:
    command = _needed(parameters, "command", "str_replace_editor")
    if command not in COMMANDS:
      raise _RefusedError(
        f"There is no command {command!r}; use one of {', '.join(COMMANDS)}."
      )
    path = _needed(parameters, "path", command)
    if not path.startswith("/"):
      raise _RefusedError(
        f"The path {path} does not begin with /. Did you mean /testbed/{path}?"
      )
    if "\0" in path or len(path) > _PATH_CHARACTERS:
      raise _RefusedError("The path is too long, or holds a NUL character.")
    # Some texts of models hold halves of surrogate pairs.
    path = path.encode(errors="replace").decode()
    kind, text = self._look(path)
    if command == "create":
      return self._create(path, kind, _needed(parameters, "file_text", command))
    if kind in ("free", "nowhere"):
      raise _RefusedError(f"The path {path} does not exist.")
    if kind == "folder":
      if command != "view":
        raise _RefusedError(f"{path} is a directory; it can only be viewed.")
      return self._list(path)
    if command == "view":
      return _view(path, edits.as_shown(text), parameters.get("view_range"))
    if command == "str_replace":
      old = _needed(parameters, "old_str", command)
      return self._replace(path, text, old, parameters.get("new_str", ""))
    if command == "insert":
      line = _needed(parameters, "insert_line", command)
      new = _needed(parameters, "new_str", command)
      return self._insert(path, text, line, new)
    return self._undo(path)

  def _look(self, path: str) -> tuple[str, str]:
    """What a path is, and the text if it is a file."""
    ran = self._sandbox.run(["bash", "-c", _LOOK, "look", path])
    if ran.cause:
      raise _RefusedError(
        f"{path} cannot be read: over the limit of {ran.cause}."
      )
    if not ran.succeeded:
      problem = ran.output.decode(errors="replace").partition("\n")[2].strip()
      raise _RefusedError(f"{path} cannot be read: {problem}")
    kind, _, data = ran.output.partition(b"\n")
    if kind == b"odd":
      raise _RefusedError(f"{path} is neither a file nor a directory.")
    if b"\0" in data:
      raise _RefusedError(f"{path} is a binary file of {len(data)} bytes.")
    try:
      return kind.decode(), data.decode()
    except UnicodeDecodeError:
      raise _RefusedError(f"{path} is no text in UTF-8.") from None

  def _write(self, path: str, text: str) -> None:
    data = text.encode(errors="replace")
    ran = self._sandbox.run(["bash", "-c", _WRITE, "write", path], data)
    if not ran.succeeded:
      problem = ran.cause or ran.output.decode(errors="replace").strip()
      raise _RefusedError(f"{path} cannot be written: {problem}")

  def _save(self, path: str, before: str, after: str) -> None:
    """Writes a text with the line ends of the one before, for `undo_edit`."""
    self._write(path, edits.as_stored(after, before))
    self._history[path].append(before)

  def _create(self, path: str, kind: str, text: str) -> str:
    if kind == "nowhere":
      raise _RefusedError(f"The directory of {path} does not exist; create it.")
    if kind != "free":
      raise _RefusedError(
        f"There is already something at {path}; `create` overwrites nothing."
      )
    self._write(path, text)
    self._history[path].append(text)
    return f"File created successfully at: {path}"

  def _list(self, path: str) -> str:
    ran = self._sandbox.run(["bash", "-c", _LIST, "list", path])
    names = _clip(ran.output.decode(errors="replace"))
    return (
      f"Here's the files and directories up to 2 levels deep in {path},"
      f" excluding hidden items:\n{names}\n"
    )

  def _replace(self, path: str, text: str, old: str, new: str) -> str:
    before_edit, text = text, edits.as_shown(text)
    seen = text
    if not text.count(old):
      # What `view` shows has no tabs.
      seen, old = text.expandtabs(), old.expandtabs()
    count = seen.count(old) if old else 0
    if count != 1:
      lines = [
        number
        for number, line in enumerate(seen.split("\n"), 1)
        if old and old.split("\n")[0] in line
      ]
      where = f" It begins in lines {lines[:20]}." if count else ""
      raise _RefusedError(
        f"No replacement was performed: old_str stands {count} times in {path},"
        f" but it must stand there exactly once, white space included.{where}"
      )
    before, _, after = seen.partition(old)
    edited = before + new + after
    if seen != text:
      edited = edits.replace_among_tabs(text, old, new)
    if edited == text:
      raise _RefusedError(
        "No replacement was performed: old_str and new_str are the same."
      )
    self._save(path, before_edit, edited)
    line = before.count("\n")
    first = max(1, line - _SNIPPET_LINES)
    last = line + _SNIPPET_LINES + new.count("\n")
    # Without the empty line after the last line break.
    last = min(last, len(edited.splitlines()))
    lines = edited.split("\n")[first - 1 : last]
    return (
      f"The file {path} has been edited. "
      + _numbered("\n".join(lines), f"a snippet of {path}", first)
      + "Review the changes and make sure they are as expected. Edit the file"
      " again if necessary."
    )

  def _insert(self, path: str, text: str, line: str, new: str) -> str:
    lines = edits.as_shown(text).split("\n")
    number = _integer(line, "insert_line")
    if not 0 <= number <= len(lines):
      raise _RefusedError(
        f"insert_line is {number}, but {path} has lines 0 to {len(lines)}."
      )
    middle = new.split("\n")
    edited = "\n".join([*lines[:number], *middle, *lines[number:]])
    self._save(path, text, edited)
    first = max(0, number - _SNIPPET_LINES)
    after = lines[number : number + _SNIPPET_LINES]
    snippet = "\n".join([*lines[first:number], *middle, *after])
    return (
      f"The file {path} has been edited. "
      + _numbered(snippet, "a snippet of the edited file", first + 1)
      + "Review the changes and make sure they are as expected (correct"
      " indentation, no duplicate lines, etc). Edit the file again if"
      " necessary."
    )

  def _undo(self, path: str) -> str:
    if not self._history[path]:
      raise _RefusedError(f"There is no edit of {path} to undo.")
    text = self._history[path].pop()
    self._write(path, text)
    shown = _numbered(edits.as_shown(text), path)
    return f"Last edit to {path} undone successfully. {shown}"


def _view(path: str, text: str, asked: str | None) -> str:
  if asked:
    lines = text.split("\n")
    first, last = _range(asked, len(lines))
    return _numbered("\n".join(lines[first - 1 : last]), path, first)
  if len(text) > _MOST_CHARACTERS and path.endswith(".py"):
    outline = _outline(text)
    if outline is not None:
      return f"{_ABBREVIATED}\n{_clip(outline)}\n"
  return _numbered(text, path)


def _range(asked: str, lines: int) -> tuple[int, int]:
  try:
    first, last = json.loads(asked)
    first, last = _integer(first, "view_range"), _integer(last, "view_range")
  except (ValueError, TypeError, RecursionError):
    raise _RefusedError(
      f"view_range is {asked!r}; write two numbers such as [11, 20]."
    ) from None
  end = lines if last == -1 else last
  if not 1 <= first <= end <= lines:
    raise _RefusedError(
      f"view_range is {asked}, but it must lie in [1, {lines}], and its second"
      " number must not be the smaller one (-1 is the end)."
    )
  return first, end


def _outline(text: str) -> str | None:
  """The lines of a Python file without long bodies; None if it is no Python."""
  try:
    tree = ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
  left_out: dict[int, int] = {}
  for node in ast.walk(tree):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      first, last = node.body[0].lineno, node.body[-1].end_lineno
      if last - first >= _FUNCTION_LINES:
        left_out[first] = last
  shown, skip_to = [], 0
  # Not at form feeds and the like, which are no ends of lines to Python.
  for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
    if number <= skip_to:
      continue
    if number in left_out:
      skip_to = left_out[number]
      shown.append(f"{number:6d} ... eliding lines {number}-{skip_to} ...")
    else:
      shown.append(f"{number:6d} {line.expandtabs()}")
  return "\n".join(shown)


def _numbered(text: str, what: str, first: int = 1) -> str:
  lines = enumerate(_clip(text).expandtabs().split("\n"), first)
  body = "\n".join(f"{number:6}\t{line}" for number, line in lines)
  return f"Here's the result of running `cat -n` on {what}:\n{body}\n"


def _clip(text: str) -> str:
  if len(text) <= _MOST_CHARACTERS:
    return text
  return text[:_MOST_CHARACTERS] + _CLIPPED


def _needed(parameters: Mapping[str, str], name: str, of: str) -> str:
  if name not in parameters:
    raise _RefusedError(f"The parameter `{name}` is required for {of}.")
  return parameters[name]


def _integer(value: object, name: str) -> int:
  try:
    if isinstance(value, float):
      raise ValueError
    return int(value)
  except (ValueError, TypeError):
    raise _RefusedError(f"{name} is {value!r}; write a whole number.") from None
