# SPDX-License-Identifier: Apache-2.0
"""Finds the dataclass fields that a package reads, without running it.

Names alone do not tell: many classes have a field "path". So every variable
and attribute gets the set of classes that it may hold: from its annotation,
from assigned values, and from the arguments of callers. `x.field` is then a
read of that field of each class that x may hold. A container counts as its
contents. getattr with a computed name is followed where the name has a fixed
part, or where the caller lists the possible names.

A field that is read through a variable of no known class counts as unread:
annotate the parameter then.
"""

from __future__ import annotations

import ast
import builtins
import copy
import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

Reads = set[tuple[type, str]]
# Methods of containers that return their contents.
_GETTERS = ("get", "items", "pop", "values")
_KEEPS_TYPE = (dataclasses.replace, copy.copy, copy.deepcopy)


def find_reads(
  sources: Mapping[str, str],
  classes: Collection[type],
  computed: Mapping[type, Collection[str]],
) -> Reads:
  """Returns (class, field) of all reads.

  Reads in a class's own `__post_init__` do not count: a field that is only
  checked is unread.

  Args:
    sources: {module name: text} of importable modules.
    classes: dataclasses whose fields are looked for.
    computed: fields that getattr(x, name) may mean, by class of x.
  """
  facts = _Facts(sources, classes, computed)
  known = -1
  while facts.count() > known:
    known = facts.count()
    for name, tree in facts.trees.items():
      _Visitor(facts, name).visit(tree)
  return facts.reads


