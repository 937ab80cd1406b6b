# SPDX-License-Identifier: Apache-2.0
"""Tasks: modules with bugs that some of their tests find, and others do not."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from srl_jax.domains.randomness import Draws
from srl_jax.domains.software.bugs import sources
from srl_jax.domains.software.bugs.module import Module
from srl_jax.domains.software.bugs.mutators import Mutant, mutants
from srl_jax.domains.software.bugs.sources import Check, Source
from srl_jax.domains.software.bugs.trials import Result, Trials

# So many pairs in a row that are no task are all that there are.
_MOST_DRAWS = 2000
_ISSUES = (
  "{call} {gives}. It should give {wanted}.",
  "In {module}.py, {call} {gives}, but {wanted} is right.",
  "I expected {call} to give {wanted}, but it {gives}.",
)


@dataclasses.dataclass(frozen=True)
class Planted:
  """A module with one bug or several, in the order in which they are repaired.

  Attributes:
    source: the module without bugs.
    bugs: the bugs, each in a function of its own.
    shown_by: for each bug the test whose call the issue tells of.
    results: what the calls of the source's tests give, with all bugs first,
      then without the first bug, and so on, and at last without any.
    issue: number of the issue's wording.
  """

  source: Source
  bugs: tuple[Mutant, ...]
  shown_by: tuple[Check, ...]
  results: tuple[tuple[Result, ...], ...]
  issue: int

  @property
  def texts(self) -> tuple[str, ...]:
    """The module's text, in the states that `results` are of."""
    return tuple(
      variant(self.source, self.bugs[n:]) for n in range(len(self.bugs) + 1)
    )

  @property
  def id(self) -> str:
    """A name that says where the bugs are; equal for equal bugs."""
    digest = hashlib.sha256(self.texts[0].encode()).hexdigest()[:8]
    places = [f"{bug.function}.{bug.mutator}" for bug in self.bugs]
    return ".".join([self.source.name, *places, digest])

  @property
  def problem(self) -> str:
    """The issue: calls, what they give, and what they should give."""
    results = dict(zip(self.source.checks, self.results[0], strict=True))
    told = [
      _ISSUES[self.issue].format(
        call=f"`{check.call}`",
        module=self.source.name,
        gives=told_of(results[check]),
        wanted=f"`{check.wanted}`",
      )
      for check in self.shown_by
    ]
    return "The repository is in /testbed.\n\n" + "\n".join(told)

  @property
  def record(self) -> dict[str, Any]:
    """The task in a file of tasks, beside a folder `repositories`."""
    path, texts = self.source.path, self.texts
    results = zip(self.source.checks, self.results[0], strict=True)
    names: dict[bool, list[str]] = {False: [], True: []}
    for check, result in results:
      name = f"{self.source.tests_path}::{check.name}"
      names[result.is_right].append(name)
    return {
      "instance_id": self.id,
      "repository": f"repositories/{self.source.name}",
      "problem_statement": self.problem,
      "FAIL_TO_PASS": names[False],
      "PASS_TO_PASS": names[True],
      "test_files": {
        self.source.tests_path: self.source.tests(self.source.checks)
      },
      "bug_patch": _patch(path, texts[-1], texts[0]),
      "patch": _patch(path, texts[0], texts[-1]),
    }


def told_of(result: Result) -> str:
  """Says what a call gives."""
  verb = "fails with" if result.is_exception else "gives"
  return f"{verb} `{result.shown}`"


def variant(source: Source, bugs: Sequence[Mutant]) -> str:
  """Returns the text of a module with bugs."""
  edits = tuple(edit for bug in bugs for edit in bug.edits)
  return _module(source).apply(edits)


@functools.cache
def _module(source: Source) -> Module:
  return Module(source.text)


def is_valid(source: Source, results: Sequence[Result] | None) -> bool:
  """Whether a test fails, and one passes of a function that has such a test.

  Without the latter, nothing of the function would be right: that is seldom
  one small mistake, and says little about where it is.
  """
  if results is None:
    return False
  pairs = list(zip(source.checks, results, strict=True))
  wrong = {check.function for check, x in pairs if not x.is_right}
  return any(x.is_right and check.function in wrong for check, x in pairs)


