# SPDX-License-Identifier: Apache-2.0
"""Mutators: each writes one small mistake into the text of a function.

A mutator yields changes of the source text, not of a tree that is printed
again, so that what a bug does not touch stays as it is, to the last quote. All
mutants follow from the text alone, in an order that is always the same.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from srl_jax.domains.software.bugs.module import (
  Edit,
  Module,
  blocks,
  nodes,
  variables,
)


class Mutant(NamedTuple):
  """A module with one mistake.

  Attributes:
    function: the function that has the mistake.
    mutator: the mutator's name.
    edits: what differs from the module's text; none overlaps another.
  """

  function: str
  mutator: str
  edits: tuple[Edit, ...]


Mutator = Callable[[Module, ast.FunctionDef], Iterator[tuple[Edit, ...]]]

_COMPARISONS = {
  ast.Lt: ("<", ("<=", ">")),
  ast.LtE: ("<=", ("<", ">=")),
  ast.Gt: (">", (">=", "<")),
  ast.GtE: (">=", (">", "<=")),
  ast.Eq: ("==", ("!=",)),
  ast.NotEq: ("!=", ("==",)),
  ast.In: ("in", ("not in",)),
  ast.NotIn: ("not in", ("in",)),
}
_OPERATORS = {
  ast.Add: ("+", ("-",)),
  ast.Sub: ("-", ("+",)),
  ast.Mult: ("*", ("+", "//")),
  ast.Div: ("/", ("//",)),
  ast.FloorDiv: ("//", ("%", "*")),
  ast.Mod: ("%", ("//",)),
}
# Each name stands for the other, of functions and methods of the language.
_PAIRS = (
  ("min", "max"),
  ("any", "all"),
  ("lower", "upper"),
  ("islower", "isupper"),
  ("isalnum", "isalpha"),
  ("startswith", "endswith"),
  ("strip", "rstrip"),
  ("lstrip", "strip"),
  ("ljust", "rjust"),
  ("partition", "rpartition"),
  ("split", "rsplit"),
  ("append", "extend"),
  ("keys", "values"),
)
_OTHER_NAMES: dict[str, str] = {}
for _one, _other in _PAIRS:
  _OTHER_NAMES.setdefault(_one, _other)
  _OTHER_NAMES.setdefault(_other, _one)


def comparison(module: Module, function: ast.FunctionDef):
  """Compares wrongly: < for <=, == for !=, not in for in."""
  for node in nodes(function, ast.Compare):
    sides = [node.left, *node.comparators]
    for place, op in enumerate(node.ops):
      old, others = _COMPARISONS.get(type(op), ("", ()))
      for new in others:
        yield module.between(sides[place], sides[place + 1], old, new)


def off_by_one(module: Module, function: ast.FunctionDef):
  """Counts one too many or too few: numbers, ends of ranges, places."""
  for node in nodes(function, ast.Constant):
    if type(node.value) is int:
      yield module.put(node, str(node.value + 1))
      if node.value:
        yield module.put(node, str(node.value - 1))
  for node in nodes(function, ast.Call):
    if _name(node.func) == "range":
      last = node.args[min(1, len(node.args) - 1)]
      for sign in "+-":
        yield module.put(last, f"{module.source(last)} {sign} 1")
  for node in nodes(function, ast.Subscript):
    if isinstance(node.slice, ast.Name):
      for sign in "+-":
        yield module.put(node.slice, f"{node.slice.id} {sign} 1")


def operator(module: Module, function: ast.FunctionDef):
  """Calculates wrongly: - for +, % for //, also in assignments."""
  for node in nodes(function, ast.BinOp, ast.AugAssign):
    old, others = _OPERATORS.get(type(node.op), ("", ()))
    is_binary = isinstance(node, ast.BinOp)
    left = node.left if is_binary else node.target
    right = node.right if is_binary else node.value
    for new in others:
      yield module.between(left, right, old, new)


def connective(module: Module, function: ast.FunctionDef):
  """Writes `and` for `or`, or the other way round."""
  for node in nodes(function, ast.BoolOp):
    old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in itertools.pairwise(node.values):
      yield module.between(left, right, old, new)


