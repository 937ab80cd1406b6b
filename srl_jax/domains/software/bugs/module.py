# SPDX-License-Identifier: Apache-2.0
"""The text of a module with its tree: where nodes stand, and changes there."""

from __future__ import annotations

import ast

# (first character, behind the last one, what stands there instead).
Edit = tuple[int, int, str]


class Module:
  """The text of a module, with its tree and places.

  Attributes:
    text: the text, in ASCII.
    functions: the functions at the top, by name.
  """

  def __init__(self, text: str) -> None:
    """Parses a text; raises ValueError for one that is not ASCII."""
    if not text.isascii():
      raise ValueError("the module is not in ASCII; places would be wrong")
    self.text = text
    self.functions = {
      node.name: node
      for node in ast.parse(text).body
      if isinstance(node, ast.FunctionDef)
    }
    self._starts = [0]
    for line in text.splitlines(keepends=True):
      self._starts.append(self._starts[-1] + len(line))

  def span(self, node: ast.AST) -> tuple[int, int]:
    """Where the text of a node stands."""
    return (
      self._starts[node.lineno - 1] + node.col_offset,
      self._starts[node.end_lineno - 1] + node.end_col_offset,
    )

  def source(self, node: ast.AST) -> str:
    """The text of a node."""
    first, end = self.span(node)
    return self.text[first:end]

  def lines(self, first: ast.AST, last: ast.AST) -> tuple[int, int]:
    """Where the whole lines from one node to another one stand."""
    return self._starts[first.lineno - 1], self._starts[last.end_lineno]

  def put(self, node: ast.AST, text: str) -> tuple[Edit, ...]:
    """Replaces the text of a node."""
    return ((*self.span(node), text),)

  def between(
    self, left: ast.AST, right: ast.AST, old: str, new: str
  ) -> tuple[Edit, ...]:
    """Replaces a sign that stands between two nodes."""
    at = self.text.index(old, self.span(left)[1], self.span(right)[0])
    return ((at, at + len(old), new),)

  def apply(self, edits: tuple[Edit, ...]) -> str:
    """The text with changes."""
    text = self.text
    for first, end, new in sorted(edits, reverse=True):
      text = text[:first] + new + text[end:]
    return text


def nodes(function: ast.FunctionDef, *kinds: type[ast.AST]) -> list[ast.AST]:
  """The nodes of a kind in a function, in the order of the lines.

  Python 3.11 gives wrong places within f-strings, so their parts are left out.
  """
  found, waiting = [], [function]
  while waiting:
    node = waiting.pop(0)
    if isinstance(node, kinds):
      found.append(node)
    if not isinstance(node, ast.JoinedStr):
      waiting += ast.iter_child_nodes(node)
  return sorted(found, key=lambda x: getattr(x, "lineno", 0))


def blocks(function: ast.FunctionDef) -> list[list[ast.stmt]]:
  """The lists of statements in a function, each with its neighbours."""
  return [
    block
    for node in ast.walk(function)
    for name in ("body", "orelse")
    if isinstance(block := getattr(node, name, None), list) and block
  ]


def variables(function: ast.FunctionDef) -> list[str]:
  """Arguments and variables of a function, in the order of the text."""
  names = [x.arg for x in function.args.args]
  names += [
    x.id for x in nodes(function, ast.Name) if isinstance(x.ctx, ast.Store)
  ]
  return list(dict.fromkeys(names))
