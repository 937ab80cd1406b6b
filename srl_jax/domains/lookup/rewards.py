# SPDX-License-Identifier: Apache-2.0
"""Rewards of single repair actions that do not ask how similar they look."""

from __future__ import annotations

from srl_jax.domains.lookup.repository import Interpreter, Repository
from srl_jax.rewards import RewardContext


def same_action(action: str, target: str) -> float:
  """Returns 1 if the action is the expert's, else 0."""
  return float(action.strip() == target.strip())


def same_effect(action: str, target: str, *, context: RewardContext) -> float:
  """Returns 1 if the action brings the repair as far as the expert's, else 0.

  Both are executed in the state that the expert's earlier steps have led to.
  They must leave as many wrong entries behind, and show the same. So an edit
  that repairs another wrong entry than the expert's is as good.
  """
  effects = []
  for last in (action, target):
    repository = Repository.from_json(context.metadata["repository"])
    shell = Interpreter(repository)
    for step in context.steps:
      shell.step(step.text)
    observation, _ = shell.step(last.strip())
    effects.append((shell.wrong_entries(), observation, shell.is_submitted))
  return float(effects[0] == effects[1])