def arguments(module: Module, function: ast.FunctionDef):
  """Swaps two neighbouring arguments of a call."""
  for node in nodes(function, ast.Call):
    for left, right in itertools.pairwise(node.args):
      yield _swapped(module, left, right)


def operands(module: Module, function: ast.FunctionDef):
  """Swaps the sides of - / // %, and the values of a tuple that returns."""
  for node in nodes(function, ast.BinOp):
    if isinstance(node.op, (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod)):
      yield _swapped(module, node.left, node.right)
  for node in nodes(function, ast.Tuple):
    for left, right in itertools.pairwise(node.elts):
      yield _swapped(module, left, right)


def callee(module: Module, function: ast.FunctionDef):
  """Calls another function: of the module, or max for min, rstrip for strip."""
  for node in nodes(function, ast.Call):
    name = _name(node.func)
    if name in module.functions:
      count = len(module.functions[name].args.args)
      for other, definition in module.functions.items():
        if other != name and len(definition.args.args) == count:
          yield module.put(node.func, other)
    elif name in _OTHER_NAMES:
      yield module.put(node.func, _OTHER_NAMES[name])
    elif isinstance(node.func, ast.Attribute):
      other = _OTHER_NAMES.get(node.func.attr)
      if other:
        end = module.span(node.func)[1]
        yield ((end - len(node.func.attr), end, other),)


def key(module: Module, function: ast.FunctionDef):
  """Looks up another key: a constant of the function, or a variable."""
  keys = []
  for node in nodes(function, ast.Subscript):
    keys.append(node.slice)
  for node in nodes(function, ast.Call):
    is_method = isinstance(node.func, ast.Attribute)
    if is_method and node.func.attr in ("get", "setdefault"):
      keys.append(node.args[0])
  texts = [x for x in keys if isinstance(x, ast.Constant)]
  texts = [x for x in texts if isinstance(x.value, str)]
  names = variables(function)
  for node in keys:
    if isinstance(node, ast.Name):
      others = [x for x in names if x != node.id]
    elif node in texts:
      others = [module.source(x) for x in texts if x.value != node.value]
    else:
      others = []
    for other in dict.fromkeys(others):
      yield module.put(node, other)


def variable(module: Module, function: ast.FunctionDef):
  """Reads the variable that was assigned before or after the right one."""
  names = variables(function)
  for node in nodes(function, ast.Name):
    if isinstance(node.ctx, ast.Load) and node.id in names:
      place = names.index(node.id)
      for other in names[max(0, place - 1) : place + 2]:
        if other != node.id:
          yield module.put(node, other)


def condition(module: Module, function: ast.FunctionDef):
  """Negates a condition, or forgets its `not`."""
  tests = [x.test for x in nodes(function, ast.If, ast.IfExp, ast.While)]
  for node in nodes(function, ast.comprehension):
    tests += node.ifs
  for test in tests:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
      yield module.put(test, module.source(test.operand))
    elif isinstance(test, (ast.Name, ast.Call)):
      yield module.put(test, f"not {module.source(test)}")
    elif not isinstance(test, ast.Compare):
      yield module.put(test, f"not ({module.source(test)})")


def branch(module: Module, function: ast.FunctionDef):
  """Leaves out a branch: an `if` as a whole, or what comes after it."""
  for node in nodes(function, ast.If):
    first, end = module.lines(node, node)
    if node.orelse:
      yield ((module.lines(node, node.body[-1])[1], end, ""),)
    elif not module.source(node).startswith("elif"):
      yield ((first, end, _instead(node, function)),)


def initial_value(module: Module, function: ast.FunctionDef):
  """Begins with another value: 1 for 0, a space for nothing, True for False."""
  values = {0: ("1", "-1"), 1: ("0",), "": ('" "',), None: ("0",)}
  for node in nodes(function, ast.Assign):
    first = node.value
    if isinstance(first, ast.Constant):
      if type(first.value) is bool:
        yield module.put(first, str(not first.value))
      else:
        for other in values.get(first.value, ()):
          yield module.put(first, other)
    elif isinstance(first, ast.List) and len(first.elts) == 1:
      yield module.put(first, "[]")
    elif isinstance(first, ast.Subscript) and module.source(first.slice) == "0":
      yield module.put(first.slice, "-1")


