# SPDX-License-Identifier: Apache-2.0
"""A domain as a user might write it: actions move a counter to a goal.

For the problem "from 2 to 0" the steps are "-" and "-". The environment answers
"1" to the first and "0" to the second.
"""

import os

from srl_jax.domains import Domain


def move(value, action):
  return value + {"+": 1, "-": -1}.get(action, 0)


def parse_problem(problem):
  """Returns (start, goal)."""
  _, start, _, goal = problem.split()
  return int(start), int(goal)


def moves_closer(action, target, *, context):
  """Returns 1 if the action moves the counter towards the goal, else 0."""
  del target
  assert context.domain == "toy_domain_for_tests:TOY"
  assert context.step == len(context.steps)
  value, goal = parse_problem(context.problem)
  for step in context.steps:
    value = move(value, step.text)
    assert str(value) == step.observation, context
  return float(abs(move(value, action) - goal) < abs(value - goal))


class Counter:
  """The environment of one episode."""

  def reset(self, trajectory):
    if trajectory.id == os.environ.get("TOY_FAILS_AT"):
      raise OSError("the counter is stuck")
    self._value, self._goal = parse_problem(trajectory.problem)

  def step(self, action):
    self._value = move(self._value, action)
    return str(self._value), self.solved()

  def solved(self):
    return self._value == self._goal

  def close(self):
    pass


TOY = Domain(
  name="toy",
  step_prompt="Move the counter by one.",
  solve_prompt="Move the counter to its goal.",
  steps_heading="Moves so far:",
  is_final=lambda action: action == "stop",
  reward="toy_domain_for_tests:moves_closer",
  environment=Counter,
)

NOT_A_DOMAIN = 3
