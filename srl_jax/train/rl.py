# SPDX-License-Identifier: Apache-2.0
"""Group-relative RL with dynamic sampling: SRL and RLVR.

The two differ in the branch points (next step, whole solution) and in the
reward. How an update step is taken is decided here, once: in one program
(fused.py) where that is asked for, else several (rl_update.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from srl_jax import progress, sharding
from srl_jax.data.batching import TrunkBatch
from srl_jax.device_rewards import reward as device_reward
from srl_jax.device_rewards.scorer import DeviceScorer
from srl_jax.domains import domains_of
from srl_jax.evaluate.steps import evaluate_steps
from srl_jax.rewards import RewardError, Scorer
from srl_jax.rollout import record, scoring
from srl_jax.train.batch_shapes import check_sampled, micro_batch_trunks
from srl_jax.train.data import StageData, load_data
from srl_jax.train.fused import FusedUpdate
from srl_jax.train.memory import Program
from srl_jax.train.problems import with_judgeable
from srl_jax.train.rl_config import RlConfig, RoundConfig
from srl_jax.train.rl_setup import RlSetup, check_logp_gap, make_updater
from srl_jax.train.rl_update import RlUpdate
from srl_jax.train.stage import Dispatched, Run, check_finite
from srl_jax.types import Branches, Scores
from srl_jax.update.updater import TrainState, compiled_count


def _kept(values: Mapping[str, float]) -> str:
  """Where the batch of an update step comes from, for its console line."""
  if not values["rounds"]:
    return "from earlier samples"
  return "kept {groups_kept:.0f}/{groups_sampled:.0f} groups".format(**values)


class RlStage:
  """GRPO with dynamic sampling (SRL, RLVR)."""

  columns = (
    "reward {reward:.3f}",
    _kept,
    "format failures {format_failure:.1%}",
    "{tokens_per_s:,.0f} tokens/s",
  )

  def __init__(
    self, run: Run, name: str, config: RlConfig, data: StageData | None = None
  ):
    """Loads the data, unless there are some, and starts the reward workers.

    Raises:
      ValueError: the settings do not fit data, model or mesh.
      RewardError: a reward function of one's own fails on the expert's text.
    """
    sampling = config.sampling
    parts = sampling.parts_per_round
    part = "trunks_per_round" + (" / parts_per_round" if parts > 1 else "")
    in_part = sampling.trunks_per_round // parts
    check_sampled(run, f"{name}.sampling.{part}", in_part)
    check_sampled(run, f"{name}.sampling.rows", sampling.rows)
    reward = scoring.resolve_reward(
      config.reward,
      config.trunks.task,
      domains_of([*run.train, *run.valid]),
      name,
    )
    config = dataclasses.replace(
      config,
      reward=reward,
      trunks_per_micro_batch=micro_batch_trunks(
        run, config.trunks_per_micro_batch
      ),
    )
    self.name, self.config = name, config
    self.uses_reference = config.loss.uses_reference
    if not config.dynamic_sampling.enabled:
      self.columns += ("rewards differ in {differing_share:.0%} of groups",)
    self.data = data or _load(run, name, config)
    _check_batch(name, config, self.data)
    self._run = run
    self._sampler = run.sampler(
      config.sampling.for_sampler(), config.trunks.task
    )
    self._scorer = Scorer(config.reward, run.reward_workers)
    self._device_scorer, where = _device_scorer(run, name, config, self.data)
    if config.fuse and (reason := why_not_fused(config, self._device_scorer)):
      raise ValueError(
        f"c.{name}.fuse is True, and an update step cannot be one program, as "
        f"{reason}; change that, or set c.{name}.fuse=False"
      )
    if ":" in reward.function and self.data.train:
      self._try_reward()
    self._has_warned = False
    own = f" by {reward.function}" if ":" in reward.function else ""
    self.description = f"rewards{own} on the {where}"
    if config.fuse:
      self.description += ", one program per update step"

  def _try_reward(self) -> None:
    """Scores the expert's own text, so that mistakes show before training."""
    try:
      value = scoring.score_expert(
        self.data.train[0],
        self.config.trunks.task,
        self._run.tokenizer,
        self._scorer,
        self.config.sampling.max_new_tokens,
      )
    except RewardError:
      self.close()
      raise
    progress.say(
      f"{self.name}: {self.config.reward.function} gives the expert's own text "
      f"{value:.3f}"
    )

  def prepare(self, params: Any) -> None:
    run, config = self._run, self.config
    self.updater = make_updater(
      run, config, config.sampling.temperature, params
    )
    setup = RlSetup(
      run=run,
      name=self.name,
      config=config,
      data=self.data,
      sampler=self._sampler,
      scorer=self._scorer,
      device_scorer=self._device_scorer,
      updater=self.updater,
    )
    self.updates = FusedUpdate(setup) if config.fuse else RlUpdate(setup)

  def plan(self) -> Iterator[Program]:
    return self.updates.plan()

  def take_update(
    self, state: TrainState, update_step: int, reference: Any
  ) -> tuple[TrainState, Dispatched]:
    return self.updates.take(state, update_step, reference)

  def validate(
    self, params: Any, update_step: int
  ) -> tuple[float, dict[str, float]]:
    run, config, recorder = self._run, self.config, self._run.recorder
    recorded: list[dict[str, Any]] = []
    ids = set()
    if recorder and recorder.is_due_in_validation(
      update_step, config.update_steps, config.validate_every
    ):
      ids = record.first_ids(
        (trunk.trajectory for trunk in self.data.valid),
        recorder.config.trajectories,
      )

    def keep(batch: TrunkBatch, branches: Branches, scores: Scores) -> None:
      recorded.extend(
        record.rows_of(batch, branches, scores, ids, run.tokenizer)
      )

    trunks, slots = validation_batch(
      config.sampling,
      self.data.widths.points,
      self.data.valid_widths.points,
      self._sampler.batch_devices,
    )
    sampling = dataclasses.replace(config.sampling.for_sampler(), slots=slots)
    estimates = evaluate_steps(
      run.sampler(sampling, config.trunks.task),
      params,
      self.data.valid,
      key=run.key(self.name, "validate"),
      tokenizer=run.tokenizer,
      scorer=self._scorer,
      widths=self.data.valid_widths,
      trunks_per_batch=trunks,
      watch=keep if ids else None,
    )
    if recorded:
      run.keep_rollouts(self.name, "valid", update_step, recorded)
    if config.trunks.task == "solve":
      # The reference is an answer, which no solution equals.
      del estimates["exact"]
    values = {f"validation_{k}": e.value for k, e in estimates.items()}
    return estimates["reward"].value, values

  def check(self, values: dict[str, float]) -> None:
    check_finite(values)
    check_logp_gap(self.name, self.config, values)
    # Only fused steps leave samples unscored; otherwise the host scores them.
    if values.get("unscored", 0) > 0 and not self._has_warned:
      self._has_warned = True
      progress.warn(
        f"{self.name}: {values['unscored']:.1%} of the samples are "
        "too long for the reward on the device, and their groups are left out; "
        f"set c.{self.name}.fuse=False to have them scored"
      )

  def compiled_count(self) -> int:
    return compiled_count(*self.updates.compiled())

  def get_state(self) -> tuple[dict[str, Any], Any]:
    data = self.data.batches.get_state() | self.updates.get_state()
    return data, self.updates.pool.get_state()

  def set_state(self, data: dict[str, Any], pool: Any) -> None:
    self.data.batches.set_state(data)
    self.updates.set_state(data)
    self.updates.pool.set_state(pool)

  def close(self) -> None:
    self._scorer.close()