class _Facts:
  """All facts known so far, by (module, qualified name); they only grow."""

  def __init__(self, sources, classes, computed):
    self.trees = {name: ast.parse(text) for name, text in sources.items()}
    self.names = {x: vars(importlib.import_module(x)) for x in sources}
    self.classes, self.computed = set(classes), computed
    self.reads: Reads = set()
    self.holds: dict[tuple[str, str], set[type]] = {}
    self.functions: dict[tuple[str, str], ast.FunctionDef] = {}
    for module, tree in self.trees.items():
      for name, node in _definitions(tree, ""):
        if isinstance(node, ast.FunctionDef):
          self.functions[module, name] = node
        else:
          self.add(module, name, self.annotated(module, node.annotation))

  def count(self) -> int:
    return len(self.reads) + sum(map(len, self.holds.values()))

  def add(self, module: str, name: str, found: set[type]) -> None:
    self.holds.setdefault((module, name), set()).update(found)

  def annotated(self, module: str, node: ast.expr | None) -> set[type]:
    """Returns all of the given classes that an annotation names."""
    nodes = ast.walk(node) if node else ()
    found = (self.object(module, x) for x in nodes)
    return {x for x in found if inspect.isclass(x) and self.is_ours(x)}

  def is_ours(self, thing: Any) -> bool:
    return getattr(thing, "__module__", "") in self.trees

  def object(self, module: str, node: ast.AST) -> Any:
    """Returns the object that a dotted name means in a module, or None."""
    if isinstance(node, ast.Name):
      missing = getattr(builtins, node.id, None)
      return self.names[module].get(node.id, missing)
    if isinstance(node, ast.Attribute):
      owner = self.object(module, node.value)
      if inspect.ismodule(owner) or inspect.isclass(owner):
        return getattr(owner, node.attr, None)
    return None

  def attribute(self, cls: type, name: str) -> set[type]:
    """Returns what `x.name` may hold where x holds `cls`; notes the read."""
    found: set[type] = set()
    for other in self.conforming(cls):
      found |= self.attribute(other, name)
    for base in inspect.getmro(cls):
      key = base.__module__, f"{base.__qualname__}.{name}"
      found |= self.holds.get(key, set())
      if key in self.functions:
        # Right for a property; the value of a method itself is never asked for.
        found |= self.annotated(key[0], self.functions[key].returns)
      if base in self.classes and key in self.holds:
        self.reads.add((base, name))
    return found

  def conforming(self, cls: type) -> Iterator[type]:
    """Yields the dataclasses that have all members of a protocol."""
    if getattr(cls, "_is_protocol", False):
      wanted = set(cls.__annotations__)
      for other in self.classes:
        if wanted <= {field.name for field in dataclasses.fields(other)}:
          yield other


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Any]]:
  """Yields functions and annotated names with their qualified names."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.FunctionDef):
      yield prefix + child.name, child
      yield from _definitions(child, f"{prefix}{child.name}.<locals>.")
    elif isinstance(child, ast.ClassDef):
      yield from _definitions(child, f"{prefix}{child.name}.")
    elif isinstance(child, ast.AnnAssign) and isinstance(
      child.target, ast.Name
    ):
      yield prefix + child.target.id, child
    else:
      yield from _definitions(child, prefix)


class _Visitor(ast.NodeVisitor):
  """Visits a module once and adds the facts that follow from known ones."""

  def __init__(self, facts: _Facts, module: str):
    self._facts, self._module = facts, module
    self._scope = ""
    self._class: type | None = None

  def visit_ClassDef(self, node):
    outer = self._scope, self._class
    self._class = self._facts.object(self._module, ast.Name(node.name))
    self._scope += f"{node.name}."
    self.generic_visit(node)
    self._scope, self._class = outer

  def visit_FunctionDef(self, node):
    if node.name == "__post_init__" and self._class in self._facts.classes:
      return
    outer = self._scope, self._class
    self._scope += f"{node.name}.<locals>."
    parameters = _parameters(node)
    for parameter in parameters:
      types = self._facts.annotated(self._module, parameter.annotation)
      self._facts.add(self._module, self._scope + parameter.arg, types)
    if self._class and parameters:
      name = self._scope + parameters[0].arg
      self._facts.add(self._module, name, {self._class})
    self._class = None
    self.generic_visit(node)
    self._scope, self._class = outer

  def visit_Return(self, node):
    function = self._scope.removesuffix("<locals>.") + "<return>"
    self._facts.add(self._module, function, self._types(node.value))
    self.generic_visit(node)

  def visit_Assign(self, node):
    for target in node.targets:
      self._bind(target, node.value)
    self.generic_visit(node)

  def visit_NamedExpr(self, node):
    self._bind(node.target, node.value)
    self.generic_visit(node)

  def visit_For(self, node):
    self._bind(node.target, node.iter)
    self.generic_visit(node)

  def visit_comprehension(self, node):
    self._bind(node.target, node.iter)
    self.generic_visit(node)

  def visit_withitem(self, node):
    if node.optional_vars:
      self._bind(node.optional_vars, node.context_expr)
    self.generic_visit(node)

  def visit_Attribute(self, node):
    if isinstance(node.ctx, ast.Load):
      self._types(node)
    self.generic_visit(node)

  def visit_Call(self, node):
    self._types(node)
    self.generic_visit(node)

  def _bind(self, target, value):
    """Notes that a target holds a value or parts of it."""
    if isinstance(target, ast.Name):
      self._facts.add(self._module, self._scope + target.id, self._types(value))
    elif isinstance(target, ast.Attribute):
      for cls in self._types(target.value):
        name = f"{cls.__qualname__}.{target.attr}"
        self._facts.add(cls.__module__, name, self._types(value))
    elif isinstance(target, (ast.Tuple, ast.List)):
      values = getattr(value, "elts", ())
      if len(values) != len(target.elts):
        values = [value] * len(target.elts)
      for part, of_part in zip(target.elts, values, strict=True):
        self._bind(part, of_part)

  def _types(self, node: ast.AST | None) -> set[type]:
    """Returns the given classes that an expression's value may have."""
    facts = self._facts
    if isinstance(node, ast.Name):
      return set().union(
        *(
          facts.holds.get((self._module, scope + node.id), set())
          for scope in _scopes(self._scope)
        )
      )
    if isinstance(node, ast.Attribute):
      held = self._types(node.value)
      return set().union(*(facts.attribute(x, node.attr) for x in held))
    if isinstance(node, ast.Call):
      return self._called(node)
    if isinstance(node, (ast.Subscript, ast.Starred, ast.NamedExpr)):
      return self._types(node.value)
    if isinstance(node, ast.expr) and not isinstance(node, ast.Lambda):
      # A container, condition or the like may hold all of its parts.
      children = ast.iter_child_nodes(node)
      return set().union(*map(self._types, children))
    return set()

  def _called(self, node):
    """Returns the classes of a call's result; notes its arguments."""
    facts = self._facts
    thing = facts.object(self._module, node.func)
    if thing is getattr:
      return self._getattr(*node.args[:2])
    if thing is functools.partial:
      inner = ast.Call(node.args[0], node.args[1:], node.keywords)
      return self._called(inner)
    if thing in _KEEPS_TYPE or getattr(thing, "__module__", "") == "builtins":
      return set().union(*map(self._types, node.args))
    returned: set[type] = set()
    for module, name, is_method in self._functions(node.func, thing):
      self._pass(node, module, name, is_method)
      definition = facts.functions[module, name]
      returned |= facts.annotated(module, definition.returns) or (
        facts.holds.get((module, f"{name}.<return>"), set())
      )
    if inspect.isclass(thing) and facts.is_ours(thing):
      returned.add(thing)
    if isinstance(node.func, ast.Attribute) and node.func.attr in _GETTERS:
      returned |= self._types(node.func.value)
    return returned

  def _functions(self, func, thing) -> Iterator[tuple[str, str, bool]]:
    """Yields (module, qualified name, is bound) of possible callees."""
    known = self._facts.functions
    if inspect.isclass(thing):
      thing = getattr(thing, "__init__", None)
      key = _key(thing)
      if key in known:
        yield *key, True
    elif thing is not None:
      key = _key(inspect.unwrap(thing) if callable(thing) else thing)
      if key in known:
        yield *key, False
    elif isinstance(func, ast.Name):
      for scope in _scopes(self._scope):
        if (self._module, scope + func.id) in known:
          yield self._module, scope + func.id, False
    elif isinstance(func, ast.Attribute):
      for cls in self._types(func.value):
        for base in inspect.getmro(cls):
          key = base.__module__, f"{base.__qualname__}.{func.attr}"
          if key in known:
            yield *key, True

  def _pass(self, call, module, name, is_method):
    parameters = _parameters(self._facts.functions[module, name])
    named = {x.arg for x in parameters}
    pairs = [
      (parameter.arg, value)
      for parameter, value in zip(
        parameters[is_method:], call.args, strict=False
      )
    ]
    pairs += [(x.arg, x.value) for x in call.keywords if x.arg in named]
    for parameter, value in pairs:
      key = f"{name}.<locals>.{parameter}"
      self._facts.add(module, key, self._types(value))

  def _getattr(self, value, name):
    """Returns getattr's classes; an f-string means all fields that match."""
    found: set[type] = set()
    for cls in self._types(value):
      fields = _meant(name, cls, self._facts.computed.get(cls, ()))
      for field in fields:
        found |= self._facts.attribute(cls, field)
    return found


def _meant(name: ast.expr, cls: type, computed: Collection[str]):
  if isinstance(name, ast.Constant):
    return [name.value]
  if not isinstance(name, ast.JoinedStr) or not dataclasses.is_dataclass(cls):
    return computed
  pattern = "".join(
    re.escape(x.value) if isinstance(x, ast.Constant) else ".*"
    for x in name.values
  )
  if not pattern.replace(".*", ""):
    return computed
  fields = (field.name for field in dataclasses.fields(cls))
  return [x for x in fields if re.fullmatch(pattern, x)]


def _parameters(node: ast.FunctionDef) -> list[ast.arg]:
  return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _scopes(scope: str) -> Iterator[str]:
  """Yields a function's scope and the scopes around it, the module last."""
  parts = scope.split("<locals>.")
  for count in range(len(parts) - 1, 0, -1):
    yield "<locals>.".join([*parts[:count], ""])
  yield ""


def _key(thing: Any) -> tuple[str, str]:
  return getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "")
