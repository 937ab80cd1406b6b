# SPDX-License-Identifier: Apache-2.0
"""Metrics of a round of sampling, measured on the host or in a program."""

from __future__ import annotations

import types

import flax.struct
import numpy as np

from srl_jax.reductions import explanations, metric
from srl_jax.types import Array, Branches, Ratio, Scores, SlotUse, Trunks


@flax.struct.dataclass
class RolloutMetrics:
  """Metrics of one round of sampling, over all processes."""

  reward: Ratio = metric("ratio", "1", "mean reward")
  reward_well_formed: Ratio = metric(
    "ratio", "1", "mean reward of completions whose format is whole"
  )
  format_failure: Ratio = metric("ratio", "1", "share of broken formats")
  thought_chars: Ratio = metric(
    "ratio", "characters", "mean thought length, of well-formed completions"
  )
  action_chars: Ratio = metric(
    "ratio", "characters", "mean action length, of well-formed completions"
  )
  completion_tokens: Ratio = metric(
    "ratio", "tokens", "mean length of a completion; episodes: of a turn"
  )
  unscored: Ratio = metric(
    "ratio", "1", "with fuse: share too long for the device's reward"
  )
  kept_share: Ratio = metric(
    "ratio", "1", "share of groups kept by the filter; 1 without a filter"
  )
  differing_share: Ratio = metric(
    "ratio", "1", "share of groups whose rewards differ, filtered or not"
  )
  groups_sampled: Array = metric("sum", "groups", "groups sampled")
  groups_kept: Array = metric("sum", "groups", "groups kept by the filter")
  rounds: Array = metric("sum", "rounds", "rounds of sampling")
  tokens_sampled: Array = metric("sum", "tokens", "completion tokens drawn")
  prompt_tokens: Array = metric(
    "sum", "tokens", "prompt tokens run: trunks once, stems in each sample"
  )
  flat_prompt_tokens: Array = metric(
    "sum", "tokens", "prompt tokens if each sample repeated its context"
  )
  slot_occupancy: Ratio = metric(
    "ratio", "1", "share of decoding's slot iterations that ran a token"
  )
  padded_share: Ratio = metric(
    "ratio", "1", "share of trunk and branch positions without a token"
  )
  rollout_s: Array = metric(
    "sum",
    "s",
    "time of sampling and scoring, environments included; 0 in a fused update "
    "step",
  )
  reward_s: Array = metric(
    "sum", "s", "part of rollout_s in which the host scored"
  )


def measure(
  trunks: Trunks,
  branches: Branches,
  scores: Scores,
  kept_NK: Array,
  differing_NK: Array,
  slot_use: SlotUse,
  rollout_s: float = 0.0,
  reward_s: float = 0.0,
  xp: types.ModuleType = np,
) -> RolloutMetrics:
  """Measures one round.

  Args:
    trunks: N trunks with K branch points.
    branches: their R = K * G branches.
    scores: scores of all branches [N, K, G].
    kept_NK: True for groups that the filter keeps.
    differing_NK: True for groups whose rewards differ.
    slot_use: how full the slots were.
    rollout_s: time of sampling and scoring; a program knows none.
    reward_s: the part of it in which the host scored.
    xp: numpy on the host, jax.numpy inside a program.
  """
  is_scored_NKG = ~xp.isnan(scores.reward_NKG)
  is_real_NKG = trunks.is_real_NK[..., None] | is_scored_NKG
  is_whole_NKG = is_scored_NKG & (scores.failure_NKG == 0)
  is_compared_NKG = is_whole_NKG & ~xp.isnan(scores.value_NKG)
  is_real_NK = trunks.is_real_NK
  samples = scores.reward_NKG.shape[-1]
  groups = _sum(xp, is_real_NK)
  kept = _sum(xp, kept_NK)
  drawn = _sum(xp, branches.is_completion_NRC)
  stem_tokens = _sum(xp, is_real_NK * trunks.stem_length_NK) * samples
  zero = xp.zeros((), xp.float32)
  positions = trunks.tokens_NS.size + branches.tokens_NRC.size
  tokens = _sum(xp, trunks.length_N) + _sum(xp, branches.length_NR)

  def mean(x, at):
    return Ratio(_sum(xp, xp.where(at, x, 0)), _sum(xp, at))

  return RolloutMetrics(
    reward=mean(scores.reward_NKG, is_scored_NKG),
    reward_well_formed=mean(scores.value_NKG, is_compared_NKG),
    format_failure=mean(~is_whole_NKG, is_scored_NKG),
    thought_chars=mean(scores.thought_chars_NKG, is_whole_NKG),
    action_chars=mean(scores.action_chars_NKG, is_whole_NKG),
    completion_tokens=Ratio(drawn, groups * samples),
    unscored=mean(~is_scored_NKG, is_real_NKG),
    kept_share=Ratio(kept, groups),
    differing_share=Ratio(_sum(xp, differing_NK), groups),
    groups_sampled=groups,
    groups_kept=kept,
    rounds=zero + 1,
    tokens_sampled=drawn,
    prompt_tokens=_sum(xp, is_real_NK.any(1) * trunks.length_N) + stem_tokens,
    flat_prompt_tokens=_sum(xp, is_real_NK * trunks.branch_at_NK) * samples
    + stem_tokens,
    slot_occupancy=Ratio(
      _sum(xp, slot_use.busy_N), _sum(xp, slot_use.slot_iterations_N)
    ),
    padded_share=Ratio(positions - tokens, zero + positions),
    rollout_s=xp.asarray(rollout_s),
    reward_s=xp.asarray(reward_s),
  )


def of_nothing() -> dict[str, float]:
  """Returns the metrics of no round: sums of 0, and no means."""
  return {
    name: 0.0
    for name, reduction, *_ in explanations(RolloutMetrics)
    if reduction == "sum"
  }


def of_samples(branches: Branches, scores: Scores) -> dict[str, np.ndarray]:
  """Returns values of single samples, named like the metrics that they make.

  Args:
    branches: of a round, on the host.
    scores: of these branches.
  """
  is_scored_NKG = ~np.isnan(scores.reward_NKG)
  is_whole_NKG = is_scored_NKG & (scores.failure_NKG == 0)
  length_NR = branches.is_completion_NRC.sum(-1)
  return {
    "reward": scores.reward_NKG[is_scored_NKG],
    "completion_tokens": length_NR[length_NR > 0],
    "thought_chars": scores.thought_chars_NKG[is_whole_NKG],
  }


def _sum(xp, x):
  return xp.sum(x, dtype=xp.float32)
