# SPDX-License-Identifier: Apache-2.0
"""Patches: made from changed files, read, and compared.

A patch is the text of `git diff`. After agentless-mini (SWE-RL, arXiv
2502.18449) one is empty if a changed Python file does not parse, or if only
blank lines changed; and two are the same if the code behind comments,
docstrings and layout is.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping

from srl_jax.domains.software.repositories import Git

DOES_NOT_PARSE = "a changed file does not parse"
BLANK_LINES = "only blank lines changed"


@dataclasses.dataclass(frozen=True)
class Change:
  """What a patch does to a file.

  Attributes:
    before: its path before; "" if the patch makes it.
    after: its path afterwards; "" if the patch removes it.
    lines: the removed and added lines in order, with - or + in front.
  """

  before: str
  after: str
  lines: tuple[str, ...]


def objection(old: Mapping[str, str], new: Mapping[str, str]) -> str:
  """Returns why changed files make no patch; "" if they make one.

  Args:
    old: texts of the files before, by path.
    new: texts of the changed files.
  """
  for path, text in new.items():
    if path.endswith(".py") and parsed(text) is None:
      return DOES_NOT_PARSE
  if all(_filled(old[path]) == _filled(new[path]) for path in new):
    return BLANK_LINES
  return ""


def make_patch(
  git: Git,
  old: Mapping[str, str],
  new: Mapping[str, str],
  modes: Mapping[str, str],
) -> str:
  """Returns the difference as `git diff` writes it.

  Args:
    git: runs git.
    old: texts of the files before, by path.
    new: texts of the changed files; the others stay as they are.
    modes: modes of files, as git writes them; executable ones stay so.
  """
  with tempfile.TemporaryDirectory(prefix="srl_jax_diff_") as folder:
    for side, texts in (("a", old), ("b", new)):
      for path in new:
        file = pathlib.Path(folder, side, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(texts[path].encode("utf-8"))
        file.chmod(int(modes[path], 8) & 0o777)
    done = git.run(
      [
        *("diff", "--no-index", "--no-prefix", "--full-index", "--text"),
        *("--no-color", "--no-ext-diff", "--no-textconv", "a", "b"),
      ],
      folder=folder,
    )
  return done.stdout.decode("utf-8")


def changes(patch: str) -> list[Change]:
  """Returns what a patch does, file by file.

  What is no patch changes nothing. Changes of binary files have no lines.
  """
  found: list[Change] = []
  before = after = ""
  lines: list[str] = []
  for kind, text in [*_parts(patch), ("file", "")]:
    if kind == "file" or (kind == "before" and lines):
      # A patch of other programs may have no line that begins a file.
      if before or after:
        found.append(Change(before, after, tuple(lines)))
      before, after = _both(text)
      lines = []
    if kind == "before":
      before = text
    elif kind == "after":
      after = text
    elif kind == "line":
      lines.append(text)
  return found


def same_change(one: str, two: str) -> bool:
  """Whether two patches remove and add the same lines of the same files."""
  first, second = (
    sorted((c.before, c.after, c.lines) for c in changes(patch))
    for patch in (one, two)
  )
  return bool(first) and first == second


def code_key(
  old: Mapping[str, str], new: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
  """Returns what two patches of the same files share if they are the same.

  That is the code of each changed file, in one layout, without comments and
  docstrings. It is () if the code does not change.
  """
  codes = ((path, _code(path, new[path])) for path in sorted(new))
  return tuple(
    (path, code) for path, code in codes if code != _code(path, old[path])
  )


def parsed(text: str) -> ast.Module | None:
  """Returns the syntax tree of Python code; None if it does not parse."""
  with warnings.catch_warnings():
    # Of escapes such as "\\d", which are none.
    warnings.simplefilter("ignore")
    try:
      # Bytes may begin with a mark of their order, and a text may not.
      return ast.parse(text.encode("utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      return None


def _code(path: str, text: str) -> str:
  tree = parsed(text) if path.endswith(".py") else None
  if tree is None:
    return _filled(text)
  try:
    return ast.unparse(_WithoutDocstrings().visit(tree))
  # Before Python 3.12 some strings with expressions have no other spelling.
  except (RecursionError, ValueError):
    return _filled(text)


class _WithoutDocstrings(ast.NodeTransformer):
  def generic_visit(self, node: ast.AST) -> ast.AST:
    super().generic_visit(node)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if (
      isinstance(node, owners)
      and ast.get_docstring(node, clean=False) is not None
    ):
      node.body = node.body[1:] or [ast.Pass()]
    return node


def _filled(text: str) -> str:
  return "\n".join(line for line in text.splitlines() if line.strip())


_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def _parts(patch: str) -> Iterator[tuple[str, str]]:
  """Yields (kind, text) of the parts of a patch that say what it does."""
  removed = added = 0
  for line in patch.split("\n"):
    if removed > 0 or added > 0:
      if line[:1] in ("-", "+"):
        yield "line", line
      # An editor may have cut the space of an empty line.
      removed -= line[:1] in ("-", " ", "")
      added -= line[:1] in ("+", " ", "")
    elif hunk := _HUNK.match(line):
      removed, added = (int(x) if x is not None else 1 for x in hunk.groups())
    elif line.startswith("diff --git "):
      yield "file", line.removeprefix("diff --git ")
    elif line.startswith("--- "):
      yield "before", _name(line[4:], "a/")
    elif line.startswith("+++ "):
      yield "after", _name(line[4:], "b/")
    elif line.startswith("new file mode"):
      yield "before", ""
    elif line.startswith("deleted file mode"):
      yield "after", ""
    elif line.startswith(("rename from ", "copy from ")):
      yield "before", _name(line.split(" from ", 1)[1], "")
    elif line.startswith(("rename to ", "copy to ")):
      yield "after", _name(line.split(" to ", 1)[1], "")


def _both(names: str) -> tuple[str, str]:
  """Returns the two paths of a "diff --git" line.

  They are the same unless other lines say so, and nothing marks where the
  second begins.
  """
  half = len(names) // 2
  return _name(names[:half], "a/"), _name(names[half + 1 :], "b/")


_ESCAPED = re.compile(rb'\\([0-7]{3}|[abfnrtv"\\])')
_ESCAPES = dict(zip(b'abfnrtv"\\', b'\a\b\f\n\r\t\v"\\', strict=True))


def _name(text: str, prefix: str) -> str:
  """Returns a path of a patch; "" for none."""
  # Other programs write the time of the file after a tab.
  name = text.split("\t")[0].rstrip("\r")
  if name.startswith('"') and name.endswith('"'):
    raw = _ESCAPED.sub(_character, name[1:-1].encode("utf-8"))
    name = raw.decode("utf-8", "replace")
  return "" if name == "/dev/null" else name.removeprefix(prefix)


def _character(match: re.Match[bytes]) -> bytes:
  code = match[1]
  return bytes([int(code, 8) if len(code) == 3 else _ESCAPES[code[0]]])
