# SPDX-License-Identifier: Apache-2.0
"""Problems with solutions that can be judged, and how stages take them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from srl_jax import progress
from srl_jax.data.templates import encode_segment
from srl_jax.domains import domains_of
from srl_jax.train.stage import Run
from srl_jax.trajectory import Trajectory


def judgeable(
  run: Run, split: str, *, by_environment: bool = True
) -> list[Trajectory]:
  """Returns the problems whose solutions can be judged; says what is left out.

  Args:
    run: the run.
    split: name of the split.
    by_environment: whether the environment of a domain judges too, and not only
      the comparison with a reference answer.
  """
  trajectories = getattr(run, split)
  domains = domains_of(trajectories)
  found = [
    trajectory
    for trajectory in trajectories
    if trajectory.answer is not None
    or (by_environment and domains[trajectory.domain].environment)
  ]
  if count := len(trajectories) - len(found):
    line = (
      f"{split}: {count:,} of {len(trajectories):,} problems have no reference "
      "answer and are left out where solutions are judged"
    )
    if line not in run.said:
      progress.warn(line)
    run.said.add(line)
  return found


def with_judgeable(run: Run, name: str, *, by_environment: bool = True) -> Run:
  """Returns the run of a stage that learns from judged solutions alone.

  Args:
    run: the run.
    name: of the stage, for messages.
    by_environment: see `judgeable`.

  Raises:
    ValueError: no problem is left to train or to validate on.
  """
  splits = {}
  for split in ("train", "valid"):
    splits[split] = judgeable(run, split, by_environment=by_environment)
    if not splits[split]:
      cure = ", or a domain with an environment" if by_environment else ""
      raise ValueError(
        f"{name} judges whole solutions, and none of the "
        f"{len(getattr(run, split))} problems of the {split} split has a "
        f"reference answer; use data with answers{cure}, and set "
        f"c.data.{split}_size"
      )
  return dataclasses.replace(run, **splits)


def with_room(
  run: Run, stage: str, split: str, turn_tokens: int, max_positions: int
) -> list[Trajectory]:
  """The problems of a split that leave room for a turn; says what is left out.

  Args:
    run: has the problems.
    stage: name of the stage, for messages.
    split: "train" or "valid".
    turn_tokens: most tokens of a turn, with its stem.
    max_positions: most tokens of problem and turn together.

  Raises:
    ValueError: none are left.
  """
  problems = getattr(run, split)
  needed = [
    turn_tokens
    + len(encode_segment(run.tokenizer, run.template.problem(t, "step")))
    for t in problems
  ]
  if min(needed) > max_positions:
    raise ValueError(
      f"{stage} needs a context of {min(needed)} tokens or more for the first "
      f"turn at a problem of the {split} split, and has {max_positions}; raise "
      f"c.{stage}.max_context_tokens, lower c.{stage}.max_new_tokens, or raise "
      "c.model.max_positions"
    )
  found = [
    t for t, n in zip(problems, needed, strict=True) if n <= max_positions
  ]
  if left := len(problems) - len(found):
    progress.say(
      f"{stage}: {left:,} of {len(problems):,} problems of the {split} split "
      "are left out: they leave no room for a turn"
    )
  return found


class Problems:
  """Takes problems endlessly; its only state is how many it has taken."""

  def __init__(self, problems: Sequence[Trajectory], seed: int, stage: str):
    """Begins with the first epoch.

    Args:
      problems: all of them; never empty.
      seed: of the run.
      stage: name of the stage, which has an order of its own.
    """
    self._problems, self._seed, self._stage = problems, seed, stage
    self._taken = 0
    self._identity = {
      "problems": len(problems),
      "problems_crc32": zlib.crc32(repr(list(problems)).encode()),
    }

  def take(self, count: int) -> tuple[list[Trajectory], list[int]]:
    """Returns the next problems, and the epoch of each."""
    numbers = range(self._taken, self._taken + count)
    self._taken += count
    places = [divmod(number, len(self._problems)) for number in numbers]
    orders = {epoch: self._order(epoch) for epoch, _ in places}
    problems = [self._problems[orders[epoch][place]] for epoch, place in places]
    return problems, [epoch for epoch, _ in places]

  def _order(self, epoch: int) -> np.ndarray:
    """The order of an epoch, which no other has."""
    stage = zlib.crc32(self._stage.encode())
    draws = np.random.default_rng([self._seed, stage, epoch])
    return draws.permutation(len(self._problems))

  def get_state(self) -> dict[str, Any]:
    """Returns a dict for JSON: the number taken, and what they are taken of."""
    return {**self._identity, "problems_taken": self._taken}

  def set_state(self, state: dict[str, Any]) -> None:
    """Restores what `get_state` returned.

    Raises:
      ValueError: the state is of other problems.
    """
    for name, value in self._identity.items():
      if state.get(name) != value:
        raise ValueError(
          f"cannot resume the stage {self._stage}: {name} of its data was "
          f"{state.get(name)!r} when it was saved and is {value!r} now; "
          "restore the old data (or, if they are the same, the version of "
          "srl_jax in the run's versions.json), or start in a new working "
          "directory"
        )
    self._taken = state["problems_taken"]
