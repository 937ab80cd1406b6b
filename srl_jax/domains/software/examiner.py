# SPDX-License-Identifier: Apache-2.0
"""Runs hidden tests inside of a sandbox and reports the outcome of each.

hidden_tests.py starts this file with `python -I`; nothing else of srl_jax is
there. It gets a JSON object on stdin and writes lines to stdout that begin with
a mark that only it and the parent know. First it takes away new code that would
hide a module of the environment, such as the code.py that agents leave behind.
Then the tests run in this process, and so does the code under test, which may
cheat. So an outcome counts only if

- pytest says that the test passed and no exception left any of its phases;
- tests that must fail did fail (controls.py), which shows that nobody has
  rewritten outcomes, assertions or pytest itself;
- the code under test has replaced no function of pytest or unittest, and has
  registered no plugin;
- no compared object of the code under test equals two different values.

Code that looks for this very file can still deceive it, and unittest.mock.ANY
passes, which tests use.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import json
import os
import pathlib
import re
import sys
import types
import unittest
from collections.abc import Callable
from typing import Any

_TEST_FOLDERS = {"tests", "test"}
_CHECKED = "_srl_checked"
_MANY = 1000
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# Nothing equals both values of a pair.
_PAIRS = (
  (object(), object()),
  (True, False),
  (-90_001, 90_002),
  (-90_001.5, 90_002.5),
  ("not this", "nor that"),
  (b"not this", b"nor that"),
  (["not this"], ["nor that"]),
  (("not this",), ("nor that",)),
  ({"not": 1}, {"nor": 2}),
)
_COMPARED = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
# Methods of TestCase that compare by == what they are given.
_KINDS = ("", "Almost", "Count", "Dict", "List", "Sequence", "Set", "Tuple")
_COMPARING = ("assertIn", *(f"assert{kind}Equal" for kind in _KINDS))
# Where pytest looks for what it calls; it knows plugins before the repository.
_WATCHED = re.compile(r"(_pytest|pluggy)\..*|unittest\.case")
_FUNCTIONS = (types.FunctionType, classmethod, staticmethod, property)


def belongs_to_tests(path: str) -> bool:
  """Whether a file of a repository is of its tests or sets them up.

  These count as they were, whatever an agent made of them. So does bytecode,
  which Python would take for that of a source that says something else.
  """
  *folders, name = path.split("/")
  return (
    bool(_TEST_FOLDERS & {*folders, name})
    or name == "conftest.py"
    or (name.endswith(".py") and name.startswith("test_"))
    or name.endswith(("_test.py", ".pyc"))
  )


def module_of(path: str) -> str:
  """The module that a file makes importable from a folder that has it."""
  return path.partition("/")[0].partition(".")[0]


def main() -> None:
  """Runs the tests that stdin asks for."""
  request = json.loads(sys.stdin.buffer.read())
  mark = request.pop("mark")
  channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
  sys.stdout.reconfigure(line_buffering=True)  # _exit() drops what is left.
  os.dup2(2, 1)  # What tests print goes where pytest's own output goes.
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

  def report(**fields: Any) -> None:
    channel.write(f"{mark} {json.dumps(fields)}\n")
    channel.flush()

  report(taken=_take_away(request["root"], {*request["modules"]}))
  try:
    # The pytest of the repository's environment, which srl_jax does not need.
    pytest = importlib.import_module("pytest")
    rewrite = importlib.import_module("_pytest.assertion.rewrite")
  except ImportError as error:
    report(problem=f"the sandbox's Python cannot import pytest: {error}")
    os._exit(0)
  _check_comparisons(rewrite, _make_checked(request["root"]))
  _examine(pytest, request, report)
  # Nothing that the code under test has left for the end is run.
  os._exit(0)


def _examine(pytest: Any, request: dict[str, Any], report: Any) -> None:
  root = request["root"]
  controls = pathlib.Path(request["controls"])
  controls.mkdir()
  file = controls / f"test_{controls.name}.py"
  file.write_text(request["failing"], encoding="utf-8")
  # Paths in settings are relative to it. It is gone before the tests begin.
  settings = pathlib.Path(root) / f"{controls.name}.ini"
  settings.write_text("[pytest]\n", encoding="utf-8")
  files = [x for x in request["files"] if os.path.exists(f"{root}/{x}")]
  report(absent=sorted({*request["files"]} - {*files}))
  arguments = [
    *("-c", str(settings), "--rootdir", root, "--confcutdir", root, "-q"),
    *("-p", "no:cacheprovider", "--continue-on-collection-errors"),
    "--tb=short",
    *request["arguments"],
    *files,
    str(file),
  ]
  os.chdir(root)
  plugin = _Plugin(root, controls, report)
  status = pytest.main(arguments, [plugin])
  if plugin.replaced:
    report(problem=f"the code under test replaces {plugin.replaced}")
  report(is_end=True, status=int(status))


class _Plugin:
  """Reports tests when all of their phases have run."""

  def __init__(self, root: str, controls: pathlib.Path, report: Any):
    self._root, self._controls, self._report = root, controls, report
    self._phases: dict[str, list[bool]] = {}
    self._of_controls: set[str] = set()
    self._functions: list[tuple[Any, str, Any]] = []
    self._may_register = True
    self.replaced = ""

  def pytest_load_initial_conftests(self, early_config: Any) -> None:
    """Makes the repository importable, after plugins have been looked for."""
    self._functions = _functions()
    early_config.inipath.unlink()
    # The repository may itself be pytest, or an installed plugin.
    plugins = early_config.pluginmanager.get_plugins()
    files = [_file_of(plugin) for plugin in plugins]
    self._may_register = any(x and _is_source(x, self._root) for x in files)
    for folder in (f"{self._root}/src", self._root):
      if os.path.isdir(folder) and folder not in sys.path:
        sys.path.insert(0, folder)

  def pytest_plugin_registered(self) -> None:
    """Notes that the code under test brings a plugin; its tests may do so."""
    if not self._may_register and _is_called_by_source(self._root):
      self.replaced = "pytest's plugins"

  def pytest_collectreport(self, report: Any) -> None:
    """Reports why a file has no tests."""
    if report.failed:
      self._report(unread=report.nodeid, why=str(report.longrepr))

  def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
    """Notes whether an exception left a phase."""
    phases = self._phases.setdefault(item.nodeid, [])
    phases.append(call.excinfo is None)
    # Before pytest 7, an item has no `path`.
    path = pathlib.Path(getattr(item, "path", None) or item.fspath)
    if self._controls in path.parents:
      self._of_controls.add(item.nodeid)

  def pytest_runtest_logreport(self, report: Any) -> None:
    """Notes the outcome of a phase; of subtests, only what is no pass."""
    phases = self._phases.setdefault(report.nodeid, [])
    is_passed = report.outcome == "passed"
    # Only reports of subtests have a context. Each comes after a call of
    # pytest_runtest_makereport, like those of phases.
    if hasattr(report, "context") and phases[-1:] == [True] and is_passed:
      phases.pop()
    else:
      phases.append(is_passed)

  def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
    """Reports a test: three phases, each without exception and passed."""
    phases = self._phases.pop(nodeid, [])
    for owner, name, function in self._functions:
      now = vars(owner).get(name)
      if now is not function and _is_examined(now, self._root):
        self.replaced = f"{owner.__name__}.{name}"
    self._report(
      name=nodeid,
      is_passed=phases == [True] * 6,
      is_control=nodeid in self._of_controls,
    )


def _take_away(root: str, own: set[str]) -> list[str]:
  """Removes code that is named like a module of the environment.

  Names in `own` are the repository's, whatever else is called so. An editable
  install may have its folders in sys.path, but they are not the environment's.
  """
  folders = sorted({os.path.realpath(x) for x in (root, f"{root}/src")})
  path = [x for x in sys.path if os.path.realpath(x) not in folders]
  taken = []
  for folder in filter(os.path.isdir, folders):
    for name in sorted(os.listdir(folder)):
      if module_of(name) not in own and _is_known(module_of(name), path):
        taken += _code(f"{folder}/{name}")
  for path in taken:
    os.remove(path)
  return [os.path.relpath(path, root) for path in taken]


def _is_known(name: str, path: list[str]) -> bool:
  """Whether a module is built in or in a folder of the path."""
  return name in sys.builtin_module_names or (
    name.isidentifier()
    and importlib.machinery.PathFinder.find_spec(name, path) is not None
  )


def _code(path: str) -> list[str]:
  """What can be imported of a file, a link or a folder."""
  if os.path.isdir(path) and not os.path.islink(path):
    names = sorted(os.listdir(path))
    return [x for name in names for x in _code(f"{path}/{name}")]
  suffixes = tuple(importlib.machinery.all_suffixes())
  return [path] if os.path.isdir(path) or path.endswith(suffixes) else []


def _is_source(file: str, root: str) -> bool:
  """Whether a file is neither of the tests nor installed."""
  path = os.path.relpath(file, root)
  return not path.startswith("..") and not belongs_to_tests(path)


def _is_examined(function: Any, root: str) -> bool:
  """Whether a function comes from the code under test, or may do so."""
  code = getattr(getattr(function, "__func__", function), "__code__", None)
  file = getattr(code, "co_filename", "")
  return not os.path.isfile(file) or _is_source(file, root)


def _file_of(plugin: Any) -> str | None:
  """The file of a module, or of an object's class."""
  module = sys.modules.get(type(plugin).__module__)
  return getattr(plugin, "__file__", getattr(module, "__file__", None))


