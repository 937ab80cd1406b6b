# SPDX-License-Identifier: Apache-2.0
"""GRPO and SFT losses on trunks with their branches (SRL, Section 3).

Each trunk is computed once and its branches attend to it, by the same model
functions as in the sampler. A loss is a ratio whose numerator and denominator
add over micro-batches. groups.py decides which groups form a batch; updater.py
decides how gradients become an update.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp

from srl_jax import strict
from srl_jax.ops import advantages, logprobs, losses
from srl_jax.reductions import metric
from srl_jax.rollout.decode import Policy, trunk_positions
from srl_jax.types import Array, Branches, Ratio, Trunks
from srl_jax.update.batch import LossFn


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The GRPO objective; the defaults are the SRL paper's equation.

  Attributes:
    surrogate: "clipped" (PPO), "dual_clipped" (bounded for negative
      advantages too) or "truncated" importance weights.
    clip_low: the ratio is clipped below at 1 - clip_low.
    clip_high: the ratio is clipped above at 1 + clip_high; a value larger
      than clip_low is DAPO's clip-higher.
    dual_clip: upper bound of the ratio of a "dual_clipped" token with a
      negative advantage.
    importance_cap: upper bound of the truncated importance weight.
    aggregation: "sequence_mean" (the paper), "token_mean" (DAPO) or
      "fixed_divisor" (Dr. GRPO).
    divisor_tokens: the constant length of "fixed_divisor", usually
      max_new_tokens; 0 for the other aggregations.
    divide_by_group_std: False leaves advantages at the scale of the rewards
      (Dr. GRPO).
    kl_coefficient: weight of the k3 estimate of KL(policy || reference); the
      reference is the policy at the start of the stage. 0 needs no reference.
    max_logits: approximate number of logits that a device holds at a time; 0
      holds all at once. The result is the same.
  """

  surrogate: Literal["clipped", "dual_clipped", "truncated"] = "clipped"
  clip_low: float = 0.2
  clip_high: float = 0.2
  dual_clip: float = 3.0
  importance_cap: float = 2.0
  aggregation: Literal["sequence_mean", "token_mean", "fixed_divisor"] = (
    "sequence_mean"
  )
  divisor_tokens: int = 0
  divide_by_group_std: bool = True
  kl_coefficient: float = 0.0
  max_logits: int = 1 << 26

  def __post_init__(self):
    strict.check_numbers(
      self,
      clip_low="[0, 1]",
      clip_high="[0, )",
      dual_clip="(1, )",
      importance_cap="(0, )",
      divisor_tokens="[0, )",
      kl_coefficient="[0, )",
      max_logits="[0, )",
    )
    is_dual = self.surrogate == "dual_clipped"
    if is_dual and self.dual_clip <= 1 + self.clip_high:
      raise ValueError(
        f"dual_clip={self.dual_clip} is not above 1 + clip_high="
        f"{1 + self.clip_high:g}; set it to a larger ratio, for example 3"
      )
    if self.aggregation == "fixed_divisor" and self.divisor_tokens < 1:
      raise ValueError(
        f"aggregation='fixed_divisor' with divisor_tokens="
        f"{self.divisor_tokens}; set divisor_tokens to a length in tokens, "
        "for example max_new_tokens"
      )


@flax.struct.dataclass
class GrpoMetrics:
  """Metrics of one micro-batch of a GRPO update."""

  loss: Ratio = metric("ratio", "1", "loss, aggregated as configured")
  entropy: Ratio = metric("ratio", "nats", "policy entropy per token")
  clipped_share: Ratio = metric(
    "ratio", "1", "share of tokens whose ratio left the clip interval"
  )
  dual_clipped_share: Ratio = metric(
    "ratio",
    "1",
    "share of tokens with advantage < 0 and a ratio above dual_clip",
  )
  ratio_max: Array = metric("max", "1", "largest policy/sampler ratio")
  kl_reference: Ratio = metric("ratio", "nats", "k3 KL to the reference")
  logp_gap: Ratio = metric(
    "ratio", "nats", "mean |sampler - trainer log-prob| of fresh tokens"
  )
  logp_gap_max: Array = metric(
    "max", "nats", "largest |sampler - trainer log-prob| of fresh tokens"
  )
  tokens_trained: Array = metric("sum", "tokens", "completion tokens in loss")


