# SPDX-License-Identifier: Apache-2.0
"""One RL step as one program: sample, score, filter, update.

Possible where the reward is computed on the device and a round of sampling is
a batch of its own (`DynamicSamplingConfig.refill=False`). The pieces are the
sampler's and the updater's, so the numbers are those of the same step taken
piece by piece; what goes is the host between them, and the copies to and from
it. Groups that the filter drops keep their slots and count nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srl_jax import sharding
from srl_jax.rollout import decode as rollout_lib
from srl_jax.rollout import metrics as rollout_metrics
from srl_jax.rollout.decode import Policy, SamplingConfig
from srl_jax.types import Array, Branches, Scores, Trunks
from srl_jax.update import groups as dynamic_sampling
from srl_jax.update.batch import MicroBatch
from srl_jax.update.groups import DynamicSamplingConfig
from srl_jax.update.updater import TrainState, UpdateFunctions, Updater

# (branches, what to compare them with) -> scores, inside a program.
ScoreFn = Callable[[Branches, Any], Scores]


class FusedMetrics(NamedTuple):
  """Metrics of a fused step; reduce each with `reductions.reduce_metrics`.

  Attributes:
    rollout: `rollout_metrics.RolloutMetrics`.
    batches: metrics of the loss, stacked over micro-batches.
    step: `updater.UpdateMetrics`.
  """

  rollout: Any
  batches: Any
  step: Any


def fused_step(
  policy: Policy,
  functions: UpdateFunctions,
  score: ScoreFn,
  *,
  sampling: SamplingConfig,
  stop_ids: tuple[int, ...],
  pad_id: int,
  dynamic: DynamicSamplingConfig,
  trunks_per_micro_batch: int,
  temperature: jax.Array | None = None,
  epsilon: jax.Array | None = None,
) -> Callable[..., tuple[TrainState, FusedMetrics]]:
  """Returns the step as a pure function.

  step(state, trunks, targets, key, number, reference) -> (state, metrics):
  `trunks` are N trunks, a multiple of trunks_per_micro_batch; `targets` goes
  to `score`; `key` is the random key of this round of sampling; `number`
  counts the optimizer steps before. `temperature` and `epsilon` stand in for
  those of the configs where they are to be arrays.
  """

  def step(state, trunks, targets, key, number, reference):
    branches, decoding = rollout_lib.rollout(
      policy,
      state.params,
      trunks,
      key,
      config=sampling,
      stop_ids=stop_ids,
      pad_id=pad_id,
      temperature=temperature,
    )
    scores = score(branches, targets)
    kept_NK = dynamic_sampling.is_kept(scores.reward_NKG, dynamic, epsilon)
    batch = kept_batch(trunks, branches, scores.reward_NKG, kept_NK)

    def accumulate(sums, micro_batch):
      return functions.accumulate(state.params, sums, micro_batch, reference)

    sums, of_batches = jax.lax.scan(
      accumulate,
      functions.zeros(state.params),
      split_rows(batch, trunks_per_micro_batch),
    )
    state, of_step = functions.finish(state, sums, number)
    measured = rollout_metrics.measure(
      trunks, branches, scores, kept_NK, decoding, xp=jnp
    )
    return state, FusedMetrics(measured, of_batches, of_step)

  return step


def kept_batch(
  trunks: Trunks, branches: Branches, reward_NKG: Array, kept_NK: Array
) -> MicroBatch:
  """The training batch of a round; groups not kept have no tokens to train."""
  kept_NR = jnp.repeat(kept_NK, reward_NKG.shape[-1], axis=1)
  counted_NRC = branches.is_completion_NRC & kept_NR[..., None]
  return MicroBatch(
    trunks=trunks,
    branches=branches._replace(
      is_completion_NRC=counted_NRC,
      sampler_logp_NRC=jnp.where(counted_NRC, branches.sampler_logp_NRC, 0.0),
    ),
    reward_NKG=jnp.where(kept_NK[..., None], reward_NKG, 0.0),
    is_fresh_NK=kept_NK,
  )


def split_rows(batch: MicroBatch, rows: int) -> MicroBatch:
  """Stacks micro-batches of so many trunks in front: [N, ...] -> [M, N/M, ...].

  Row n goes to micro-batch n mod M, so that every device keeps its rows.
  """

  def split(x):
    return jnp.moveaxis(x.reshape(rows, -1, *x.shape[1:]), 1, 0)

  return jax.tree.map(split, batch)


class FusedStepper:
  """The compiled fused step on a mesh; the counterpart of Sampler + Updater."""

  def __init__(
    self,
    step: Callable[..., tuple[TrainState, FusedMetrics]],
    updater: Updater,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
  ):
    self._mesh, self._rules = mesh, rules
    self.program = jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(updater.shardings, sharding.replicated(mesh)),
    )

  def step(
    self,
    state: TrainState,
    trunks: Trunks,
    targets: Any,
    key: jax.Array,
    number: int,
    reference: Any = None,
  ) -> tuple[TrainState, FusedMetrics]:
    """Starts a step on this process's rows; returns without waiting.

    `state` is consumed.
    """
    trunks, targets = sharding.put_batch(
      (trunks, targets), self._mesh, self._rules
    )
    return self.program(
      state, trunks, targets, key, jnp.int32(number), reference
    )