def _is_called_by_source(root: str) -> bool:
  """Whether the hook's next caller of the repository is no test, or a thread.

  pytest itself has no caller of the repository, but _examine.
  """
  frame = sys._getframe(2)
  while frame is not None:
    file = frame.f_code.co_filename
    if file == __file__:
      return False
    if file.startswith(f"{root}/"):
      return _is_source(file, root)
    frame = frame.f_back
  return True


def _functions() -> list[tuple[Any, str, Any]]:
  """Functions by which tests run: the module or class, the name, the object."""
  modules = [m for name, m in sys.modules.items() if _WATCHED.fullmatch(name)]
  owners = {id(owner): owner for owner in modules}
  for module in modules:
    for value in vars(module).values():
      if isinstance(value, type) and value.__module__ == module.__name__:
        owners[id(value)] = value
  return [
    (owner, name, value)
    for owner in owners.values()
    for name, value in vars(owner).items()
    if isinstance(value, _FUNCTIONS)
  ]


class _Comparisons(ast.NodeTransformer):
  """Passes what an assertion compares by == or in through `checked`."""

  def visit_Assert(self, node: ast.Assert) -> ast.Assert:
    """Changes the comparisons of a statement, and no others."""
    node.test = _InAssert().visit(node.test)
    return node

  def visit_Call(self, node: ast.Call) -> ast.Call:
    """Changes those of self.assertTrue(..) as well."""
    if getattr(node.func, "attr", "") in ("assertTrue", "assertFalse"):
      return _InAssert().generic_visit(node)
    return self.generic_visit(node)