@flax.struct.dataclass
class SftMetrics:
  """Metrics of one micro-batch of supervised fine-tuning."""

  loss: Ratio = metric("ratio", "nats", "cross-entropy per target token")
  accuracy: Ratio = metric(
    "ratio", "1", "share of target tokens that are the most likely ones"
  )
  confident_share: Ratio = metric(
    "ratio", "1", "share of target tokens given a probability above 1/2"
  )
  tokens_trained: Array = metric("sum", "tokens", "target tokens in loss")


def branch_logps(
  policy: Policy,
  params: Any,
  trunks: Trunks,
  branches: Branches,
  *,
  temperature: float,
  max_logits: int,
) -> logprobs.TokenScores:
  """Returns the log-prob of every branch token, and the entropy there.

  Args:
    policy: the model's functions.
    params: the model's parameters; gradients flow through trunk and branches.
    trunks: N trunks.
    branches: branches [N, R, ...], R a multiple of K, ordered point by point.
    temperature: temperature of sampling; 1 for greedy decoding and SFT.
    max_logits: see `logprobs.token_logps`.

  Returns:
    Scores [N, R, C]; zero and False at the first token, which is given and
    not predicted.
  """
  samples = branches.tokens_NRC.shape[1] // trunks.branch_at_NK.shape[1]
  branch_at_NR = jnp.repeat(trunks.branch_at_NK, samples, axis=1)
  trunk = policy.trunk(params, trunks.tokens_NS, trunk_positions(trunks))
  # The last token predicts nothing.
  tokens_NRC = branches.tokens_NRC[..., :-1]
  place_C = jnp.arange(tokens_NRC.shape[-1])
  is_token_NRC = place_C < branches.length_NR[..., None]
  position_NRC = jnp.where(is_token_NRC, branch_at_NR[..., None] + place_C, -1)
  hidden_NRCD, _ = policy.branch(
    params, tokens_NRC, position_NRC, branch_at_NR, trunk, None
  )
  scores = logprobs.token_logps(
    policy.head(params),
    hidden_NRCD,
    branches.tokens_NRC[..., 1:],
    temperature=temperature,
    max_logits=max_logits,
  )
  first = ((0, 0), (0, 0), (1, 0))
  return logprobs.TokenScores(*(jnp.pad(x, first) for x in scores))


