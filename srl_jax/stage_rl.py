# SPDX-License-Identifier: Apache-2.0
"""Group-relative RL with dynamic sampling: SRL and RLVR.

The two differ in the instances (next step, whole solution) and in the reward.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import jax
import numpy as np

from srl_jax import dynamic_sampling, evaluate, scoring, sharding, update
from srl_jax.config import RlConfig
from srl_jax.reductions import metric, reduce_metrics
from srl_jax.rewards import FAILURES, Scorer
from srl_jax.stage import (
  Run,
  StageData,
  Work,
  check_finite,
  check_multiple,
  local_part,
)
from srl_jax.types import Array, Ratio


@dataclasses.dataclass(frozen=True)
class RolloutMetrics:
  """Metrics of one round of sampling, over all processes."""

  reward: Ratio = metric("ratio", "1", "mean reward")
  similarity: Ratio = metric("ratio", "1", "mean, where the format is whole")
  format_failure: Ratio = metric("ratio", "1", "share of broken formats")
  thought_chars: Ratio = metric("ratio", "characters", "mean thought length")
  action_chars: Ratio = metric("ratio", "characters", "mean action length")
  completion_tokens: Ratio = metric("ratio", "tokens", "mean length")
  kept_share: Ratio = metric("ratio", "1", "groups kept by the filter")
  groups_sampled: Array = metric("sum", "groups", "groups sampled")
  groups_kept: Array = metric("sum", "groups", "groups kept by the filter")
  rounds: Array = metric("sum", "rounds", "rounds of sampling")
  tokens_sampled: Array = metric("sum", "tokens", "completion tokens drawn")
  trunk_tokens: Array = metric("sum", "tokens", "trunk tokens processed")
  flat_prompt_tokens: Array = metric(
    "sum", "tokens", "prompt tokens if each sample repeated its context"
  )
  rollout_s: Array = metric("sum", "s", "time of prefill and decoding")
  reward_s: Array = metric("sum", "s", "time of scoring")


class RlStage:
  """GRPO with dynamic sampling (SRL, RLVR)."""

  columns = (
    "reward {reward:.3f}",
    "kept {groups_kept:.0f}/{groups_sampled:.0f} groups",
    "format failures {format_failure:.1%}",
    "{tokens_per_s:,.0f} tokens/s",
  )

  def __init__(self, run: Run, name: str, config: RlConfig):
    self._name, self._config = name, config
    self.passes = config.passes
    self.uses_reference = config.loss.kl_coefficient > 0
    for field in ("trunks_per_round", "trunks_per_micro_batch"):
      check_multiple(run, f"{name}.{field}", getattr(config, field))
    if config.instances.task == "solve":
      # Nobody can say whether a solution without a reference is right.
      run = dataclasses.replace(
        run,
        train=[t for t in run.train if t.answer is not None],
        valid=[t for t in run.valid if t.answer is not None],
      )
    self._run = run
    self._data = StageData(
      run,
      name,
      run.train,
      config.instances,
      batch_size=config.trunks_per_round,
      validation_trunks=config.validation_trunks,
      new_tokens=config.sampling.max_new_tokens,
    )
    self._pool = dynamic_sampling.Pool()
    self._worst_failure = ""
    self._sampler = run.sampler(config.sampling, config.instances.task)
    self._scorer = Scorer(config.reward)
    self.loss_fn = update.grpo_loss(
      run.policy, config.loss, config.sampling.temperature
    )

  def next_batch(self, params: Any, step: int) -> Work:
    config = self._config
    rounds = []
    while len(self._pool) < config.groups_per_batch:
      if len(rounds) == config.dynamic_sampling.max_rounds:
        raise RuntimeError(self._starved(reduce_metrics(rounds)))
      rounds.append(self._round(params, step, len(rounds)))
    groups = self._pool.take(config.groups_per_batch)
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

  def _batch_values(self, groups, step):
    values = {
      "groups_carried": len(self._pool),
      "stale_share": float(np.mean(groups.born_P < step)),
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

  def _round(self, params, step, round_index) -> RolloutMetrics:
    """Samples one batch of trunks, scores it and pools what is kept."""
    start_s = time.monotonic()
    batch = next(self._data.batches)
    key = self._run.key(self._name, "sample", step, round_index)
    branches = self._sampler.sample(params, batch.trunks, key)
    sampled_s = time.monotonic()
    scores = scoring.score_branches(
      batch, branches, self._run.tokenizer, self._scorer
    )
    scored_s = time.monotonic()
    depth_NK = np.zeros(batch.trunks.is_real_NK.shape, np.int32)
    for n, record in enumerate(batch.records):
      depth_NK[n, : len(record.points)] = [p.step for p in record.points]
    trunks, branches, scores, depth_NK = sharding.gather_rows(
      (batch.trunks, branches, scores, depth_NK)
    )
    groups = dynamic_sampling.make_groups(
      trunks,
      branches,
      scores.reward_NKG,
      depth_NK,
      step=step,
      round_index=round_index,
    )
    kept = dynamic_sampling.is_kept(
      groups.reward_PG, self._config.dynamic_sampling
    )
    self._pool.add(groups.pick(kept))
    seen = np.bincount(scores.failure_NKG.ravel(), minlength=len(FAILURES) + 1)
    self._worst_failure = FAILURES[int(seen[1:].argmax())]
    return _rollout_metrics(
      groups, kept, scores, sampled_s - start_s, scored_s - sampled_s
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
    estimates = evaluate.evaluate_steps(
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
    return update.compiled_count(self._sampler.program)

  def get_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return self._data.batches.get_state(), self._pool.get_state()

  def set_state(self, data: dict[str, Any], pool: dict[str, Any]) -> None:
    self._data.batches.set_state(data)
    self._pool.set_state(pool)

  def close(self) -> None:
    self._scorer.close()


def _rollout_metrics(groups, kept, scores, rollout_s, reward_s):
  is_real = ~np.isnan(scores.reward_NKG)
  is_whole = is_real & (scores.failure_NKG == 0)
  count = is_real.sum()
  whole = is_whole & ~np.isnan(scores.similarity_NKG)
  completion_PG = groups.length_PG - groups.stem_length_P[:, None]
  _, first_P = np.unique(groups.trunk_id_P, return_index=True)
  prompt_P = groups.branch_at_P + groups.stem_length_P
  mean = lambda x, at: Ratio(x[at].sum(), at.sum())  # noqa: E731
  return RolloutMetrics(
    reward=mean(scores.reward_NKG, is_real),
    similarity=mean(scores.similarity_NKG, whole),
    format_failure=Ratio((is_real & ~is_whole).sum(), count),
    thought_chars=mean(scores.thought_chars_NKG, is_whole),
    action_chars=mean(scores.action_chars_NKG, is_whole),
    completion_tokens=Ratio(completion_PG.sum(), completion_PG.size),
    kept_share=Ratio(kept.sum(), kept.size),
    groups_sampled=np.float64(kept.size),
    groups_kept=np.float64(kept.sum()),
    rounds=np.float64(1),
    tokens_sampled=np.float64(completion_PG.sum()),
    trunk_tokens=np.float64(groups.trunk_length_P[first_P].sum()),
    flat_prompt_tokens=np.float64(prompt_P.sum() * groups.reward_PG.shape[1]),
    rollout_s=np.float64(rollout_s),
    reward_s=np.float64(reward_s),
  )
