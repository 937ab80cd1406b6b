# SPDX-License-Identifier: Apache-2.0
"""A fused update step: sample, score, filter and update in one program.

It needs a reward on the device and rounds of sampling that are batches of
their own (`DynamicSamplingConfig.refill=False`). The pieces are those of the
sampler and the updater, so the numbers equal those of an update step in
separate programs; fusing saves the host's work between the programs and the
copies to and from the host. Nothing is packed: every branch has a lane, and
groups that the filter drops count nothing. No host scores what is too long for
the device: a group with such a completion is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srl_jax.rollout import metrics as rollout_metrics
from srl_jax.types import Array, Branches, Scores, SlotUse, Trunks
from srl_jax.update.batch import (
  Experience,
  MicroBatch,
  one_branch_per_lane,
)
from srl_jax.update.groups import (
  DynamicSamplingConfig,
  is_differing,
  is_kept,
)
from srl_jax.update.updater import TrainState, UpdateFunctions

# (params, trunks, random key) -> branches and how full the slots were.
RolloutFn = Callable[[Any, Trunks, jax.Array], tuple[Branches, SlotUse]]
# (branches, targets to compare them with) -> scores, inside a program.
ScoreFn = Callable[[Branches, Any], Scores]


class FusedMetrics(NamedTuple):
  """Metrics of a fused update step; see `reductions.reduce_metrics`.

  Attributes:
    rollout: `rollout.metrics.RolloutMetrics`.
    batches: metrics of the loss, stacked over micro-batches.
    update: `updater.UpdateMetrics`.
  """

  rollout: Any
  batches: Any
  update: Any


def fused_update(
  rollout: RolloutFn,
  score: ScoreFn,
  functions: UpdateFunctions,
  *,
  dynamic_sampling: DynamicSamplingConfig,
  trunks_per_micro_batch: int,
  divide_by_std: bool,
) -> Callable[..., tuple[TrainState, FusedMetrics]]:
  """Returns a fused update step as a pure function.

  The function is update(state, trunks, targets, key, update_step, reference)
  -> (state, metrics). N, the number of trunks, is a multiple of
  trunks_per_micro_batch; divide_by_std is that of
  `advantages.group_advantages`; `targets` goes to `score`; `key` is the random
  key of this round of sampling; `update_step` is the number of earlier update
  steps.
  """

  def update(state, trunks, targets, key, update_step, reference):
    branches, slot_use = rollout(state.params, trunks, key)
    scores = score(branches, targets)
    kept_NK = is_kept(scores.reward_NKG, dynamic_sampling)
    batch = one_branch_per_lane(
      kept_experience(trunks, branches, scores.reward_NKG, kept_NK),
      divide_by_std=divide_by_std,
    )

    def accumulate(sums, micro_batch):
      return functions.accumulate(
        state.trained, state.frozen, sums, micro_batch, reference
      )

    sums, of_batches = jax.lax.scan(
      accumulate,
      functions.zeros(state.trained),
      split_rows(batch, trunks_per_micro_batch),
    )
    state, of_update = functions.finish(state, sums, update_step)
    measured = rollout_metrics.measure(
      trunks,
      branches,
      scores,
      kept_NK,
      is_differing(scores.reward_NKG, dynamic_sampling),
      slot_use,
      xp=jnp,
    )
    return state, FusedMetrics(measured, of_batches, of_update)

  return update


def kept_experience(
  trunks: Trunks, branches: Branches, reward_NKG: Array, kept_NK: Array
) -> Experience:
  """Returns a round to train on; dropped groups have no tokens to train."""
  kept_NR = jnp.repeat(kept_NK, reward_NKG.shape[-1], axis=1)
  counted_NRC = branches.is_completion_NRC & kept_NR[..., None]
  return Experience(
    trunks=trunks,
    branches=branches._replace(
      is_completion_NRC=counted_NRC,
      sampler_logp_NRC=jnp.where(counted_NRC, branches.sampler_logp_NRC, 0.0),
    ),
    reward_NKG=jnp.where(kept_NK[..., None], reward_NKG, 0.0),
  )


def split_rows(batch: MicroBatch, rows: int) -> MicroBatch:
  """Splits a batch into M micro-batches of `rows` trunks each.

  Arrays [N, ...] become [M, N/M, ...]. Row n goes to micro-batch n mod M, so
  that every device keeps its rows.
  """

  def split(x):
    return jnp.moveaxis(x.reshape(rows, -1, *x.shape[1:]), 1, 0)

  return jax.tree.map(split, batch)