def grpo_loss(policy: Policy, config: LossConfig, temperature: float) -> LossFn:
  """Returns the configured GRPO loss (SRL, Section 3)."""
  surrogate = {
    "clipped": functools.partial(
      losses.clipped_surrogate,
      clip_low=config.clip_low,
      clip_high=config.clip_high,
    ),
    "dual_clipped": functools.partial(
      losses.dual_clipped_surrogate,
      clip_low=config.clip_low,
      clip_high=config.clip_high,
      dual_clip=config.dual_clip,
    ),
    "truncated": functools.partial(
      losses.truncated_importance, cap=config.importance_cap
    ),
  }[config.surrogate]
  aggregate = {
    "sequence_mean": losses.sequence_mean,
    "token_mean": losses.token_mean,
    "fixed_divisor": functools.partial(
      losses.fixed_divisor, divisor_tokens=config.divisor_tokens
    ),
  }[config.aggregation]
  logps = functools.partial(
    branch_logps,
    policy,
    temperature=temperature,
    max_logits=config.max_logits,
  )

  def loss_fn(params, batch, reference):
    trunks, branches = batch.trunks, batch.branches
    counted_NRC = branches.is_completion_NRC
    # Log-probs are zero on tokens that do not count, as the sampler's are.
    # Otherwise exp could overflow on unlikely given tokens, and 0 * inf is nan.
    only_counted = lambda x: jnp.where(counted_NRC, x, 0.0)  # noqa: E731
    scores = logps(params, trunks, branches)
    logp_NRC = only_counted(scores.logp)
    advantage_NKG = advantages.group_advantages(
      batch.reward_NKG, divide_by_std=config.divide_by_group_std
    )
    advantage_NR = advantage_NKG.reshape(branches.length_NR.shape)
    loss_NRC = surrogate(logp_NRC, branches.sampler_logp_NRC, advantage_NR)
    kl_NRC = jnp.zeros_like(loss_NRC)
    if config.kl_coefficient:
      reference_NRC = logps(reference, trunks, branches).logp
      kl_NRC = losses.kl_k3(logp_NRC, only_counted(reference_NRC))
      loss_NRC = loss_NRC + config.kl_coefficient * kl_NRC
    loss = aggregate(loss_NRC, counted_NRC)
    metrics = _grpo_metrics(
      loss, batch, logp_NRC, scores.entropy, kl_NRC, advantage_NR, config
    )
    return loss, jax.lax.stop_gradient(metrics)

  return loss_fn


def _grpo_metrics(
  loss, batch, logp_NRC, entropy_NRC, kl_NRC, advantage_NR, config
):
  counted_NRC = batch.branches.is_completion_NRC
  samples = batch.reward_NKG.shape[-1]
  is_fresh_NR = jnp.repeat(batch.is_fresh_NK, samples, axis=1)
  fresh_NRC = counted_NRC & is_fresh_NR[..., None]
  gap_NRC = logp_NRC - batch.branches.sampler_logp_NRC
  ratio_NRC = jnp.exp(gap_NRC)
  is_outside_NRC = (ratio_NRC < 1 - config.clip_low) | (
    ratio_NRC > 1 + config.clip_high
  )
  is_bounded_NRC = (ratio_NRC > config.dual_clip) & (
    advantage_NR[..., None] < 0
  )
  fresh_gap_NRC = jnp.where(fresh_NRC, jnp.abs(gap_NRC), 0.0)
  return GrpoMetrics(
    loss=loss,
    entropy=losses.token_mean(entropy_NRC, counted_NRC),
    clipped_share=losses.token_mean(
      is_outside_NRC.astype(jnp.float32), counted_NRC
    ),
    dual_clipped_share=losses.token_mean(
      is_bounded_NRC.astype(jnp.float32), counted_NRC
    ),
    ratio_max=ratio_NRC.max(),
    kl_reference=losses.token_mean(kl_NRC, counted_NRC),
    logp_gap=losses.token_mean(fresh_gap_NRC, fresh_NRC),
    logp_gap_max=fresh_gap_NRC.max(),
    tokens_trained=counted_NRC.sum(),
  )


def sft_loss(policy: Policy, *, max_logits: int) -> LossFn:
  """Returns the cross-entropy per target token of the expert's branches."""

  def loss_fn(params, batch, reference):
    del reference
    scores = branch_logps(
      policy,
      params,
      batch.trunks,
      batch.branches,
      temperature=1.0,
      max_logits=max_logits,
    )
    counted_NRC = batch.branches.is_completion_NRC

    def share(is_so_NRC):
      return losses.token_mean(is_so_NRC.astype(jnp.float32), counted_NRC)

    loss = losses.token_mean(-scores.logp, counted_NRC)
    metrics = SftMetrics(
      loss=loss,
      accuracy=share(scores.is_top),
      confident_share=share(scores.logp > jnp.log(0.5)),
      tokens_trained=counted_NRC.sum(),
    )
    return loss, jax.lax.stop_gradient(metrics)

  return loss_fn
