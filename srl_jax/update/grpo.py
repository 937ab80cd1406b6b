# SPDX-License-Identifier: Apache-2.0
"""GRPO and SFT losses on trunks with their branches (SRL, Section 3).

Each trunk is computed once and its branches attend to it, by the same layers
as in the sampler. A loss is a ratio whose numerator and denominator
add over micro-batches. groups.py decides which groups form a batch, packing.py
where they lie in it, and updater.py how gradients become an update.

Axes besides those of the legend: N rows, B lanes, W cells; see batch.py.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp

from srl_jax import strict
from srl_jax.ops import logprobs, losses
from srl_jax.policy import Policy, trunk_positions
from srl_jax.reductions import metric
from srl_jax.types import Array, Ratio
from srl_jax.update.batch import LossFn, MicroBatch

_CAP = 2.0


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The GRPO objective; the defaults are the SRL paper's equation.

  Attributes:
    surrogate: "clipped" (PPO), "dual_clipped" (bounded for negative
      advantages too), "truncated" importance weights, or "imitation" of the
      samples that are better than their group's mean.
    ratio: of policy and sampler, for each "token" (the paper), or the geometric
      mean over the tokens of a "sequence" (GSPO), which is close to 1 and needs
      narrow clips. Fresh tokens have ratio 1; "truncated" takes the
      trainer's and the sampler's of them, too.
    clip_low: the lower clip bound of the ratio is 1 - clip_low.
    clip_high: the upper clip bound is 1 + clip_high; a value larger than
      clip_low is DAPO's clip-higher.
    dual_clip: upper bound of the ratio of a "dual_clipped" token with a
      negative advantage.
    importance_cap: upper bound of the truncated importance weight.
    aggregation: "sequence_mean" (the paper), "token_mean" (DAPO) or
      "fixed_divisor" (Dr. GRPO). A sequence is a completion; in the stage
      episodes, which the paper does not have, that is a turn.
    divisor_tokens: the constant length of "fixed_divisor", usually
      max_new_tokens; 0 for the other aggregations.
    divide_by_group_std: False leaves advantages at the scale of the rewards
      (Dr. GRPO).
    kl_coefficient: weight of the k3 estimate of KL(policy || reference); the
      reference is the policy at the start of the stage. 0 needs no reference.
    max_logits: approximate number of logits that a device holds at a time; 0
      holds all at once. The result is the same.
  """

  surrogate: Literal["clipped", "dual_clipped", "truncated", "imitation"] = (
    "clipped"
  )
  ratio: Literal["token", "sequence"] = "token"
  clip_low: float = 0.2
  clip_high: float = 0.2
  dual_clip: float = 3.0
  importance_cap: float = _CAP
  aggregation: Literal["sequence_mean", "token_mean", "fixed_divisor"] = (
    "sequence_mean"
  )
  divisor_tokens: int = 0
  divide_by_group_std: bool = True
  kl_coefficient: float = 0.0
  max_logits: int = 1 << 26

  def __post_init__(self):
    strict.check_literals(self)
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
    self._check_used("importance_cap", "truncated")
    self._check_used("ratio", "clipped", "dual_clipped", "truncated")
    if self.aggregation != "fixed_divisor" and self.divisor_tokens:
      raise ValueError(
        f"divisor_tokens={self.divisor_tokens} has no effect with aggregation="
        f"{self.aggregation!r}; set it to 0, or aggregation to 'fixed_divisor'"
      )
    if self.aggregation == "fixed_divisor" and self.divisor_tokens < 1:
      raise ValueError(
        f"aggregation='fixed_divisor' with divisor_tokens="
        f"{self.divisor_tokens}; set divisor_tokens to a length in tokens, "
        "for example max_new_tokens"
      )

  def refuse_unread(self) -> None:
    """Refuses for a new run what its loss would not read.

    Not at construction, because runs of earlier versions have such settings.

    Raises:
      ValueError: a field is set that the surrogate does not read.
    """
    for name in ("clip_low", "clip_high"):
      self._check_used(name, "clipped", "dual_clipped")
    self._check_used(
      "divide_by_group_std", "clipped", "dual_clipped", "truncated"
    )

  def _check_used(self, name: str, *surrogates: str) -> None:
    """Raises ValueError if a field is set that the surrogate does not read."""
    value, default = getattr(self, name), getattr(type(self), name)
    if value != default and self.surrogate not in surrogates:
      raise ValueError(
        f"{name}={value!r} has no effect with surrogate={self.surrogate!r}; "
        f"leave it at {default!r}, or set surrogate to {surrogates[0]!r}"
      )

  @property
  def is_clipped(self) -> bool:
    """Whether clip_low and clip_high bound the ratio."""
    return self.surrogate in ("clipped", "dual_clipped")

  @property
  def uses_reference(self) -> bool:
    """Whether there is a KL reference: parameters to stay close to."""
    return self.kl_coefficient > 0


