# SPDX-License-Identifier: Apache-2.0
"""Joins consecutive steps of an expert to one action.

An action is what one sample writes and one reward judges. The shorter actions
are, the denser are the rewards: with one step to an action every step has its
own, and with the whole solution in one action there is one reward for all of it
(the paper's ablation "one-step similarity").
"""

from __future__ import annotations

import dataclasses

from srl_jax.data.templates import titled_action
from srl_jax.trajectory import Step, Trajectory

_GAP = "\n\n"


def join_steps(trajectory: Trajectory, steps_per_action: int) -> Trajectory:
  """Returns the trajectory with so many steps in each action; 0 for all.

  The last action has the steps that are left. Titles and their numbers become
  part of the text, where the expert wrote them. An action is a target if one
  of its steps is, and its thought is known if those of all its steps are.

  Raises:
    ValueError: an environment answered a step.
  """
  steps = trajectory.steps
  size = steps_per_action or len(steps)
  if size == 1:
    return trajectory
  if any(step.observation is not None for step in steps):
    raise ValueError(
      f"{trajectory.id}: an environment answers each of its steps, so they "
      f"cannot be one action (data.steps_per_action={steps_per_action}); set "
      "data.steps_per_action to 1"
    )
  numbered = list(enumerate(steps, 1))
  actions = [
    _joined(numbered[at : at + size]) for at in range(0, len(steps), size)
  ]
  return dataclasses.replace(trajectory, steps=tuple(actions))


def _joined(numbered: list[tuple[int, Step]]) -> Step:
  steps = [step for _, step in numbered]
  thoughts = [step.thought for step in steps]
  is_known = all(thought is not None for thought in thoughts)
  return Step(
    text=_GAP.join(titled_action(step, number) for number, step in numbered),
    thought=_GAP.join(thoughts) if is_known else None,
    is_target=any(step.is_target for step in steps),
  )
