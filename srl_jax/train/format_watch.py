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


class FormatWatch:
  """Follows how many samples break the format, and how."""

  def __init__(self, name: str, config: RlConfig):
    """Keeps name and configuration of the stage."""
    self._name, self._config = name, config
    self._worst_failure = ""
    # The least share of broken formats in an update step of this attempt.
    self._least_broken = 1.0

  def saw(self, scores: Scores) -> None:
    """Notes the most frequent failure of a round."""
    seen = np.bincount(scores.failure_NKG.ravel(), minlength=len(FAILURES))
    self._worst_failure = FAILURES[1 + int(seen[1:].argmax())]

  def warn(self, update_step: int, broken: float) -> None:
    """Warns if hardly any sample has its format; `broken` is the share."""
    if broken > 0.9:
      progress.warn(
        f"{broken:.0%} of the samples of {self._name} update step "
        f"{update_step + 1} break the format; most often: "
        f"{self._worst_failure}; {self._cure()}"
      )
    self._least_broken = min(self._least_broken, broken)

  def starved(self, values: Mapping[str, float], kept: int) -> str:
    """Returns why a batch is not full, and what to change.

    Args:
      values: metrics of all rounds of the update step.
      kept: groups that there are for the batch.
    """
    name, c = self._name, self._config
    return (
      f"{name}: after {c.dynamic_sampling.max_rounds} rounds of "
      f"sampling only {kept} of {c.groups_per_batch} groups have "
      f"rewards that differ (kept {values['kept_share']:.1%} of "
      f"{values['groups_sampled']:.0f}; {values['format_failure']:.1%} of the "
      f"samples break the format, mostly: {self._worst_failure}; mean reward "
      f"{values['reward']:.3f}). If formats break: {self._cure()}. "
      "If all rewards are equal, the model solves everything or nothing: raise "
      f"c.{name}.sampling.samples, use other data, lower "
      f"c.{name}.dynamic_sampling.epsilon, lower "
      f"c.{name}.groups_per_batch, or raise "
      f"c.{name}.dynamic_sampling.max_rounds"
    )

  def _cure(self) -> str:
    name = self._name
    longer = f"raise c.{name}.sampling.max_new_tokens if thoughts are cut off"
    if self._least_broken > 0.5:
      return f"{longer}, or warm the model up with an sft stage"
    return (
      f"in an earlier update step only {self._least_broken:.1%} did, so "
      f"training has broken the model: lower c.{name}.optim.learning_rate, or "
      f"{longer}"
    )