@flax.struct.dataclass
class GrpoMetrics:
  """Metrics of one micro-batch of a GRPO update."""

  loss: Ratio = metric("ratio", "1", "loss, aggregated as configured")
  entropy: Ratio = metric("ratio", "nats", "policy entropy per token")
  clipped_share: Ratio = metric(
    "ratio",
    "1",
    "share of tokens whose ratio left the clip interval; none if the surrogate "
    "has no clip",
  )
  dual_clipped_share: Ratio = metric(
    "ratio",
    "1",
    "share of tokens with advantage < 0 and a ratio above dual_clip",
  )
  ratio_max: Array = metric("max", "1", "largest ratio in the surrogate")
  kl_reference: Ratio = metric(
    "ratio", "nats", "k3 KL to the reference; none if kl_coefficient is 0"
  )
  logp_gap: Ratio = metric(
    "ratio", "nats", "mean |sampler - trainer log-prob| of fresh tokens"
  )
  logp_gap_max: Array = metric(
    "max", "nats", "largest |sampler - trainer log-prob| of fresh tokens"
  )
  tokens_trained: Array = metric("sum", "tokens", "completion tokens in loss")
  positions_used: Ratio = metric(
    "ratio", "1", "share of the update's positions that hold a token"
  )


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
  positions_used: Ratio = metric(
    "ratio", "1", "share of the update's positions that hold a token"
  )


def lane_logps(
  policy: Policy,
  params: Any,
  batch: MicroBatch,
  *,
  temperature: float,
  max_logits: int,
) -> logprobs.TokenScores:
  """Returns the log-prob of every target, and the entropy there.

  Args:
    policy: the model's functions.
    params: the model's parameters; gradients flow through trunks and lanes.
    batch: the micro-batch.
    temperature: temperature of sampling; 1 for greedy decoding and SFT.
    max_logits: see `logprobs.token_logps`.

  Returns:
    Scores [N, B, W]; finite and without a meaning where there is no token.
  """
  width = batch.trunk_NUS.shape[-1]
  hidden_NBWD = policy.lanes(
    params,
    batch.trunk_NUS,
    trunk_positions(batch.trunk_length_NU, width),
    batch.tokens_NBW,
    batch.position_NBW,
    batch.first_NBW,
    batch.trunk_of_NB,
  )
  return logprobs.token_logps(
    policy.head(params),
    hidden_NBWD,
    batch.targets_NBW,
    temperature=temperature,
    max_logits=max_logits,
  )


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
    "imitation": losses.imitation,
  }[config.surrogate]
  logps = functools.partial(
    lane_logps,
    policy,
    temperature=temperature,
    max_logits=config.max_logits,
  )

  @jax.named_scope("grpo_loss")
  def loss_fn(params, batch, reference):
    is_counted_NBW = batch.completion_tokens_NBW > 0
    # Log-probs are zero on tokens that do not count, as the sampler's are.
    # Otherwise exp could overflow on unlikely given tokens, and 0 * inf is nan.
    only_counted = lambda x: jnp.where(is_counted_NBW, x, 0.0)  # noqa: E731
    scores = logps(params, batch)
    logp_NBW = only_counted(scores.logp)
    old_logp_NBW = batch.sampler_logp_NBW
    if config.is_clipped:
      # Fresh tokens were drawn by these very parameters. Where the sampler has
      # rounded otherwise, the clip would take their gradient away.
      fresh_NBW = jax.lax.stop_gradient(logp_NBW)
      old_logp_NBW = jnp.where(batch.is_fresh_NBW, fresh_NBW, old_logp_NBW)
    if config.ratio == "sequence":
      old_logp_NBW = losses.with_sequence_ratio(
        logp_NBW, old_logp_NBW, batch.first_NBW, batch.completion_tokens_NBW
      )
    loss_NBW = surrogate(logp_NBW, old_logp_NBW, batch.advantage_NBW)
    kl_NBW = jnp.zeros_like(loss_NBW)
    if config.uses_reference:
      reference_NBW = logps(reference, batch).logp
      kl_NBW = losses.kl_k3(logp_NBW, only_counted(reference_NBW))
      loss_NBW = loss_NBW + config.kl_coefficient * kl_NBW
    loss = aggregate(loss_NBW, batch, config)
    metrics = _grpo_metrics(
      loss, batch, logp_NBW, old_logp_NBW, scores.entropy, kl_NBW, config
    )
    return loss, jax.lax.stop_gradient(metrics)

  return loss_fn


