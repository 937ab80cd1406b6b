# SPDX-License-Identifier: Apache-2.0
"""Words what goes wrong with the samples of an RL stage, and the cures.

rl_update.py decides whether it warns or ends the stage.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from srl_jax import progress
from srl_jax.rewards import FAILURES
from srl_jax.train.rl_config import RlConfig
from srl_jax.types import Scores

# Shares of broken formats: up to the first they are not why rewards are equal;
# an increase by more than the second is the work of training.
_FEW, _MANY_MORE = 0.1, 0.3


class FormatWatch:
  """Follows how many samples break the format, and how."""

  def __init__(self, name: str, config: RlConfig):
    """Keeps name and configuration of the stage."""
    self._name, self._config = name, config
    # How often there was each failure in this update step.
    self._failures = np.zeros(len(FAILURES), np.int64)
    # The least share of broken formats in an earlier update step.
    self.least_broken = 1.0

  def saw(self, scores: Scores) -> None:
    """Counts the failures of a round."""
    failures = scores.failure_NKG.ravel()
    self._failures += np.bincount(failures, minlength=len(FAILURES))

  def end_update_step(self, update_step: int, broken: float) -> None:
    """Warns if hardly any sample has its format; `broken` is the share."""
    if broken > 0.9:
      progress.warn(
        f"{broken:.0%} of the samples of {self._name} update step "
        f"{update_step + 1} break the format; most often: "
        f"{self._worst_failure()}; {self._cure(broken)}"
      )
    self.least_broken = min(self.least_broken, broken)
    self._failures[:] = 0

  def starved(self, values: Mapping[str, float], kept: int) -> str:
    """Returns why a batch is not full, and what to change.

    Args:
      values: metrics of all rounds of the update step.
      kept: groups that there are for the batch.
    """
    name, c = self._name, self._config
    broken = values["format_failure"]
    mostly = cure = ""
    if broken > _FEW:
      mostly = f", mostly: {self._worst_failure()}"
      cure = f"If formats break: {self._cure(broken)}. "
    return (
      f"{name}: after {c.dynamic_sampling.max_rounds} rounds of "
      f"sampling only {kept} of {c.groups_per_batch} groups have "
      f"rewards that differ (kept {values['kept_share']:.1%} of "
      f"{values['groups_sampled']:.0f}; {broken:.1%} of the samples break the "
      f"format{mostly}; mean reward {values['reward']:.3f}). {cure}"
      "If all rewards are equal, the model solves everything or nothing: raise "
      f"c.{name}.sampling.samples, use other data, lower "
      f"c.{name}.dynamic_sampling.epsilon, lower "
      f"c.{name}.groups_per_batch, or raise "
      f"c.{name}.dynamic_sampling.max_rounds"
    )

  def _worst_failure(self) -> str:
    return FAILURES[1 + int(self._failures[1:].argmax())]

  def _cure(self, broken: float) -> str:
    name = self._name
    longer = f"raise c.{name}.sampling.max_new_tokens if thoughts are cut off"
    if broken <= self.least_broken + _MANY_MORE:
      return f"{longer}, or warm the model up with an sft stage"
    return (
      f"in an earlier update step only {self.least_broken:.1%} did, so "
      f"training has broken the model: lower c.{name}.optim.learning_rate, or "
      f"{longer}"
    )
