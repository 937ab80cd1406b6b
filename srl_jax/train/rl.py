# SPDX-License-Identifier: Apache-2.0
"""Group-relative RL with dynamic sampling: SRL and RLVR.

The two differ in the instances (next step, whole solution) and in the reward.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax import sharding
from srl_jax.config import RlConfig
from srl_jax.device_rewards import reward as device_reward
from srl_jax.domains import domains_of
from srl_jax.evaluate.steps import evaluate_steps
from srl_jax.reductions import reduce_metrics
from srl_jax.rewards import FAILURES, Scorer
from srl_jax.rollout import metrics as rollout_metrics
from srl_jax.rollout import scoring
from srl_jax.rollout.rounds import DeviceScorer, Rounds
from srl_jax.train import memory as memory_plan
from srl_jax.train.memory import Program, Scalars
from srl_jax.train.stage import (
  Dispatched,
  Run,
  StageData,
  Work,
  check_finite,
  check_multiple,
  local_part,
  update_on,
)
from srl_jax.update import fused as step_lib
from srl_jax.update import groups as dynamic_sampling
from srl_jax.update.grpo import grpo_loss
from srl_jax.update.updater import TrainState, Updater, compiled_count


class RlStage:
  """GRPO with dynamic sampling (SRL, RLVR)."""

  columns = (
    "reward {reward:.3f}",
    "kept {groups_kept:.0f}/{groups_sampled:.0f} groups",
    "format failures {format_failure:.1%}",
    "{tokens_per_s:,.0f} tokens/s",
  )

  def __init__(self, run: Run, name: str, config: RlConfig):
    self._name = name
    self.passes = config.passes
    self.uses_reference = config.loss.kl_coefficient > 0
    for field, rules in (
      ("trunks_per_round", run.config.rollout_rules),
      ("trunks_per_micro_batch", run.config.rules),
    ):
      check_multiple(run, f"{name}.{field}", getattr(config, field), rules)
    if config.trunks.task == "solve":
      # Nobody can say whether a solution without a reference is right.
      run = dataclasses.replace(
        run,
        train=[t for t in run.train if t.answer is not None],
        valid=[t for t in run.valid if t.answer is not None],
      )
    reward = scoring.resolve_reward(
      config.reward,
      config.trunks.task,
      domains_of([*run.train, *run.valid]),
      name,
    )
    config = dataclasses.replace(config, reward=reward)
    self._run, self._config = run, config
    self._data = StageData(
      run,
      name,
      run.train,
      config.trunks,
      batch_size=config.trunks_per_round,
      validation_trunks=config.validation_trunks,
      new_tokens=config.sampling.max_new_tokens,
    )
    self._pool = dynamic_sampling.Pool()
    self._worst_failure = ""
    self._sampler = run.sampler(config.sampling, config.trunks.task)
    self._scorer = Scorer(config.reward)
    self._on_device, why = _reward_on_device(run, name, config, self._data)
    self._rounds = Rounds(
      self._sampler,
      self._scorer,
      run.tokenizer,
      run.mesh,
      run.config.rollout_rules,
      on_device=self._on_device,
      parts=config.parts_per_round,
    )
    self._fused: step_lib.FusedStepper | None = None
    self._is_fused = config.fuse and not _not_fusable(config, self._on_device)
    self.description = f"rewards on the {why}" + (
      ", one program per step" if self._is_fused else ""
    )
    self.loss_fn = grpo_loss(
      run.policy, config.loss, config.sampling.temperature
    )

  def take_step(
    self,
    updater: Updater,
    state: TrainState,
    step: int,
    reference: Any,
  ) -> tuple[TrainState, Dispatched]:
    if self._is_fused:
      return self._take_fused(updater, state, step, reference)
    return update_on(
      self.next_batch(state.params, step),
      updater,
      state,
      step=step,
      passes=self.passes,
      reference=reference,
    )

  def _take_fused(self, updater, state, step, reference):
    assert self._on_device
    if self._fused is None:
      self._fused = self._make_fused(updater)
    batch = next(self._data.batches)
    state, metrics = self._fused.step(
      state,
      batch.trunks,
      self._on_device.targets(batch),
      self._run.key(self._name, "sample", step, 0),
      step,
      reference,
    )
    values = {"groups_carried": 0, "stale_share": 0.0}
    return state, Dispatched(values, [[part] for part in metrics])

  def _make_fused(self, updater):
    run, config, sampler = self._run, self._config, self._sampler
    score = self._on_device.score
    return step_lib.FusedStepper(
      step_lib.fused_step(
        run.sampling_policy,
        updater.functions,
        lambda branches, targets: score(branches, targets)[0],
        sampling=config.sampling,
        stop_ids=sampler.stop_ids,
        pad_id=sampler.pad_id,
        dynamic=config.dynamic_sampling,
        trunks_per_micro_batch=config.trunks_per_micro_batch,
      ),
      updater,
      run.mesh,
      run.config.rollout_rules,
    )

  def planned(self, updater: Updater) -> Iterator[Program]:
    """The programs of a step, or the one that it is, before they run."""
    run, config, widths = self._run, self._config, self._data.widths
    scalars = Scalars(run.key(self._name), jnp.int32(0))
    sizes = memory_plan.Widths(
      widths.trunk,
      widths.points,
      widths.stem,
      self._on_device.width if self._on_device else 0,
    )
    if self._is_fused:
      yield self._planned_fused(updater, sizes, scalars)
      return
    yield from memory_plan.rl_programs(
      mesh=run.mesh,
      rules=run.config.rules,
      sampler=self._sampler,
      reward=self._on_device,
      updater=updater,
      sizes=sizes,
      trunks_per_part=config.trunks_per_round // config.parts_per_round,
      parts=config.parts_per_round,
      trunks_per_micro_batch=config.trunks_per_micro_batch,
      scalars=scalars,
      has_reference=self.uses_reference,
    )

  def _planned_fused(self, updater, sizes, scalars):
    run, rows = self._run, self._config.trunks_per_round
    self._fused = self._make_fused(updater)
    place = memory_plan.Placer(run.mesh)
    state = updater.abstract_state()
    trunks = memory_plan.abstract_trunks(rows, sizes)
    targets = memory_plan.abstract_targets(rows, sizes)
    trunks, targets = place.rows((trunks, targets), run.config.rollout_rules)
    reference = state.trained().params if self.uses_reference else None
    args = (state, trunks, targets, *scalars, reference)
    return Program("step", self._fused.program, args, 0, run.mesh)

  def next_batch(self, params: Any, step: int) -> Work:
    """Samples until the batch of a step is full; consumes data."""
    config = self._config
    rounds = []
    while self._is_short(len(rounds)):
      if len(rounds) == config.dynamic_sampling.max_rounds:
        raise RuntimeError(self._starved(reduce_metrics(rounds)))
      rounds.append(self._round(params, step, len(rounds)))
    count = len(self._pool)
    if config.dynamic_sampling.refill:
      count = config.groups_per_batch
    groups = self._pool.take(count)
    values = reduce_metrics(rounds) if rounds else {}
    values |= self._batch_values(groups, step)
    if values.get("format_failure", 0) > 0.9:
      self._warn(step, values["format_failure"])
    rows = config.trunks_per_micro_batch
    batches = dynamic_sampling.pack(
      groups, trunks=rows, points=self._data.widths.points, step=step
    )
    local = [local_part(batch, rows) for batch in batches]
    return Work([self._run.put(batch) for batch in local], values)

  def _is_short(self, rounds: int) -> bool:
    """Whether the batch of a step needs another round of sampling."""
    if self._config.dynamic_sampling.refill:
      return len(self._pool) < self._config.groups_per_batch
    return rounds == 0

  def _batch_values(self, groups, step):
    values = {
      "groups_carried": len(self._pool),
      "stale_share": float(np.sum(groups.born_P < step) / max(1, groups.count)),
    }
    for depth in np.unique(groups.depth_P).tolist():
      reward_PG = groups.reward_PG[groups.depth_P == depth]
      values[f"reward_step_{depth + 1}"] = float(reward_PG.mean())
    return values

  def _warn(self, step, share):
    if jax.process_index() == 0:
      print(
        f"warning: {share:.0%} of the samples of {self._name} step {step} "
        f"break the format; most often: {self._worst_failure}. Raise "
        f"c.{self._name}.sampling.max_new_tokens if thoughts are cut off, or "
        "warm the model up with an sft stage",
        file=sys.stderr,
        flush=True,
      )

  def _round(self, params, step, round_index) -> rollout_metrics.RolloutMetrics:
    """Samples one batch of trunks, scores it and pools what is kept."""
    batch = next(self._data.batches)
    key = self._run.key(self._name, "sample", step, round_index)
    found = self._rounds.run(params, batch, key)
    depth_NK = np.zeros(batch.trunks.is_real_NK.shape, np.int32)
    for n, trunk in enumerate(batch.sources):
      depth_NK[n, : len(trunk.points)] = [p.step for p in trunk.points]
    trunks, branches, scores, decoding, depth_NK = sharding.gather_rows(
      (batch.trunks, found.branches, found.scores, found.decoding, depth_NK)
    )
    kept_NK = dynamic_sampling.is_kept(
      scores.reward_NKG, self._config.dynamic_sampling
    )
    groups = dynamic_sampling.make_groups(
      trunks,
      branches,
      scores.reward_NKG,
      depth_NK,
      kept_NK,
      step=step,
      round_index=round_index,
    )
    self._pool.add(groups)
    seen = np.bincount(scores.failure_NKG.ravel(), minlength=len(FAILURES) + 1)
    self._worst_failure = FAILURES[int(seen[1:].argmax())]
    measured = rollout_metrics.measure(
      trunks, branches, scores, kept_NK, decoding
    )
    return dataclasses.replace(
      measured,
      prefill_s=np.float64(found.prefill_s),
      decode_s=np.float64(found.decode_s),
      reward_s=np.float64(found.reward_s),
    )

  def _starved(self, values: dict[str, float]) -> str:
    c = self._config
    return (
      f"{self._name}: after {c.dynamic_sampling.max_rounds} rounds of "
      f"sampling only {len(self._pool)} of {c.groups_per_batch} groups have "
      f"rewards that differ (kept {values['kept_share']:.1%} of "
      f"{values['groups_sampled']:.0f}; {values['format_failure']:.1%} of the "
      f"samples break the format, mostly: {self._worst_failure}; mean reward "
      f"{values['reward']:.3f}). If formats break, raise "
      f"c.{self._name}.sampling.max_new_tokens or add an sft stage; if all "
      "rewards are equal, the model solves everything or nothing: raise "
      f"c.{self._name}.sampling.samples, use other data, lower "
      f"c.{self._name}.dynamic_sampling.epsilon, lower "
      f"c.{self._name}.groups_per_batch, or raise "
      f"c.{self._name}.dynamic_sampling.max_rounds"
    )

  def validate(self, params: Any) -> tuple[float, dict[str, float]]:
    estimates = evaluate_steps(
      self._sampler,
      params,
      self._data.valid,
      key=self._run.key(self._name, "validate"),
      tokenizer=self._run.tokenizer,
      scorer=self._scorer,
      widths=self._data.valid_widths,
      rows_per_batch=self._config.trunks_per_round,
    )
    values = {f"validation_{k}": e.value for k, e in estimates.items()}
    return estimates["reward"].value, values

  def check(self, values: dict[str, float]) -> None:
    check_finite(values)
    if values["logp_gap_max"] > self._config.max_logp_gap:
      raise RuntimeError(
        f"sampler and trainer disagree by {values['logp_gap_max']:.3g} nats "
        f"about the log-prob of a fresh token (c.{self._name}.max_logp_gap is "
        f"{self._config.max_logp_gap:g}); in bfloat16 some tenths of a nat are "
        "rounding: try c.model.dtype='float32' to tell rounding from a defect"
      )

  def programs(self) -> int:
    programs = [self._sampler.prefill, self._sampler.decode]
    programs += [self._on_device.program] if self._on_device else []
    programs += [self._fused.program] if self._fused else []
    return compiled_count(*programs)

  def get_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return self._data.batches.get_state(), self._pool.get_state()

  def set_state(self, data: dict[str, Any], pool: dict[str, Any]) -> None:
    self._data.batches.set_state(data)
    self._pool.set_state(pool)

  def close(self) -> None:
    self._scorer.close()


def _reward_on_device(
  run: Run, name: str, config: RlConfig, data: StageData
) -> tuple[DeviceScorer | None, str]:
  """The reward on the device, or None; and in words where it is, and why."""
  trunks = [*data.train, *data.valid]
  reason = device_reward.host_reason(
    config.reward, config.device_reward, trunks
  )
  if config.reward_on == "device" and reason:
    raise ValueError(
      f"c.{name}.reward_on='device' is not possible: {reason}; set it to "
      "'auto' or 'host'"
    )
  width = device_reward.target_width(trunks)
  if not reason and config.reward_on == "host":
    reason = "as configured"
  if not reason and config.reward_on == "auto":
    longest = device_reward.FASTER_UP_TO.get(jax.default_backend(), width)
    if width > longest:
      reason = f"faster here, for targets of up to {width} characters"
  if reason:
    return None, f"host ({reason})"
  reward = device_reward.DeviceReward(
    config.reward, config.device_reward, run.tokenizer
  )
  rules = run.config.rollout_rules
  return DeviceScorer(reward, width, run.mesh, rules), "device"


def _not_fusable(config: RlConfig, on_device: DeviceScorer | None) -> str:
  """Why a step cannot be one program; "" if it can."""
  if on_device is None:
    return "rewards are computed on the host"
  if config.dynamic_sampling.refill:
    return "a batch may take several rounds of sampling"
  return "a batch is used several times" if config.passes > 1 else ""
