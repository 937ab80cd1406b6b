# SPDX-License-Identifier: Apache-2.0
"""Experts who repair planted bugs, in the grammar of actions.py.

Three styles. Each looks, edits and submits; what the sandbox would answer is
known without one, as calls were run by Trials, and edits are made by the
editor on a text in memory.

reproduce  runs the call of the issue, looks at its function and at those that
           this one calls, edits, runs the call again, then the tests
read       views the whole module, edits, runs the calls, then the tests
search     finds the function by grep, looks, edits, then runs the tests
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Literal

from srl_jax.domains.software.actions import Action, render
from srl_jax.domains.software.bugs.planted import Planted, told_of
from srl_jax.domains.software.bugs.sources import Check
from srl_jax.domains.software.editor import Editor
from srl_jax.trajectory import Step, Trajectory

Style = Literal["reproduce", "read", "search"]
STYLES: tuple[Style, ...] = ("reproduce", "read", "search")

_EDITOR = "str_replace_editor"
_ROOT = "/testbed"
_TESTS = "python -m pytest -q tests 2>&1 | grep -oE '[0-9]+ (failed|passed)'"
# What is plain between double quotes of bash.
_PLAIN = re.compile(r"[^\"$`\\!\n]*")
# What a mutator gets wrong, in an expert's words.
MISTAKES: Mapping[str, str] = {
  "comparison": "the comparison is wrong",
  "off_by_one": "it is off by one",
  "operator": "the operator is wrong",
  "connective": "`and` and `or` are confused",
  "arguments": "two arguments are swapped",
  "operands": "two operands are swapped",
  "callee": "the wrong function is called",
  "key": "it looks up the wrong key",
  "variable": "the wrong variable is used",
  "condition": "the condition is the wrong way round",
  "branch": "a branch is missing",
  "initial_value": "the initial value is wrong",
  "early_return": "the loop ends too early",
  "statement": "a statement is missing",
  "slicing": "a bound of the slice is missing",
  "negation": "a sign or a `not` is missing",
  "keyword": "the last argument of a call is missing",
}


class _MemoryEditor(Editor):
  """The editor on texts in memory, for what experts do without mistakes."""

  def __init__(self, files: dict[str, str]) -> None:
    super().__init__(sandbox=None)
    self.files = files

  def _look(self, path: str) -> tuple[str, str]:
    return "file", self.files[path]

  def _write(self, path: str, text: str) -> None:
    self.files[path] = text


def solve(planted: Planted, style: Style) -> Trajectory:
  """Returns an expert's trajectory, which repairs all bugs of a task.

  The observations are what RepairEnvironment answers in the dialect swe-smith.
  """
  steps = _Expert(planted).solve(style)
  return Trajectory(
    id=f"{planted.id}.{style}",
    domain="software",
    problem=planted.problem,
    steps=steps,
    metadata={
      "task": planted.id,
      "resolved": "true",
      "module": planted.source.name,
      "functions": ",".join(bug.function for bug in planted.bugs),
      "mutators": ",".join(bug.mutator for bug in planted.bugs),
      "style": style,
    },
  )


class _Expert:
  """Writes the steps, with the thoughts before them."""

  def __init__(self, planted: Planted) -> None:
    self.planted = planted
    self.repaired = 0
    self.path = f"{_ROOT}/{planted.source.path}"
    self.editor = _MemoryEditor({self.path: planted.texts[0]})
    self.steps: list[Step] = []

  @property
  def text(self) -> str:
    return self.editor.files[self.path]

  def solve(self, style: Style) -> tuple[Step, ...]:
    if style == "read":
      self.edit_tool("I read the module.", command="view")
    elif style == "search":
      self.grep()
    for place, check in enumerate(self.planted.shown_by):
      if style == "reproduce":
        self.call("I run the call of the issue.", check)
      if style != "read":
        self.look(check, place)
      self.edit(check)
      if style == "reproduce":
        self.call("I run the call again.", check)
    if style == "read":
      for check in self.planted.shown_by:
        self.call("I run the call of the issue.", check)
    count = len(self.planted.source.visible)
    self.bash("I run the tests.", _TESTS, f"{count} passed\n")
    self.do("All tests pass. The work is done.", Action("submit"), "")
    return tuple(self.steps)

  def do(self, thought: str, action: Action, observation: str) -> None:
    text = render(action)
    self.steps.append(Step(text, observation=observation, thought=thought))

  def bash(self, thought: str, command: str, observation: str) -> None:
    self.do(thought, Action("bash", (("command", command),)), observation)

  def edit_tool(self, thought: str, command: str, **parameters: str) -> None:
    values = {"command": command, "path": self.path, **parameters}
    action = Action(_EDITOR, tuple(values.items()))
    self.do(thought, action, self.editor.run(values))

  def result(self, check: Check):
    place = self.planted.source.checks.index(check)
    return self.planted.results[self.repaired][place]

  def call(self, thought: str, check: Check) -> None:
    name = self.planted.source.name
    lines = [
      f"from {name} import {check.function}",
      f"print(repr({check.call}))",
    ]
    program = "; ".join(lines)
    if _PLAIN.fullmatch(program):
      command = f'python -c "{program}" 2>&1 | tail -n 1'
    else:
      command = "\n".join(["python - <<'END' 2>&1 | tail -n 1", *lines, "END"])
    self.bash(thought, command, self.result(check).shown + "\n")

  def grep(self) -> None:
    lines = enumerate(self.text.splitlines(), 1)
    found = [f"{n}:{line}\n" for n, line in lines if line.startswith("def ")]
    command = f"grep -n '^def ' {self.planted.source.path}"
    self.bash("I look for the function.", command, "".join(found))

  def look(self, check: Check, place: int) -> None:
    """Looks at the call's function and those that it calls, to the bug."""
    tree = ast.parse(self.text)
    functions = {x.name: x for x in tree.body if isinstance(x, ast.FunctionDef)}
    waiting, thought = [check.function], f"I look at `{check.function}`."
    for name in waiting:
      node = functions[name]
      view_range = f"[{node.lineno}, {node.end_lineno}]"
      self.edit_tool(thought, "view", view_range=view_range)
      if name == self.planted.bugs[place].function:
        break
      called = [x.func for x in ast.walk(node) if isinstance(x, ast.Call)]
      for callee in called:
        other = callee.id if isinstance(callee, ast.Name) else ""
        if other in functions and other not in waiting:
          waiting.append(other)
      thought = f"`{name}` is right. I look at what it calls."

  def edit(self, check: Check) -> None:
    bug = self.planted.bugs[self.repaired]
    after = self.planted.texts[self.repaired + 1]
    old, new = replacement(self.text, after)
    self.edit_tool(
      f"`{check.call}` {told_of(self.result(check))} instead of"
      f" `{check.wanted}`. In `{bug.function}`, {MISTAKES[bug.mutator]}.",
      "str_replace",
      old_str=old,
      new_str=new,
    )
    self.repaired += 1


def replacement(before: str, after: str) -> tuple[str, str]:
  """Returns whole lines of `before` that stand there once, and their repair.

  As few lines as possible; more are taken above them, then below.
  """
  old, new = before.splitlines(), after.splitlines()
  first = 0
  while first < min(len(old), len(new)) and old[first] == new[first]:
    first += 1
  same = 0
  most = min(len(old), len(new)) - first
  while same < most and old[-1 - same] == new[-1 - same]:
    same += 1
  while True:
    lines = old[first : len(old) - same]
    text = "\n".join(lines)
    if text.strip() and before.count(text) == 1:
      return text, "\n".join(new[first : len(new) - same])
    if first and lines[:1] != [""]:
      first -= 1
    else:
      same -= 1
