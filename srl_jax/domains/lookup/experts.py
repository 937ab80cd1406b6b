# SPDX-License-Identifier: Apache-2.0
"""Experts who repair repositories, and the student's pre-training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from srl_jax.domains.lookup.repository import (
  Interpreter,
  Repository,
  draw,
  found,
)
from srl_jax.domains.randomness import Draws
from srl_jax.domains.splits import Split
from srl_jax.trajectory import Step, Trajectory

HARD_CALL = 5  # Functions that the call of a hard issue passes through.
# Places in such a call of the two wrong entries. None is at the first place,
# none follows the other at once: a trace of one function finds neither.
HARD_BUGS = ((1, 3), (1, 4), (2, 4))

Style = Literal["reproduce", "read", "backward"]
STYLES: tuple[Style, ...] = ("reproduce", "read", "backward")


class _Expert:
  """Writes the steps of one style, with the thoughts before them."""

  def __init__(self, repository: Repository):
    self.repository = repository
    self.shell = Interpreter(repository)
    self.steps: list[Step] = []

  def do(self, thought: str, action: str) -> str:
    observation, _ = self.shell.step(action)
    self.steps.append(Step(action, observation=observation, thought=thought))
    return observation

  def look_through(self) -> None:
    for name in self.repository.call:
      self.do(name, f"?{name}")

  def trace(self) -> tuple[str, list[int]]:
    """Traces the call; returns (thought, wrong places)."""
    repository, thought, wrong = self.repository, "", []
    for place, name in enumerate(repository.call):
      argument = self.argument(place)
      value = found(self.shell.tables[name], argument)
      thought += name + argument.upper() + value + repository.documented[name]
      if value != repository.documented[name]:
        wrong.append(place)
    return thought, wrong

  def argument(self, place: int) -> str:
    if not place:
      return self.repository.argument
    return self.repository.documented[self.repository.call[place - 1]]

  def edit(self, thought: str, place: int) -> None:
    name = self.repository.call[place]
    value = self.repository.documented[name]
    self.do(thought, f"{name}={self.argument(place).upper()}{value}")


def solve(repository: Repository, style: Style) -> tuple[Step, ...]:
  """Returns an expert's steps, which repair the repository.

  Args:
    repository: the repository.
    style: "reproduce" runs the call first, edits from the first function to
      the last, and runs the call after each edit; "read" edits in the same
      order and runs the call at the end; "backward" edits from the last
      function to the first and runs the call at the end.
  """
  expert = _Expert(repository)
  wanted = repository.problem[-1]
  if style == "reproduce":
    expert.do("!", "!")
  expert.look_through()
  while True:
    # From the first function each time: nothing that the student is shown
    # says in which direction an expert edits.
    thought, wrong = expert.trace()
    if not wrong:
      break
    if style == "backward":
      expert.edit(thought, wrong[-1])
    else:
      # Four characters for each function, up to the first wrong one.
      expert.edit(thought[: 4 * (wrong[0] + 1)], wrong[0])
    if style == "reproduce" and expert.do("!", "!") == wanted:
      thought = ""
      break
  if style != "reproduce":
    expert.do(thought + "!", "!")
  expert.do(wanted + wanted, ".")
  return tuple(expert.steps)


def generate(split: Split, count: int, seed: int = 0) -> list[Trajectory]:
  """Returns trajectories on hard repositories, in all styles of the experts.

  Args:
    split: the split; no repository is in two of them.
    count: number of trajectories; a smaller count gives the first of them.
    seed: seed of the repositories; another seed gives others.
  """
  return [
    _trajectory(f"repair-{split}-{seed}-{index}", repository, style, steps)
    for index in range(count)
    for repository, style in [_draw_hard(split, seed, index)]
    for steps in [solve(repository, style)]
  ]


def _draw_hard(split: Split, seed: int, index: int) -> tuple[Repository, Style]:
  draws = Draws("hard", split, seed, index)
  bugs, style = draws.choice(HARD_BUGS), draws.choice(STYLES)
  return draw(split, seed, index, HARD_CALL, bugs), style


def _trajectory(
  name: str, repository: Repository, style: str, steps: tuple[Step, ...]
) -> Trajectory:
  return Trajectory(
    id=name,
    domain="lookup",
    problem=repository.problem,
    steps=steps,
    metadata={
      "repository": repository.to_json(),
      "style": style,
    },
  )


@dataclasses.dataclass(frozen=True)
class PretrainingConfig:
  """How well, and how badly, the student is taught before SRL.

  Easy issues pass through one to four functions, of which any number has a
  wrong entry; the student sees them repaired. In a hard issue, each edit
  traces the call to its end with probability `finish_probability`. Otherwise
  the thought stops after the first function of the trace, and the edit writes
  the entry that this function has already; then the student runs the call and
  submits, whatever it gives.

  Attributes:
    easy_fraction: share of easy issues.
    finish_probability: probability that an edit of a hard issue is traced.
  """

  easy_fraction: float = 0.6
  finish_probability: float = 0.08


def pretraining_examples(
  count: int, seed: int = 0, config: PretrainingConfig | None = None
) -> list[Trajectory]:
  """Returns the student's pre-training data, planted habit included.

  The repositories are from the split "pretrain". Thoughts are filled in.

  Args:
    count: number of examples; a smaller count gives the first of them.
    seed: seed of the examples; another seed gives others.
    config: the planted habit; by default PretrainingConfig().
  """
  config = config or PretrainingConfig()
  examples = []
  for index in range(count):
    draws = Draws("example", seed, index)
    style = draws.choice(STYLES)
    if draws.chance(config.easy_fraction):
      kind, length = "easy", 1 + draws.below(HARD_CALL - 1)
      places = draws.sample("0123"[:length], 1 + draws.below(length))
      bugs = tuple(sorted(map(int, places)))
    else:
      kind, length, bugs = "hard", HARD_CALL, draws.choice(HARD_BUGS)
    repository = draw("pretrain", seed, index, length, bugs)
    steps = solve(repository, style)
    if kind == "hard":
      steps = _hasty(repository, steps, draws, config)
    name = f"repair-example-{seed}-{index}"
    examples.append(_trajectory(name, repository, style, steps))
  return examples


def _hasty(
  repository: Repository,
  steps: tuple[Step, ...],
  draws: Draws,
  config: PretrainingConfig,
) -> tuple[Step, ...]:
  """Returns the steps up to a hasty edit, and how the student goes on."""
  for number, step in enumerate(steps):
    if "=" not in step.text or draws.chance(config.finish_probability):
      continue
    student = _Expert(repository)
    for before in steps[:number]:
      student.do(before.thought, before.text)
    entry = step.thought[:4]
    name, argument, _, documented = entry
    student.do(entry, f"{name}={argument}{documented}")
    gave = student.do("!", "!")
    student.do(gave + repository.problem[-1], ".")
    return tuple(student.steps)
  return steps


def make_splits(
  sizes: Mapping[str, int], seed: int
) -> dict[str, list[Trajectory]]:
  """Returns hard issues with the experts' steps, split by split."""
  return {split: generate(split, n, seed) for split, n in sizes.items()}


def make_student_splits(
  sizes: Mapping[str, int], seed: int
) -> dict[str, list[Trajectory]]:
  """Returns the student's pre-training data, with easy issues as a test.

  They say how fluent it is: what it fails there, no method has to teach it.
  """
  easy = PretrainingConfig(easy_fraction=1.0)
  return {
    "train": pretraining_examples(sizes["train"], 2 * seed),
    "valid": pretraining_examples(sizes["valid"], 2 * seed + 1),
    "test": pretraining_examples(sizes["test"], -1 - seed, easy),
    "pretrain": [],
  }