def aggregate(
  loss_NBW: jax.Array, batch: MicroBatch, config: LossConfig
) -> Ratio:
  """Returns the per-token losses of a micro-batch, aggregated as configured."""
  if config.aggregation == "sequence_mean":
    return losses.sequence_mean(
      loss_NBW, batch.completion_tokens_NBW, batch.branches_N
    )
  is_counted_NBW = batch.completion_tokens_NBW > 0
  if config.aggregation == "token_mean":
    return losses.token_mean(loss_NBW, is_counted_NBW)
  return losses.fixed_divisor(
    loss_NBW,
    is_counted_NBW,
    batch.branches_N,
    divisor_tokens=config.divisor_tokens,
  )


def _positions_used(batch: MicroBatch) -> Ratio:
  """Tokens and positions of trunks and lanes."""
  tokens = batch.trunk_length_NU.sum() + (batch.position_NBW >= 0).sum()
  positions = batch.trunk_NUS.size + batch.tokens_NBW.size
  return Ratio(tokens.astype(jnp.float32), jnp.float32(positions))


def _grpo_metrics(
  loss, batch, logp_NBW, old_logp_NBW, entropy_NBW, kl_NBW, config
):
  is_counted_NBW = batch.completion_tokens_NBW > 0
  is_fresh_NBW = is_counted_NBW & batch.is_fresh_NBW
  ratio_NBW = jnp.exp(logp_NBW - old_logp_NBW)
  is_outside_NBW = (ratio_NBW < 1 - config.clip_low) | (
    ratio_NBW > 1 + config.clip_high
  )
  is_bounded_NBW = (ratio_NBW > config.dual_clip) & (batch.advantage_NBW < 0)
  gap_NBW = jnp.abs(logp_NBW - batch.sampler_logp_NBW)
  fresh_gap_NBW = jnp.where(is_fresh_NBW, gap_NBW, 0.0)
  return GrpoMetrics(
    loss=loss,
    entropy=losses.token_mean(entropy_NBW, is_counted_NBW),
    clipped_share=losses.token_mean(
      is_outside_NBW.astype(jnp.float32), is_counted_NBW & config.is_clipped
    ),
    dual_clipped_share=losses.token_mean(
      is_bounded_NBW.astype(jnp.float32), is_counted_NBW
    ),
    ratio_max=jnp.where(is_counted_NBW, ratio_NBW, 0.0).max(),
    kl_reference=losses.token_mean(
      kl_NBW, is_counted_NBW & (config.kl_coefficient > 0)
    ),
    logp_gap=losses.token_mean(fresh_gap_NBW, is_fresh_NBW),
    logp_gap_max=fresh_gap_NBW.max(),
    tokens_trained=is_counted_NBW.sum(),
    positions_used=_positions_used(batch),
  )


def sft_loss(policy: Policy, *, max_logits: int) -> LossFn:
  """Returns the cross-entropy per target token of the expert's branches."""

  @jax.named_scope("sft_loss")
  def loss_fn(params, batch, reference):
    del reference
    scores = lane_logps(
      policy, params, batch, temperature=1.0, max_logits=max_logits
    )
    is_counted_NBW = batch.completion_tokens_NBW > 0

    def share(is_so_NBW):
      return losses.token_mean(is_so_NBW.astype(jnp.float32), is_counted_NBW)

    loss = losses.token_mean(-scores.logp, is_counted_NBW)
    metrics = SftMetrics(
      loss=loss,
      accuracy=share(scores.is_top),
      confident_share=share(scores.logp > jnp.log(0.5)),
      tokens_trained=is_counted_NBW.sum(),
      positions_used=_positions_used(batch),
    )
    return loss, jax.lax.stop_gradient(metrics)

  return loss_fn