def validation_batch(
  sampling: RoundConfig, points: int, valid_points: int, devices: int
) -> tuple[int, int]:
  """Returns trunks and slots of a batch of a validation.

  It decodes no more branches than a part of a round, for which the memory was
  planned.

  Args:
    sampling: of the rounds.
    points: branch points of a trunk of a round.
    valid_points: branch points of a trunk of the validation.
    devices: that the trunks are split over; empty ones fill up the last.
  """
  rows = sampling.rows or (
    sampling.trunks_per_round // sampling.parts_per_round
  )
  trunks = max(1, rows * points // valid_points)
  in_part = rows * sampling.slots_of(points * sampling.samples)
  most = max(1, in_part // sharding.rounded_up(trunks, devices))
  wanted = sampling.slots or valid_points * sampling.samples
  return trunks, sampling.slots if wanted <= most else most


def _check_batch(name: str, config: RlConfig, data: StageData) -> None:
  """Raises ValueError if all rounds together cannot give half a batch."""
  sampling, dynamic = config.sampling, config.dynamic_sampling
  most = sampling.trunks_per_round * data.widths.points * dynamic.max_rounds
  if dynamic.refill and 2 * most < config.groups_per_batch:
    raise ValueError(
      f"c.{name}.groups_per_batch={config.groups_per_batch}, and "
      f"{dynamic.max_rounds} rounds (dynamic_sampling.max_rounds) of "
      f"{sampling.trunks_per_round} trunks (sampling.trunks_per_round) with up "
      f"to {data.widths.points} branch points have at most {most} groups; set "
      f"c.{name}.groups_per_batch to {most} or less, or raise one of these"
    )


def _load(run: Run, name: str, config: RlConfig) -> StageData:
  if config.trunks.task == "solve":
    run = with_judgeable(run, name, by_environment=False)
  data = load_data(
    run,
    name,
    "train",
    config.trunks,
    batch_field="sampling.trunks_per_round",
    batch_size=config.sampling.trunks_per_round,
    validation_trajectories=config.validation_trajectories,
    new_tokens=config.sampling.max_new_tokens,
  )
  if config.trunks.task == "step":
    _warn_of_long_targets(name, config, data)
  return data


def _warn_of_long_targets(name: str, config: RlConfig, data: StageData) -> None:
  """Warns of expert's steps that no completion has room for."""
  limit = config.sampling.max_new_tokens
  lengths = [
    len(point.target_tokens) for trunk in data.train for point in trunk.points
  ]
  longer = sum(length > limit for length in lengths)
  if longer:
    progress.warn(
      f"{name}: {longer:,} of {len(lengths):,} expert steps are longer than "
      f"c.{name}.sampling.max_new_tokens={limit}, so no completion can equal "
      f"them; 95% have up to {np.percentile(lengths, 95):.0f} tokens, and a "
      "thought comes before them. Raise it, or drop them by "
      f"c.{name}.trunks.max_target_tokens"
    )


def _device_scorer(
  run: Run, name: str, config: RlConfig, data: StageData
) -> tuple[DeviceScorer | None, str]:
  """The reward on the device, or None; and in words where it is, and why."""
  reason = device_reward.host_reason(
    config.reward, run.device_reward, data.target_chars
  )
  platform, on = run.mesh.devices.flat[0].platform, run.device_reward.on
  if on == "device" and reason:
    raise ValueError(
      f"c.device_reward.on='device' is not possible for {name}: {reason}; set "
      "it to 'auto' or 'host'"
    )
  if on == "host":
    reason = reason or "as configured"
  elif on == "auto" and platform == "cpu":
    # At every length, see benchmarks/RESULTS.md; nothing else was measured.
    reason = reason or "which is faster on CPUs"
  if reason:
    return None, f"host ({reason})"
  reward = device_reward.DeviceReward(
    config.reward, run.device_reward, run.tokenizer, platform
  )
  scorer = DeviceScorer(reward, data.target_chars, run.mesh, run.rollout_rules)
  return scorer, "device"


def why_not_fused(config: RlConfig, scorer: DeviceScorer | None) -> str:
  """Returns why an update step cannot be one program; "" if it can."""
  if scorer is None:
    return "rewards are computed on the host"
  if config.dynamic_sampling.refill:
    return "a batch may take several rounds of sampling"
  if config.sampling.parts_per_round > 1:
    return f"parts_per_round={config.sampling.parts_per_round} is above 1"
  if config.sampling.trunks_per_round % config.trunks_per_micro_batch:
    return (
      f"trunks_per_micro_batch={config.trunks_per_micro_batch} does not divide "
      f"trunks_per_round={config.sampling.trunks_per_round}"
    )
  return f"passes={config.passes} is above 1" if config.passes > 1 else ""