def early_return(module: Module, function: ast.FunctionDef):
  """Returns within a loop what is to be returned after it, or breaks off."""
  for block in blocks(function):
    for loop, after in itertools.pairwise(block):
      if isinstance(loop, (ast.For, ast.While)) and isinstance(
        after, ast.Return
      ):
        body = loop.body[-1]
        end = module.lines(body, body)[1]
        indent = " " * body.col_offset
        text = f"{indent}{module.source(after)}\n"
        yield ((end, end, text), (*module.lines(after, after), ""))
  for node in nodes(function, ast.Continue):
    yield module.put(node, "break")


def statement(module: Module, function: ast.FunctionDef):
  """Forgets a statement."""
  simple = (ast.Assign, ast.AugAssign, ast.Expr, ast.Continue)
  for block in blocks(function):
    for node in block:
      if isinstance(node, simple) and not _is_docstring(node):
        text = "" if len(block) > 1 else " " * node.col_offset + "pass\n"
        yield ((*module.lines(node, node), text),)


def slicing(module: Module, function: ast.FunctionDef):
  """Forgets where a slice begins, ends or in what steps it goes."""
  for node in nodes(function, ast.Slice):
    parts = [
      module.source(x) if x else "" for x in (node.lower, node.upper, node.step)
    ]
    for place, part in enumerate(parts):
      if part:
        left = [x if i != place else "" for i, x in enumerate(parts)]
        yield module.put(node, ":".join(left if left[2] else left[:2]))


def negation(module: Module, function: ast.FunctionDef):
  """Forgets a sign, or a `not` that is no condition's."""
  for node in nodes(function, ast.UnaryOp):
    yield module.put(node, module.source(node.operand))


def keyword(module: Module, function: ast.FunctionDef):
  """Forgets the last argument of a call, where it is not the only one."""
  for node in nodes(function, ast.Call):
    parts = [*node.args, *node.keywords]
    if len(parts) > 1:
      before, last = parts[-2:]
      yield ((module.span(before)[1], module.span(last)[1], ""),)


MUTATORS: Mapping[str, Mutator] = {
  x.__name__: x
  for x in (
    comparison,
    off_by_one,
    operator,
    connective,
    arguments,
    operands,
    callee,
    key,
    variable,
    condition,
    branch,
    initial_value,
    early_return,
    statement,
    slicing,
    negation,
    keyword,
  )
}


def mutants(text: str) -> list[Mutant]:
  """Returns all mutants of a module that can be parsed, each text once."""
  module = Module(text)
  found: dict[str, Mutant] = {}
  for name, function in module.functions.items():
    first, end = module.span(function)
    behind = len(text) - end
    known = ast.dump(ast.parse(text[first:end]))
    for mutator, mutate in MUTATORS.items():
      for edits in mutate(module, function):
        changed = module.apply(edits)
        try:
          # Names of functions differ, so no two of them have the same tree.
          tree = ast.dump(ast.parse(changed[first : len(changed) - behind]))
        except SyntaxError:
          continue
        if tree != known:
          found.setdefault(tree, Mutant(name, mutator, edits))
  return list(found.values())


def _instead(node: ast.stmt, function: ast.FunctionDef) -> str:
  """What stands instead of a statement: nothing, or `pass` if it is alone."""
  for block in blocks(function):
    if block == [node]:
      return " " * node.col_offset + "pass\n"
  return ""


def _is_docstring(node: ast.stmt) -> bool:
  return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _name(node: ast.expr) -> str:
  return node.id if isinstance(node, ast.Name) else ""


def _swapped(
  module: Module, left: ast.expr, right: ast.expr
) -> tuple[Edit, ...]:
  return (
    *module.put(left, module.source(right)),
    *module.put(right, module.source(left)),
  )
