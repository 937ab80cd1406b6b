# SPDX-License-Identifier: Apache-2.0
"""What stages of RL share, and what the update steps of one are made of."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from srl_jax.device_rewards.scorer import DeviceScorer
from srl_jax.processes.failures import RecurringError
from srl_jax.rewards import Scorer
from srl_jax.rollout.sampler import Sampler
from srl_jax.sharding import abstract
from srl_jax.train.batch_shapes import update_shape
from srl_jax.train.data import StageData
from srl_jax.train.rl_config import GrpoConfig, RlConfig
from srl_jax.train.stage import Run
from srl_jax.update import optim, pack_shapes
from srl_jax.update.grpo import grpo_loss
from srl_jax.update.packing import PackShape
from srl_jax.update.updater import Updater


def make_updater(
  run: Run, config: GrpoConfig, temperature: float, params: Any
) -> Updater:
  """Returns the GRPO update of a stage, which has no state yet."""
  total = config.update_steps * config.passes
  return Updater(
    grpo_loss(run.policy, config.loss, temperature),
    optim.make_optimizer(config.optim, total),
    optim.learning_rate(config.optim, total),
    params,
    run.mesh,
  )


def check_logp_gap(
  name: str, config: GrpoConfig, values: dict[str, float]
) -> None:
  """Raises RecurringError if sampler and trainer differ about fresh tokens."""
  limit = config.max_logp_gap
  # NaN, which a sampler or a trainer that overflows gives, is no agreement.
  if not values["logp_gap_max"] <= limit:
    raise RecurringError(
      f"sampler and trainer disagree by {values['logp_gap_max']:.3g} nats "
      f"about the log-prob of a fresh token (c.{name}.max_logp_gap is "
      f"{limit:g}); in bfloat16 some tenths of a nat are rounding: try "
      "c.model.dtype='float32' to tell rounding from a defect"
    )


@dataclasses.dataclass(frozen=True)
class RlSetup:
  """What the update steps of an RL stage are made of.

  Attributes:
    run: what all stages share.
    name: name of the stage.
    config: configuration of the stage.
    data: the trunks and the stream of their batches.
    sampler: the compiled sampler.
    scorer: the reward on the host.
    device_scorer: the reward on the device; None if the host computes it.
    updater: the compiled update step.
  """

  run: Run
  name: str
  config: RlConfig
  data: StageData
  sampler: Sampler
  scorer: Scorer
  device_scorer: DeviceScorer | None
  updater: Updater

  @functools.cached_property
  def update_shapes(self) -> tuple[PackShape, ...]:
    """What shapes a micro-batch of the update may have, the largest first."""
    return pack_shapes.with_rows_of_one(
      self._largest_shape(), self.data.widths.trunk
    )

  def _largest_shape(self) -> PackShape:
    config, widths = self.config, self.data.widths
    sampling, share = config.sampling, config.lanes_per_branch
    branches = widths.points * sampling.samples
    shape = update_shape(
      self.run, config.trunks_per_micro_batch, branches, share or 1.0
    )
    if share:
      return shape
    usual = pack_shapes.usual_branches(
      widths.points,
      sampling.samples,
      stem=widths.stem,
      limit=sampling.max_new_tokens,
      kept=0.5 if config.dynamic_sampling.enabled else 1.0,
    )
    return pack_shapes.fewest_positions(
      shape,
      *usual,
      trunk_width=widths.trunk,
      lane_width=widths.stem + sampling.max_new_tokens - 1,
    )

  def abstract_trunks(self, rows: int) -> Any:
    """Trunks of the sampler, abstract."""
    empty = self.data.empty_batch().trunks
    return abstract.batch(empty, rows, self.run.mesh, self.run.rollout_rules)

  def abstract_targets(self, rows: int) -> Any:
    """Targets of the reward on the device, abstract."""
    empty = self.device_scorer.targets(self.data.empty_batch())
    return abstract.batch(empty, rows, self.run.mesh, self.run.rollout_rules)

  def abstract_key(self) -> Any:
    """A random key, as the argument of a program that is only compiled."""
    return abstract.scalar(self.run.key(self.name), self.run.mesh)
