# SPDX-License-Identifier: Apache-2.0
"""RL update steps taken piece by piece: rounds of sampling, pool, update.

Rounds are sampled until the pool holds a batch of kept groups. Surplus groups
wait for the next batch. fused.py does all of this in one program where it can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from srl_jax import abstract, progress, sharding
from srl_jax.data.batching import TrunkBatch
from srl_jax.reductions import reduce_metrics
from srl_jax.rewards import FAILURES
from srl_jax.rollout import metrics as rollout_metrics
from srl_jax.rollout import record
from srl_jax.rollout.rounds import QUEUED_PARTS, Round, sample_and_score
from srl_jax.train import memory
from srl_jax.train.memory import DoesNotFitError, Program, bytes_per_device
from srl_jax.train.pieces import Pieces
from srl_jax.train.rows import local_part
from srl_jax.train.stage import (
  Batch,
  Dispatched,
  update_on,
)
from srl_jax.types import Scores
from srl_jax.update import groups as groups_lib
from srl_jax.update.groups import Groups, Pool
from srl_jax.update.packing import pack
from srl_jax.update.updater import TrainState


class PiecewiseUpdate:
  """Samples, scores, filters and updates, with the host in between."""

  description = ""

  def __init__(self, pieces: Pieces):
    self.pieces = pieces
    self.pool = Pool()
    self._worst_failure = ""
    # Of each round of the update step, values of its samples by metric.
    self._drawn: list[dict[str, np.ndarray]] = []

  def take(
    self, state: TrainState, update_step: int, reference: Any
  ) -> tuple[TrainState, Dispatched]:
    """Starts an update step; returns once its samples are scored."""
    pieces = self.pieces
    return update_on(
      self.next_batch(state.params, update_step),
      pieces.updater,
      state,
      update_step=update_step,
      passes=pieces.config.passes,
      reference=reference,
    )

  def next_batch(self, params: Any, update_step: int) -> Batch:
    """Samples until the batch is full; consumes data.

    Raises:
      RuntimeError: too few groups have rewards that differ.
    """
    pieces, config = self.pieces, self.pieces.config
    expired = self.pool.drop_born_before(
      update_step - config.dynamic_sampling.max_age
    )
    rounds, self._drawn = [], []
    while self._is_short(len(rounds)):
      if len(rounds) == config.dynamic_sampling.max_rounds:
        raise RuntimeError(self._starved(reduce_metrics(rounds)))
      what = (
        f"{pieces.name}: update step {update_step + 1}, sampling round "
        f"{len(rounds) + 1}, {len(self.pool)} of {config.groups_per_batch} "
        "groups kept"
      )
      with progress.task(what):
        rounds.append(self._round(params, update_step, len(rounds)))
    self._show(update_step)
    count = len(self.pool)
    if config.dynamic_sampling.refill:
      count = config.groups_per_batch
    groups = self.pool.take(count)
    values = reduce_metrics(rounds) if rounds else {}
    values |= {"groups_expired": expired}
    values |= self._batch_values(groups, update_step)
    if values.get("format_failure", 0) > 0.9:
      self._warn(update_step, values["format_failure"])
    local = map(local_part, self._pack(groups, update_step))
    return Batch([pieces.run.put(x) for x in local], values)

  def _pack(self, groups, update_step):
    return pack(
      groups,
      self.pieces.update_shape,
      update_step=update_step,
      divide_by_std=self.pieces.config.loss.divide_by_group_std,
    )

  def _is_short(self, rounds: int) -> bool:
    """Whether the batch needs another round of sampling."""
    config = self.pieces.config
    if config.dynamic_sampling.refill:
      return len(self.pool) < config.groups_per_batch
    return rounds == 0

  def _round(
    self, params: Any, update_step: int, round_index: int
  ) -> rollout_metrics.RolloutMetrics:
    """Samples one batch of trunks, scores it and pools what is kept."""
    pieces = self.pieces
    run, config = pieces.run, pieces.config
    batch = next(pieces.data.batches)
    found = sample_and_score(
      pieces.sampler,
      params,
      batch,
      run.key(pieces.name, "sample", update_step, round_index),
      scorer=pieces.scorer,
      tokenizer=run.tokenizer,
      device_scorer=pieces.device_scorer,
      parts=config.sampling.parts_per_round,
    )
    if round_index == 0:
      self._record(batch, found, update_step)
    depth_NK = np.zeros(batch.trunks.is_real_NK.shape, np.int32)
    for n, trunk in enumerate(batch.sources):
      depth_NK[n, : len(trunk.points)] = [p.step for p in trunk.points]
    trunks, branches, scores, slot_use, depth_NK = sharding.gather_rows(
      (batch.trunks, found.branches, found.scores, found.slot_use, depth_NK)
    )
    kept_NK = groups_lib.is_kept(scores.reward_NKG, config.dynamic_sampling)
    self.pool.add(
      groups_lib.make_groups(
        trunks,
        branches,
        scores.reward_NKG,
        depth_NK,
        kept_NK,
        update_step=update_step,
        round_index=round_index,
      )
    )
    self._worst_failure = _most_frequent_failure(scores)
    if run.trackers.is_watching:
      self._drawn.append(rollout_metrics.of_samples(branches, scores))
    measured = rollout_metrics.measure(
      trunks, branches, scores, kept_NK, slot_use
    )
    return dataclasses.replace(
      measured,
      rollout_s=np.float64(found.rollout_s),
      reward_s=np.float64(found.reward_s),
    )

  def _record(self, batch: TrunkBatch, found: Round, update_step: int) -> None:
    """Keeps some of this process's trajectories for people to look at."""
    pieces, config = self.pieces, self.pieces.config
    recorder = pieces.run.recorder
    if not recorder or not recorder.is_due_in_training(
      update_step, config.update_steps
    ):
      return
    rows = record.rows_of(
      batch,
      found.branches,
      found.scores,
      record.recurring_ids(batch.sources, recorder.config.trajectories),
      pieces.run.tokenizer,
      groups_lib.is_kept(found.scores.reward_NKG, config.dynamic_sampling),
    )
    recorder.write(pieces.name, "train", update_step, rows)
    pieces.run.trackers.keep(
      update_step, rollouts={f"{pieces.name}/samples/train": rows}
    )

  def _show(self, update_step: int) -> None:
    """Gives the trackers how the samples of all rounds are spread."""
    if self._drawn:
      names = self._drawn[0].keys()
      values = {
        f"{self.pieces.name}/samples/{name}": np.concatenate(
          [of_round[name] for of_round in self._drawn]
        )
        for name in names
      }
      self.pieces.run.trackers.keep(update_step, histograms=values)

  def _batch_values(self, groups: Groups, update_step: int):
    values = {
      "groups_carried": len(self.pool),
      "stale_share": float(
        np.sum(groups.born_P < update_step) / max(1, groups.count)
      ),
    }
    reward_PG = groups.batch.reward_NKG[:, 0]
    for depth in np.unique(groups.depth_P).tolist():
      mean = reward_PG[groups.depth_P == depth].mean()
      values[f"reward_step_{depth + 1}"] = float(mean)
    return values

  def _warn(self, update_step: int, share: float) -> None:
    if jax.process_index() == 0:
      name = self.pieces.name
      print(
        f"warning: {share:.0%} of the samples of {name} update step "
        f"{update_step} break the format; most often: {self._worst_failure}. "
        f"Raise c.{name}.sampling.max_new_tokens if thoughts are cut off, or "
        "warm the model up with an sft stage",
        file=sys.stderr,
        flush=True,
      )

  def _starved(self, values: dict[str, float]) -> str:
    name, c = self.pieces.name, self.pieces.config
    return (
      f"{name}: after {c.dynamic_sampling.max_rounds} rounds of "
      f"sampling only {len(self.pool)} of {c.groups_per_batch} groups have "
      f"rewards that differ (kept {values['kept_share']:.1%} of "
      f"{values['groups_sampled']:.0f}; {values['format_failure']:.1%} of the "
      f"samples break the format, mostly: {self._worst_failure}; mean reward "
      f"{values['reward']:.3f}). If formats break, raise "
      f"c.{name}.sampling.max_new_tokens or add an sft stage; if all "
      "rewards are equal, the model solves everything or nothing: raise "
      f"c.{name}.sampling.samples, use other data, lower "
      f"c.{name}.dynamic_sampling.epsilon, lower "
      f"c.{name}.groups_per_batch, or raise "
      f"c.{name}.dynamic_sampling.max_rounds"
    )

  def compiled(self) -> list[Any]:
    """The jitted functions of an update step, apart from the updater's."""
    pieces = self.pieces
    jitted = [pieces.sampler.prefill, pieces.sampler.decode]
    return jitted + (
      [pieces.device_scorer.program] if pieces.device_scorer else []
    )

  def plan(self) -> Iterator[Program]:
    """The programs of an update step, before they run.

    If one does not fit, those that read its results are left out.
    """
    pieces = self.pieces
    run, updater = pieces.run, pieces.updater
    state = updater.abstract_state()
    reference = state.trained if pieces.uses_reference else None
    yield from self._plan_rollout(
      state.params, bytes_per_device((state.opt_state, reference))
    )
    trunks, key = self._abstract_part()
    with jax.set_mesh(run.mesh):
      prefilled = jax.eval_shape(pieces.sampler.prefill, state.params, trunks)
      branches, _ = jax.eval_shape(
        pieces.sampler.decode, prefilled, trunks, key
      )
    yield from memory.update_programs(
      updater,
      [self._abstract_micro_batch(branches)],
      mesh=run.mesh,
      name=pieces.name,
      rows_multiple=sharding.batch_devices(run.mesh, run.rules),
      has_reference=pieces.uses_reference,
    )

  def _abstract_part(self):
    """Abstract trunks of one part of a round, and a random key."""
    config = self.pieces.config
    rows = config.sampling.trunks_per_round // config.sampling.parts_per_round
    return self.pieces.abstract_trunks(rows), self.pieces.abstract_key()

  def _abstract_micro_batch(self, branches):
    """A micro-batch as `pack` makes it of no groups, abstract."""
    pieces = self.pieces
    empty = pieces.data.empty_batch().trunks
    none = jax.tree.map(
      lambda x: np.zeros((0, *x.shape[1:]), x.dtype), branches
    )
    points, samples = pieces.data.widths.points, pieces.config.sampling.samples
    groups = groups_lib.make_groups(
      empty,
      none,
      np.zeros((0, points, samples), np.float32),
      np.zeros((0, points), np.int32),
      np.zeros((0, points), bool),
      update_step=0,
      round_index=0,
    )
    [batch] = self._pack(groups, 0)
    rows = pieces.update_shape.rows
    return abstract.batch(batch, rows, pieces.run.mesh, pieces.run.rules)

  def _plan_rollout(self, params: Any, beside_bytes: int) -> Iterator[Program]:
    """The two halves of a rollout, and the reward of what they sample."""
    pieces = self.pieces
    name, mesh, parts = (
      pieces.name,
      pieces.run.mesh,
      pieces.config.sampling.parts_per_round,
    )
    remedy = (
      f"lower c.{name}.sampling.trunks_per_round or raise "
      f"c.{name}.sampling.parts_per_round or c.mesh.tensor"
    )
    trunks, key = self._abstract_part()
    prefill = Program(
      "rollout: prefill",
      pieces.sampler.prefill,
      (params, trunks),
      mesh,
      remedy,
      beside_bytes,
    )
    yield prefill
    at_rest = beside_bytes + bytes_per_device(params)
    with contextlib.suppress(DoesNotFitError):
      prefilled = prefill.outputs()
      waiting = min(parts, QUEUED_PARTS) - 1
      decode = Program(
        "rollout: decode",
        pieces.sampler.decode,
        (prefilled, trunks, key),
        mesh,
        remedy,
        at_rest + waiting * bytes_per_device(prefilled),
      )
      yield decode
      branches, _ = decode.outputs()
      if pieces.device_scorer:
        yield Program(
          "reward",
          pieces.device_scorer.program,
          (branches, pieces.abstract_targets(trunks.length_N.shape[0])),
          mesh,
          "lower c.device_reward.max_text_bytes or chunk_cells, or "
          "set c.device_reward.on='host'",
          at_rest,
        )


def _most_frequent_failure(scores: Scores) -> str:
  seen = np.bincount(scores.failure_NKG.ravel(), minlength=len(FAILURES) + 1)
  return FAILURES[int(seen[1:].argmax())]
