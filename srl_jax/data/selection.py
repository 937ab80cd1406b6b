# SPDX-License-Identifier: Apache-2.0
"""Chooses among expert trajectories, and among the steps to learn of them.

Readers note in the metadata what is asked for here: "resolved" ("true" or
"false") and "task". Whatever is trained afterwards, SFT or SRL, with thoughts
or without, it sees the same choice.
"""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from srl_jax.domains.software.actions import ActionError, parse
from srl_jax.trajectory import Step, Trajectory


class Choice(Protocol):
  """What is chosen; DataConfig documents the fields."""

  resolved_only: bool
  per_task: int
  target_tools: str
  seed: int


class Selected(NamedTuple):
  """What is chosen of trajectories.

  Attributes:
    kept: the chosen ones, in their order.
    left_out: reason -> ids of the others.
    used: how many actions use a tool, by its name, if some are chosen by it.
  """

  kept: list[Trajectory]
  left_out: Mapping[str, tuple[str, ...]]
  used: Mapping[str, int]


def select(trajectories: Sequence[Trajectory], choice: Choice) -> Selected:
  """Chooses trajectories; the order of the rest stays as it is."""
  kept = list(trajectories)
  left_out: dict[str, tuple[str, ...]] = {}
  used: collections.Counter[str] = collections.Counter()

  def leave_out(reason: str, chosen: Sequence[Trajectory]) -> None:
    nonlocal kept
    stays = {t.id for t in chosen}
    others = tuple(t.id for t in kept if t.id not in stays)
    if others:
      left_out[reason] = others
    kept = list(chosen)

  if choice.resolved_only:
    outcomes = ResolvedFilter()
    kept = list(filter(outcomes, kept))
    left_out |= {k: tuple(ids) for k, ids in outcomes.left_out.items()}
  if choice.per_task:
    drawn = _drawn(kept, choice.per_task, choice.seed)
    leave_out(f"beyond {choice.per_task} of one task", drawn)
  if choice.target_tools and kept:
    kept = _with_targets(kept, choice.target_tools, used)
    acting = [t for t in kept if any(s.is_target for s in t.steps)]
    leave_out(f"no action of {choice.target_tools}", acting)
  return Selected(kept, left_out, used)


def check_used(tools: str, used: Mapping[str, int]) -> None:
  """Refuses names of tools that no action uses, for they may be misspelt.

  Args:
    tools: the names, separated by commas.
    used: how many actions use a tool, by its name.

  Raises:
    ValueError: names them, and what there is.
  """
  if unknown := _names(tools) - used.keys():
    most = collections.Counter(used).most_common(12)
    known = ", ".join(f"{name} ({n:,})" for name, n in most)
    raise ValueError(
      f"data.target_tools={tools!r} names {', '.join(sorted(unknown))}, which"
      f" no action uses; there are {known or 'no actions'}"
    )


def _names(tools: str) -> set[str]:
  return {name.strip() for name in tools.split(",")}


class ResolvedFilter:
  """A filter for resolved trajectories that remembers the others by reason.

  Readers use it record by record: most agents fail, and all of them
  together would fill the memory.
  """

  def __init__(self):
    self.left_out: dict[str, list[str]] = {}

  def __call__(self, trajectory: Trajectory) -> bool:
    """Whether a trajectory is resolved."""
    # Python writes "True", and a table's empty cell may become "".
    outcome = trajectory.metadata.get("resolved", "").strip().lower()
    if outcome == "true":
      return True
    reason = {
      "false": "not resolved",
      "": "does not say whether it is resolved",
    }.get(outcome, "metadata.resolved is neither 'true' nor 'false'")
    self.left_out.setdefault(reason, []).append(trajectory.id)
    return False


def _drawn(
  trajectories: Sequence[Trajectory], most: int, seed: int
) -> list[Trajectory]:
  """Draws at most so many trajectories of each task.

  Tasks are drawn from in the order in which they appear, all of them by
  random.sample from one generator, as SWE-smith draws its training set.
  Trajectories of no task count by their problem.
  """
  groups: dict[str, list[int]] = {}
  for index, trajectory in enumerate(trajectories):
    task = trajectory.metadata.get("task") or trajectory.problem
    groups.setdefault(task, []).append(index)
  draw = random.Random(seed)
  chosen: list[int] = []
  for group in groups.values():
    chosen += draw.sample(group, min(most, len(group)))
  return [trajectories[index] for index in sorted(chosen)]


def _with_targets(
  trajectories: Sequence[Trajectory],
  tools: str,
  used: collections.Counter[str],
) -> list[Trajectory]:
  """Keeps as targets only the steps that use these tools; counts all tools."""
  wanted = _names(tools)

  def chosen(step: Step) -> Step:
    names = tools_of(step)
    used.update(names)
    return dataclasses.replace(
      step, is_target=step.is_target and not wanted.isdisjoint(names)
    )

  return [
    dataclasses.replace(t, steps=tuple(map(chosen, t.steps)))
    for t in trajectories
  ]


def tools_of(step: Step) -> tuple[str, ...]:
  """Returns the names of what an action uses; () if a step is no action.

  They are the tool, and for SWE-agent's editor also the tool with its command:
  "str_replace_editor" and "str_replace_editor:view".
  """
  try:
    action = parse(step.text)
  except ActionError:
    return ()
  command = action.values.get("command")
  if action.name == "str_replace_editor" and command:
    return action.name, f"{action.name}:{command}"
  return (action.name,)
