# SPDX-License-Identifier: Apache-2.0
"""Repositories of look-up tables, and what actions do to them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from srl_jax.domains.randomness import Draws
from srl_jax.domains.splits import Split, split_of

VALUES = "wxyz"
KEYS = VALUES.upper()  # A value as an argument, or in front of its entry.
NAMES = "abcdefghijkl"
FUNCTIONS = 6


@dataclasses.dataclass(frozen=True)
class Repository:
  """A repository with wrong entries, and the issue that they cause.

  Attributes:
    call: the functions that the issue's call passes through, in order.
    argument: the argument of that call.
    passes_to: for each function the next one; "-" for one that returns.
    tables: for each function what it finds for each of VALUES, as one text.
    right: the tables without the wrong entries.
    documented: for each function what it should find in the call.
  """

  call: str
  argument: str
  passes_to: Mapping[str, str]
  tables: Mapping[str, str]
  right: Mapping[str, str]
  documented: Mapping[str, str]

  @property
  def problem(self) -> str:
    """The issue: "bWzy" says that b(w) gives z, and y would be right."""
    got, wanted = execute(self, self.tables), self.documented[self.call[-1]]
    return self.call[0] + self.argument.upper() + got + wanted

  @property
  def text(self) -> str:
    """Everything about the repository, by which its split is found."""
    return self.problem + "".join(
      look(self, self.tables, n) for n in self.names
    )

  @classmethod
  def from_json(cls, text: str) -> Repository:
    """Reads what `to_json` wrote."""
    return cls(**json.loads(text))

  def to_json(self) -> str:
    """Returns everything about the repository as one line."""
    return json.dumps(dataclasses.asdict(self))

  @property
  def names(self) -> str:
    """All functions, in the order of the alphabet."""
    return "".join(sorted(self.tables))


def found(table: str, argument: str) -> str:
  """Returns what a table gives for an argument."""
  return table[VALUES.index(argument)]


def edited(table: str, argument: str, value: str) -> str:
  """Returns the table with one entry changed."""
  at = VALUES.index(argument)
  return table[:at] + value + table[at + 1 :]


def execute(repository: Repository, tables: Mapping[str, str]) -> str:
  """Returns what the issue's call gives with these tables."""
  value = repository.argument
  for name in repository.call:
    value = found(tables[name], value)
  return value


def look(repository: Repository, tables: Mapping[str, str], name: str) -> str:
  """Returns what a look at a function shows."""
  pairs = zip(KEYS, tables[name], strict=True)
  table = "".join(key + value for key, value in pairs)
  return f"{repository.passes_to[name]}{table}.{repository.documented[name]}"


def files(repository: Repository, tables: Mapping[str, str]) -> dict[str, str]:
  """Returns the repository as Python files: one per function, and check.py.

  `python check.py` makes the call of the issue and prints what it gives.
  """
  modules = {}
  for name in repository.names:
    callee = repository.passes_to[name]
    table = dict(zip(VALUES, tables[name], strict=True))
    lines = [
      f'"""In the call of the issue, {name} finds '
      f'{repository.documented[name]}."""',
      *([] if callee == "-" else ["", f"import {callee}"]),
      "",
      f"TABLE = {table}",
      "",
      "",
      f"def {name}(argument):",
      "  found = TABLE[argument]",
      "  return found"
      if callee == "-"
      else f"  return {callee}.{callee}(found)",
    ]
    modules[f"{name}.py"] = "\n".join(lines) + "\n"
  first = repository.call[0]
  modules["check.py"] = (
    f"import {first}\n\nprint({first}.{first}({repository.argument!r}))\n"
  )
  return modules


class Interpreter:
  """The environment of one repository, in plain Python.

  Attributes:
    repository: the repository as the issue found it.
    tables: the tables as they are now.
    is_submitted: whether the work was submitted.
  """

  def __init__(self, repository: Repository):
    self.repository = repository
    self.tables = dict(repository.tables)
    self.is_submitted = False

  def step(self, action: str) -> tuple[str, bool]:
    """Executes an action; returns (observation, whether the episode ends)."""
    match list(action):
      case ["."]:
        self.is_submitted = True
        return ".", True
      case ["!"]:
        return execute(self.repository, self.tables), False
      case ["?", name] if name in self.tables:
        return look(self.repository, self.tables, name), False
      case [name, "=", key, value] if (
        name in self.tables and key in KEYS and value in VALUES
      ):
        self.tables[name] = edited(self.tables[name], key.lower(), value)
        return "-", False
    return "E", False

  def wrong_entries(self) -> int:
    """Returns how many entries differ from the right ones."""
    right = self.repository.right
    return sum(
      is_value != should_be
      for name, table in self.tables.items()
      for is_value, should_be in zip(table, right[name], strict=True)
    )

  def solved(self) -> bool:
    """Whether the work is submitted and every entry is right."""
    return self.is_submitted and not self.wrong_entries()


def _draw(draws: Draws, length: int, bugs: tuple[int, ...]) -> Repository:
  """Draws a repository whose call has wrong entries at the places `bugs`."""
  names = draws.sample(NAMES, FUNCTIONS)
  call = names[:length]
  argument = draws.choice(VALUES)
  passes_to = dict(zip(call, call[1:] + "-", strict=True))
  right, documented, arguments = {}, {}, {}
  value = argument
  for name in call:
    right[name] = draws.sample(VALUES, len(VALUES))
    arguments[name] = value
    documented[name] = value = found(right[name], value)
  for name in names[length:]:  # Not in the call: looks like the others.
    right[name] = draws.sample(VALUES, len(VALUES))
    passes_to[name] = draws.choice(names.replace(name, "-"))
    documented[name] = draws.choice(VALUES)
  tables = dict(right)
  for name in (call[place] for place in bugs):
    value = draws.choice(VALUES.replace(documented[name], ""))
    tables[name] = edited(tables[name], arguments[name], value)
  return Repository(call, argument, passes_to, tables, right, documented)


def draw(
  split: Split, seed: int, index: int, length: int, bugs: tuple[int, ...]
) -> Repository:
  """Draws a repository of a split.

  Args:
    split: the split.
    seed: seed of the repositories; another seed gives others.
    index: number of the repository.
    length: functions that the issue's call passes through, 1 to FUNCTIONS.
    bugs: places in the call of the wrong entries.
  """
  attempt = 0
  while True:
    draws = Draws("repair", split, seed, index, length, bugs, attempt)
    repository = _draw(draws, length, bugs)
    got, wanted = repository.problem[2:]
    # Two wrong entries may cancel each other; then there is no issue.
    if got != wanted and split_of(repository.text) == split:
      return repository
    attempt += 1
