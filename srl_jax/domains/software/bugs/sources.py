# SPDX-License-Identifier: Apache-2.0
"""Modules with their tests, read from the texts in functions/."""

from __future__ import annotations

import ast
import dataclasses
import functools
import pathlib
import re

_FOLDER = pathlib.Path(__file__).with_name("functions")
_LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"


@dataclasses.dataclass(frozen=True)
class Check:
  """One assertion that a call gives a value.

  Attributes:
    name: name of the test, such as test_gcd_2.
    function: the function that is called.
    call: the call, as text.
    wanted: what it should give, as `repr` writes it.
    assertion: the statement.
  """

  name: str
  function: str
  call: str
  wanted: str
  assertion: str


@dataclasses.dataclass(frozen=True)
class Source:
  """A module whose functions are right, and its tests.

  Attributes:
    name: the module's name.
    text: its text, indented by four spaces as most code is.
    checks: its tests, one for each assertion.
  """

  name: str
  text: str
  checks: tuple[Check, ...]

  @property
  def path(self) -> str:
    """The module's file in a repository."""
    return f"{self.name}.py"

  @property
  def tests_path(self) -> str:
    """The file of its tests in a repository."""
    return f"tests/test_{self.name}.py"

  @property
  def visible(self) -> tuple[Check, ...]:
    """The tests that the agent gets: every other one."""
    return self.checks[::2]

  def tests(self, checks: tuple[Check, ...]) -> str:
    """Returns a file of tests."""
    names = sorted({x.function for x in checks})
    lines = [f"from {self.name} import {', '.join(names)}"]
    for check in checks:
      body = check.assertion.replace("\n", "\n    ")
      lines.append(f"\n\ndef {check.name}():\n    {body}")
    return "\n".join(lines) + "\n"

  def files(self) -> dict[str, str]:
    """Returns the repository without bugs: texts by their paths."""
    return {
      ".gitignore": "__pycache__/\n",
      self.path: self.text,
      self.tests_path: self.tests(self.visible),
    }


def names() -> tuple[str, ...]:
  """Returns the names of all modules, sorted."""
  files = (path.stem for path in _FOLDER.glob("*_test.py"))
  return tuple(sorted(x.removesuffix("_test") for x in files))


@functools.cache
def read(name: str) -> Source:
  """Reads a module and its tests.

  Raises:
    ValueError: there is no such module, or its tests have another form.
  """
  if name not in names():
    raise ValueError(
      f"there is no module of functions {name!r}; use {', '.join(names())}"
    )
  text = (_FOLDER / f"{name}.py").read_text(encoding="utf-8")
  tests = (_FOLDER / f"{name}_test.py").read_text(encoding="utf-8")
  text = re.sub(r"(?m)^ +", lambda found: 2 * found[0], text)
  return Source(name, text.removeprefix(_LICENCE), checks_of(tests))


def checks_of(text: str) -> tuple[Check, ...]:
  """Returns the assertions in a file of tests, function by function.

  Raises:
    ValueError: one is not of the form `assert f(..) == literal`, or `is`.
  """
  checks = []
  for test in ast.parse(text).body:
    if not isinstance(test, ast.FunctionDef):
      continue
    for number, node in enumerate(test.body, 1):
      match node:
        case ast.Assert(
          test=ast.Compare(
            left=ast.Call(func=ast.Name(id=function)) as call,
            ops=[ast.Eq() | ast.Is()],
            comparators=[value],
          )
        ):
          wanted = repr(ast.literal_eval(value))
        case _:
          raise ValueError(
            f"{ast.unparse(node)!r} is no assertion that a call equals a value"
          )
      checks.append(
        Check(
          f"{test.name}_{number}",
          function,
          ast.unparse(call),
          wanted,
          ast.unparse(node),
        )
      )
  return tuple(checks)
