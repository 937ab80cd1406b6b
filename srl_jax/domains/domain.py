# SPDX-License-Identifier: Apache-2.0
"""The Domain dataclass: all that is particular to a field of problems.

To add your own, put a `Domain` into any importable module and set
c.data.domain="package.module:NAME". Data, templates, rewards and evaluation
take everything from the domain and never ask which one it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from srl_jax.domains.randomness import Draws
from srl_jax.domains.suite import Suite
from srl_jax.rewards.answers import hash_mark, last_boxed
from srl_jax.trajectory import Trajectory


class Environment(Protocol):
  """Executes the actions of one episode; an agent's domain has such a class.

  An instance is made at the episode's first action and serves that episode
  only. Its methods are called from one thread. With `Domain.environment_waits`
  that is not the main one, and instances of other episodes act at the same time
  in other threads.
  """

  def reset(self, trajectory: Trajectory) -> None:
    """Prepares the problem's initial state."""

  def step(self, action: str) -> tuple[str, bool]:
    """Executes an action; returns (observation, whether the episode ends)."""

  def solved(self) -> bool | None:
    """Whether the problem is solved; asked once, when the episode has ended.

    None if nobody can tell, as when the machine has failed: the episode then
    counts neither as solved nor as unsolved.
    """

  def close(self) -> None:
    """Frees the episode's resources."""


def marks_answer(action: str) -> bool:
  """Whether an action marks a final answer, by #### or in a box."""
  return hash_mark(action) is not None or last_boxed(action) is not None


@dataclasses.dataclass(frozen=True)
class Domain:
  """A field of problems.

  Attributes:
    name: the domain's name in messages.
    step_prompt: system prompt that asks for the next step.
    solve_prompt: system prompt that asks for a whole solution.
    steps_heading: line between the problem and the steps so far.
    is_final: function that says whether an action ends the solution.
    verdict: name of the reward of whole solutions, as in RewardConfig.function.
      It gets the solution and the trajectory's answer; 1 means right, less
      means wrong. A solution of a trajectory without an answer is never right.
    reward: name of the reward of single steps, as in RewardConfig.function.
    environment: makes the Environment of an episode, which then decides
      instead of the verdict whether the problem is solved; None if the domain
      has no environment.
    environment_waits: whether an environment's calls take long, as where they
      run programs. Each environment then acts in a thread of its own, and the
      model goes on with other episodes. Time decides which of them are decoded
      together, so two runs may differ in the last bits. Otherwise the model
      waits, and a run is the same each time.
    suites: sets of problems to evaluate on, which are known by name.
    draw: draws a problem and an expert's steps from random numbers, under a
      given id, for data.format="drawn"; None where they make no problem. The
      environment fills in the observations. None if the domain has no such
      function.
  """

  name: str
  step_prompt: str
  solve_prompt: str
  steps_heading: str = "Solution so far:"
  is_final: Callable[[str], bool] = marks_answer
  verdict: str = "answer"
  reward: str = "difflib"
  environment: Callable[[], Environment] | None = None
  environment_waits: bool = False
  suites: tuple[Suite, ...] = ()
  draw: Callable[[Draws, str], Trajectory | None] | None = None