class Planter:
  """Draws tasks.

  Attributes:
    single: all valid mutants with their results, by mutator and module.
  """

  def __init__(self, modules: Sequence[str], trials: Trials) -> None:
    """Tries all mutants of some modules."""
    self._trials = trials
    self.single: dict[str, list[tuple[Source, Mutant, tuple[Result, ...]]]]
    self.single = collections.defaultdict(list)
    self.right: dict[str, tuple[Result, ...]] = {}
    self.tried = collections.Counter[str]()
    for source in map(sources.read, modules):
      self.right[source.name] = tuple(self._run(source, ()) or ())
      for mutant in mutants(source.text):
        results = self._run(source, (mutant,))
        kind = self._kind(source, results)
        self.tried[kind] += 1
        if kind == "valid":
          self.single[mutant.mutator].append((source, mutant, tuple(results)))

  def draw(self, count: int, bugs: int, seed: int) -> Iterator[Planted]:
    """Yields different tasks, a mutator being as likely as any other.

    Args:
      count: most tasks to draw; fewer if there are no more.
      bugs: number of bugs of a task, 1 or 2.
      seed: another seed gives others, or another order.
    """
    draws = Draws("bugs", bugs, seed)
    tasks = self._singles(draws) if bugs == 1 else self._pairs(draws)
    for _, task in zip(range(count), tasks, strict=False):
      yield task

  def _singles(self, draws: Draws) -> Iterator[Planted]:
    left = {name: list(found) for name, found in self.single.items()}
    while left:
      name = draws.choice(list(left))
      source, mutant, results = left[name].pop(draws.below(len(left[name])))
      if not left[name]:
        del left[name]
      states = (results, self.right[source.name])
      yield self._planted(draws, source, (mutant,), states)

  def _pairs(self, draws: Draws) -> Iterator[Planted]:
    seen, misses = set(), 0
    while misses < _MOST_DRAWS:
      misses += 1
      name = draws.choice(list(self.single))
      source, first, _ = draws.choice(self.single[name])
      others = {
        name: kept
        for name, found in self.single.items()
        if (
          kept := [
            x
            for x in found
            if x[0] == source and x[1].function != first.function
          ]
        )
      }
      if not others:
        continue
      _, second, alone = draws.choice(others[draws.choice(list(others))])
      if (first, second) in seen or (second, first) in seen:
        continue
      seen.add((first, second))
      results = self._run(source, (first, second))
      if is_valid(source, results):
        states = (tuple(results), alone, self.right[source.name])
        task = self._planted(draws, source, (first, second), states)
        if task is not None:
          misses = 0
          yield task

  def _planted(
    self,
    draws: Draws,
    source: Source,
    bugs: tuple[Mutant, ...],
    states: tuple[tuple[Result, ...], ...],
  ) -> Planted | None:
    """The task; None if no call of the tests shows one of the bugs."""
    shown_by = []
    for number in range(len(bugs)):
      # It fails until this bug is repaired.
      candidates = [
        check
        for place, check in enumerate(source.checks)
        if not any(x[place].is_right for x in states[: number + 1])
        and states[number + 1][place].is_right
      ]
      if not candidates:
        return None
      shown_by.append(draws.choice(candidates))
    return Planted(
      source, bugs, tuple(shown_by), states, draws.below(len(_ISSUES))
    )

  def _run(
    self, source: Source, bugs: tuple[Mutant, ...]
  ) -> list[Result] | None:
    return self._trials.run(
      variant(source, bugs),
      [check.call for check in source.checks],
      [check.wanted for check in source.checks],
    )

  @staticmethod
  def _kind(source: Source, results: Sequence[Result] | None) -> str:
    if results is None:
      return "endless"
    if is_valid(source, results):
      return "valid"
    is_found = not all(x.is_right for x in results)
    return "all tests fail" if is_found else "no test fails"


def _patch(path: str, before: str, after: str) -> str:
  """A patch as git writes it."""
  lines = difflib.unified_diff(
    before.splitlines(keepends=True),
    after.splitlines(keepends=True),
    f"a/{path}",
    f"b/{path}",
  )
  return "".join([f"diff --git a/{path} b/{path}\n", *lines])