class _InAssert(ast.NodeTransformer):
  def visit_Compare(self, node: ast.Compare) -> ast.Compare:
    self.generic_visit(node)
    if any(isinstance(x, _COMPARED) for x in node.ops):
      node.left = _call(node.left)
      node.comparators = [_call(x) for x in node.comparators]
    return node


def _call(value: ast.expr) -> ast.Call:
  function = ast.copy_location(ast.Name(_CHECKED, ast.Load()), value)
  return ast.copy_location(ast.Call(function, [value], []), value)


def _make_checked(root: str) -> Callable[[Any], Any]:
  """Returns a function that returns its argument, or refuses it."""

  def is_foreign(kind: type) -> bool:
    """Whether a class is neither of the tests nor installed."""
    module = sys.modules.get(str(kind.__module__))
    known: Any = module
    for name in kind.__qualname__.split("."):
      known = getattr(known, name, None)
    file = getattr(module, "__file__", None)
    if known is not kind:  # It only says so, or is made within a function.
      return file is None or not belongs_to_tests(os.path.relpath(file, root))
    return file is not None and _is_source(file, root)

  def refuse(value: Any, depth: int) -> None:
    kind = type(value)
    if kind in _PLAIN or depth > 3:
      return
    if kind in (list, tuple, set, frozenset, dict):
      values = value.values() if kind is dict else ()
      for x in (*list(value)[:_MANY], *list(values)[:_MANY]):
        refuse(x, depth + 1)
      return
    owner = next(x for x in kind.__mro__ if "__eq__" in vars(x))
    if is_foreign(owner) and not _is_proxy(vars(owner)["__eq__"]):
      for one, other in _PAIRS:
        if _equals(value, one) and _equals(value, other):
          raise AssertionError(
            f"an object of {kind.__qualname__} equals different values"
          )

  def checked(value: Any) -> Any:
    refuse(value, 0)
    return value

  return checked


def _equals(value: Any, other: Any) -> bool:
  try:
    return (value == other) is True
  except Exception:
    return False


def _is_proxy(function: Any) -> bool:
  """Whether it is a mock's that nobody has set, and that notes its calls."""
  mock = sys.modules.get("unittest.mock")
  if mock is None or isinstance(function, mock.MagicProxy):
    return mock is not None
  # It has been called.
  return (
    isinstance(function, mock.MagicMock)
    and function._mock_return_value is mock.DEFAULT
    and getattr(function.side_effect, "__globals__", None) is vars(mock)
  )


def _check_comparisons(rewrite: Any, checked: Callable[[Any], Any]) -> None:
  """Checks what assertions compare, and those of unittest."""
  original = rewrite.rewrite_asserts

  def rewrite_asserts(module: ast.Module, *rest: Any, **more: Any) -> None:
    _Comparisons().visit(module)
    ast.fix_missing_locations(module)
    original(module, *rest, **more)

  def checking(method: Callable[..., None]) -> Callable[..., None]:
    def compare(self: Any, *values: Any, **named: Any) -> None:
      more = {name: checked(value) for name, value in named.items()}
      method(self, *map(checked, values), **more)

    return compare

  setattr(builtins, _CHECKED, checked)
  rewrite.rewrite_asserts = rewrite_asserts
  for name in _COMPARING:
    method = getattr(unittest.TestCase, name)
    setattr(unittest.TestCase, name, checking(method))


if __name__ == "__main__":
  main()
