# SPDX-License-Identifier: Apache-2.0
"""An update step of RL: rounds of sampling, pool, update.

Rounds are sampled until the pool holds a batch of kept groups. Surplus groups
wait for the next batch. If `fuse` is set, fused.py does all of this in one
program instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from srl_jax import progress
from srl_jax.data.batching import TrunkBatch
from srl_jax.processes.failures import RecurringError
from srl_jax.reductions import reduce_metrics
from srl_jax.rollout import metrics as rollout_metrics
from srl_jax.rollout import record
from srl_jax.rollout.rounds import Round, sample_and_score
from srl_jax.train import rl_programs
from srl_jax.train.format_watch import FormatWatch
from srl_jax.train.memory import Program
from srl_jax.train.rl_setup import RlSetup
from srl_jax.train.round_schedule import Counts
from srl_jax.train.shared_rounds import ScoredRound, SharedRounds
from srl_jax.train.stage import (
  Batch,
  Dispatched,
  NothingLeftError,
  update_on,
)
from srl_jax.update import groups as groups_lib
from srl_jax.update.groups import Groups, Pool
from srl_jax.update.pack_shapes import best_shape
from srl_jax.update.packing import pack
from srl_jax.update.updater import TrainState


class RlUpdate:
  """Samples, scores, filters and updates, with the host in between."""

  def __init__(self, setup: RlSetup):
    self.setup = setup
    self.pool = Pool()
    self._shared_rounds = (
      SharedRounds(setup) if setup.config.sampling.rows else None
    )
    self._formats = FormatWatch(setup.name, setup.config)
    # Values of single samples by metric; a dict for each round of this update
    # step.
    self._drawn: list[dict[str, np.ndarray]] = []

  def take(
    self, state: TrainState, update_step: int, reference: Any
  ) -> tuple[TrainState, Dispatched]:
    """Starts an update step; returns once its samples are scored."""
    setup = self.setup
    return update_on(
      self.next_batch(state.params, update_step),
      setup.updater,
      state,
      update_step=update_step,
      passes=setup.config.passes,
      reference=reference,
    )

  def next_batch(self, params: Any, update_step: int) -> Batch:
    """Samples until the batch is full, or half full at last; consumes data.

    Raises:
      NothingLeftError: not even half of the groups have rewards that differ,
        in a later update step and with formats that hold.
      RecurringError: the same in the first one, or because formats break.
    """
    setup, config = self.setup, self.setup.config
    expired = self.pool.drop_born_before(
      update_step - config.dynamic_sampling.max_age
    )
    rounds, self._drawn = [], []
    if self._is_short(0):
      sample = (
        self._rounds_together if self._shared_rounds else self._one_by_one
      )
      rounds = sample(params, update_step)
    if self._is_short(len(rounds)):
      self._accept_fewer(reduce_metrics(rounds), update_step)
    self._show(update_step)
    count = len(self.pool)
    if config.dynamic_sampling.refill:
      count = min(count, config.groups_per_batch)
    groups = self.pool.take(count)
    # All groups may have waited in the pool.
    values = reduce_metrics(rounds) if rounds else rollout_metrics.of_nothing()
    # The host scores what the device does not.
    values.pop("unscored", None)
    values["groups_expired"] = expired
    values |= self._batch_values(groups, update_step)
    if rounds:
      self._formats.end_update_step(update_step, values["format_failure"])
    packed = pack(
      groups,
      best_shape(groups, setup.update_shapes),
      update_step=update_step,
      divide_by_std=config.loss.divide_by_group_std,
    )
    return Batch(map(setup.run.put, packed), values)

  def _is_short(self, rounds: int) -> bool:
    """Whether the batch needs another round of sampling."""
    config = self.setup.config
    if config.dynamic_sampling.refill:
      return len(self.pool) < config.groups_per_batch
    return rounds == 0

  def _one_by_one(
    self, params: Any, update_step: int
  ) -> list[rollout_metrics.RolloutMetrics]:
    """Samples round after round: until the batch is full, or all."""
    config = self.setup.config
    rounds: list[rollout_metrics.RolloutMetrics] = []
    most = config.dynamic_sampling.max_rounds
    while self._is_short(len(rounds)) and len(rounds) < most:
      what = (
        f"{self.setup.name}: update step {update_step + 1}, sampling round "
        f"{len(rounds) + 1}, {len(self.pool)} of {config.groups_per_batch} "
        "groups kept"
      )
      with progress.task(what):
        rounds.append(self._round(params, update_step, len(rounds)))
    return rounds

  def _rounds_together(
    self, params: Any, update_step: int
  ) -> list[rollout_metrics.RolloutMetrics]:
    """Samples rounds in shared slots: until the batch is full, or all."""
    config = self.setup.config
    need = config.groups_per_batch - len(self.pool)
    what = (
      f"{self.setup.name}: update step {update_step + 1}, sampling rounds "
      f"together, {need} of {config.groups_per_batch} groups to keep"
    )
    with progress.task(what):
      found = self._shared_rounds.sample(params, update_step, need)
    return [
      self._filter_and_pool(one, update_step, index)
      for index, one in enumerate(found)
    ]

  def _round(
    self, params: Any, update_step: int, round_index: int
  ) -> rollout_metrics.RolloutMetrics:
    """Samples one batch of trunks, scores it and pools what is kept."""
    setup = self.setup
    run, config = setup.run, setup.config
    batch = next(setup.data.batches)
    found = sample_and_score(
      setup.sampler,
      params,
      batch,
      run.key(setup.name, "sample", update_step, round_index),
      scorer=setup.scorer,
      tokenizer=run.tokenizer,
      device_scorer=setup.device_scorer,
      parts=config.sampling.parts_per_round,
    )
    return self._filter_and_pool(
      ScoredRound(batch, found), update_step, round_index
    )

  def _filter_and_pool(
    self, drawn: ScoredRound, update_step: int, round_index: int
  ) -> rollout_metrics.RolloutMetrics:
    """Pools what is kept of a round, and measures it."""
    batch, found = drawn
    trunks, branches, scores = batch.trunks, found.branches, found.scores
    setup, config = self.setup, self.setup.config
    if round_index == 0:
      self._record(batch, found, update_step)
    step_NK = np.zeros(batch.trunks.is_real_NK.shape, np.int32)
    for n, trunk in enumerate(batch.sources):
      step_NK[n, : len(trunk.points)] = [p.step for p in trunk.points]
    kept_NK = groups_lib.is_kept(scores.reward_NKG, config.dynamic_sampling)
    self.pool.add(
      groups_lib.make_groups(
        trunks,
        branches,
        scores.reward_NKG,
        step_NK,
        kept_NK,
        update_step=update_step,
        round_index=round_index,
      )
    )
    self._formats.saw(scores)
    if setup.run.trackers.is_watching:
      self._drawn.append(rollout_metrics.of_samples(branches, scores))
    return rollout_metrics.measure(
      trunks,
      branches,
      scores,
      kept_NK,
      groups_lib.is_differing(scores.reward_NKG, config.dynamic_sampling),
      found.slot_use,
      found.rollout_s,
      found.reward_s,
    )

  def _record(self, batch: TrunkBatch, found: Round, update_step: int) -> None:
    """Keeps some of the trajectories for people to look at."""
    setup, config = self.setup, self.setup.config
    recorder = setup.run.recorder
    if not recorder or not recorder.is_due_in_training(
      update_step, config.update_steps
    ):
      return
    rows = record.rows_of(
      batch,
      found.branches,
      found.scores,
      record.recurring_ids(
        (trunk.trajectory for trunk in batch.sources),
        recorder.config.trajectories,
      ),
      setup.run.tokenizer,
      groups_lib.is_kept(found.scores.reward_NKG, config.dynamic_sampling),
    )
    setup.run.keep_rollouts(setup.name, "train", update_step, rows)

  def _show(self, update_step: int) -> None:
    """Gives the trackers how the samples of all rounds are spread."""
    if self._drawn:
      names = self._drawn[0].keys()
      values = {
        f"{self.setup.name}/samples/{name}": np.concatenate(
          [of_round[name] for of_round in self._drawn]
        )
        for name in names
      }
      self.setup.run.trackers.keep(update_step, histograms=values)

  def _batch_values(self, groups: Groups, update_step: int):
    values = {
      "groups_carried": len(self.pool),
      "stale_share": float(
        np.sum(groups.born_P < update_step) / max(1, groups.count)
      ),
    }
    reward_PG = groups.batch.reward_NKG[:, 0]
    for step in np.unique(groups.step_P).tolist():
      mean = reward_PG[groups.step_P == step].mean()
      values[f"reward_step_{step + 1}"] = float(mean)
    return values

  def _accept_fewer(self, values: dict[str, float], update_step: int) -> None:
    """Warns that a batch is not full; raises if it is not even half full."""
    text = self._formats.starved(values, len(self.pool))
    if 2 * len(self.pool) < self.setup.config.groups_per_batch:
      if update_step and values["format_failure"] < 0.5:
        raise NothingLeftError(text)
      raise RecurringError(text)
    progress.warn(f"this update step trains on fewer groups. {text}")

  def compiled(self) -> list[Any]:
    """The jitted functions of an update step, apart from the updater's."""
    setup = self.setup
    jitted = [setup.sampler.prefill, setup.sampler.decode]
    jitted += self._shared_rounds.compiled() if self._shared_rounds else []
    return jitted + (
      [setup.device_scorer.program] if setup.device_scorer else []
    )

  def plan(self) -> Iterator[Program]:
    """The programs of an update step, before they run.

    If one does not fit, those that read its results are left out.
    """
    return rl_programs.programs(self.setup, self._shared_rounds)

  def get_state(self) -> dict[str, Any]:
    """What an update step takes from earlier ones, for JSON."""
    state: dict[str, Any] = {"least_broken": self._formats.least_broken}
    if self._shared_rounds:
      state["counts"] = self._shared_rounds.counts._asdict()
    return state

  def set_state(self, state: dict[str, Any]) -> None:
    """Restores what `get_state` returned; state of a run without it is none."""
    self._formats.least_broken = state.get("least_broken", 1.0)
    if self._shared_rounds:
      self._shared_rounds.counts = Counts(**state.get("counts", {}))
