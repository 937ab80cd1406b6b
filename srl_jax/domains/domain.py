# SPDX-License-Identifier: Apache-2.0
"""What a domain is: all that is particular to a field of problems.

A domain of one's own is a `Domain` in any importable module, and
c.data.domain="package.module:NAME". Data, templates, rewards and evaluation
take everything from it and never ask which one it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from srl_jax.rewards.answers import last_boxed
from srl_jax.trajectory import Trajectory


class Environment(Protocol):
  """Executes the actions of one episode; an agent's domain has a class of it.

  An instance is made when the episode's first action is there, and serves that
  episode only.
  """

  def reset(self, trajectory: Trajectory) -> None:
    """Prepares the state in which the problem is posed."""

  def step(self, action: str) -> tuple[str, bool]:
    """Executes an action; returns the observation and whether all is over."""

  def solved(self) -> bool:
    """Whether the problem is solved; asked once, when the episode has ended."""

  def close(self) -> None:
    """Frees what the episode held."""


def marks_answer(action: str) -> bool:
  """Whether an action marks a final answer, by #### or in a box."""
  return "####" in action or last_boxed(action) is not None


@dataclasses.dataclass(frozen=True)
class Domain:
  """A field of problems.

  Attributes:
    name: what messages call it.
    step_prompt: system prompt where the model is to write the next step.
    solve_prompt: system prompt where it is to write a whole solution.
    steps_heading: stands between the problem and the steps so far.
    is_final: tells of an action whether it ends the solution.
    verdict: name of the reward that says whether a solution is right: 1 if it
      is, less if not. It is a name as RewardConfig.function takes it, and the
      function gets the solution and the trajectory's answer; without an answer
      nothing is right.
    reward: name of the reward of single steps, as RewardConfig.function.
    environment: makes what executes the actions of an episode, which then says
      itself whether the problem is solved; None where nothing answers.
  """

  name: str
  step_prompt: str
  solve_prompt: str
  steps_heading: str = "Solution so far:"
  is_final: Callable[[str], bool] = marks_answer
  verdict: str = "answer"
  reward: str = "difflib"
  environment: Callable[[], Environment] | None = None
