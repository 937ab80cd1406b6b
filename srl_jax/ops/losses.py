# SPDX-License-Identifier: Apache-2.0
"""Policy losses and their aggregation, as functions of arrays.

Axes: N rows, B lanes, W cells of a lane, each with one token; see
update/batch.py. Log-probs in nats, float32.
A loss is aggregated to a numerator and a denominator, which both add over
micro-batches; the gradient of the whole is the gradient of the summed
numerators over the summed denominators, exactly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from srl_jax.types import Ratio


def clipped_surrogate(
  logp_NBW: jax.Array,
  old_logp_NBW: jax.Array,
  advantage_NBW: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> jax.Array:
  """Per-token PPO surrogate, as a loss (Schulman et al. 2017, Eq. 7).

  Both log-probs are of the same sampled tokens at the same temperature;
  `old_logp_NBW` is of the parameters that sampled and gets no gradient.
  An upper bound above the lower one is DAPO's clip-higher.
  """
  ratio_NBW = jnp.exp(logp_NBW - jax.lax.stop_gradient(old_logp_NBW))
  clipped_NBW = jnp.clip(ratio_NBW, 1 - clip_low, 1 + clip_high)
  return -jnp.minimum(ratio_NBW * advantage_NBW, clipped_NBW * advantage_NBW)


def dual_clipped_surrogate(
  logp_NBW: jax.Array,
  old_logp_NBW: jax.Array,
  advantage_NBW: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
  dual_clip: float,
) -> jax.Array:
  """PPO surrogate that is bounded on both sides (Ye et al. 2020, Eq. 5).

  For a negative advantage the clipped surrogate grows with the ratio without a
  bound, so a token that has become much likelier since it was sampled can
  outweigh all others. Here its loss is at most dual_clip * |advantage|, and it
  has no gradient beyond.
  """
  loss_NBW = clipped_surrogate(
    logp_NBW,
    old_logp_NBW,
    advantage_NBW,
    clip_low=clip_low,
    clip_high=clip_high,
  )
  bounded_NBW = jnp.minimum(loss_NBW, -dual_clip * advantage_NBW)
  return jnp.where(advantage_NBW < 0, bounded_NBW, loss_NBW)


def truncated_importance(
  logp_NBW: jax.Array,
  old_logp_NBW: jax.Array,
  advantage_NBW: jax.Array,
  *,
  cap: float,
) -> jax.Array:
  """REINFORCE with truncated importance weights (Espeholt et al. 2018).

  The weight min(ratio, cap) corrects for a sampler that is not the present
  policy and gets no gradient, so no token loses its gradient by clipping.
  """
  ratio_NBW = jnp.exp(logp_NBW - old_logp_NBW)
  weight_NBW = jax.lax.stop_gradient(jnp.minimum(ratio_NBW, cap))
  return -weight_NBW * advantage_NBW * logp_NBW


def with_sequence_ratio(
  logp_NBW: jax.Array,
  old_logp_NBW: jax.Array,
  first_NBW: jax.Array,
  completion_tokens_NBW: jax.Array,
) -> jax.Array:
  """Log-probs [N, B, W] to compare with, so that ratios are of sequences.

  Every token's ratio becomes the geometric mean of those of its sequence, and
  its gradient stays that of its own log-prob (GSPO-token, Zheng et al. 2025,
  Eq. 14). With one advantage for a sequence, as in GRPO, the mean over its
  tokens is GSPO's loss (Eq. 5), with its gradient.

  Args:
    logp_NBW: log-probs of the policy; 0 for tokens that do not count.
    old_logp_NBW: those that ratios compare with, likewise.
    first_NBW: cell of the first token of the same sequence.
    completion_tokens_NBW: the tokens of each token's own sequence.
  """

  def sums(gap_W, first_W):
    return jax.ops.segment_sum(gap_W, first_W, len(gap_W))[first_W]

  gap_NBW = jax.vmap(jax.vmap(sums))(logp_NBW - old_logp_NBW, first_NBW)
  is_counted_NBW = completion_tokens_NBW > 0
  gap_NBW = gap_NBW / jnp.maximum(completion_tokens_NBW, 1)
  gap_NBW = jnp.where(is_counted_NBW, gap_NBW, 0.0)
  return jax.lax.stop_gradient(logp_NBW - gap_NBW)


def imitation(
  logp_NBW: jax.Array, old_logp_NBW: jax.Array, advantage_NBW: jax.Array
) -> jax.Array:
  """Cross-entropy of the samples that are better than their group's mean.

  With rewards of 0 and 1 these are the right samples of every group that has
  wrong ones: SFT on rejection samples (Yuan et al. 2023), drawn anew at each
  update step. Worse samples have a loss of 0, which the mean over a batch
  counts: a group teaches more, the more of its samples are right.
  """
  del old_logp_NBW
  return jnp.where(advantage_NBW > 0, -logp_NBW, 0.0)


def kl_k3(logp_NBW: jax.Array, reference_logp_NBW: jax.Array) -> jax.Array:
  """Per-token estimate of KL(policy || reference), never negative.

  The k3 estimator of Schulman's note "Approximating KL divergence":
  exp(d) - d - 1 with d = reference - policy log-prob.
  """
  delta_NBW = jax.lax.stop_gradient(reference_logp_NBW) - logp_NBW
  return jnp.exp(delta_NBW) - delta_NBW - 1


def sequence_mean(
  loss_NBW: jax.Array, completion_tokens_NBW: jax.Array, branches_N: jax.Array
) -> Ratio:
  """Mean over sequences of each sequence's token mean (GRPO, SRL paper).

  Example: sequences of 3 and 1 tokens with per-token losses 1 and 3 give
  (1 + 3) / 2 = 2; the token mean would be 1.5.

  Args:
    loss_NBW: per-token losses.
    completion_tokens_NBW: the tokens of each token's own sequence; 0 for
      tokens that do not count.
    branches_N: number of sequences with tokens that count.
  """
  is_counted_NBW = completion_tokens_NBW > 0
  share_NBW = loss_NBW / jnp.maximum(completion_tokens_NBW, 1)
  share_NBW = jnp.where(is_counted_NBW, share_NBW, 0.0)
  return Ratio(share_NBW.sum(), branches_N.sum().astype(jnp.float32))


def token_mean(loss_NBW: jax.Array, is_counted_NBW: jax.Array) -> Ratio:
  """Mean over all tokens of the batch (DAPO, Yu et al. 2025, Section 3.3).

  Example: sequences of 3 and 1 tokens with per-token losses 1 and 3 give
  (1 + 1 + 1 + 3) / 4 = 1.5; the sequence mean would be 2.
  """
  loss_NBW = jnp.where(is_counted_NBW, loss_NBW, 0.0)
  return Ratio(loss_NBW.sum(), is_counted_NBW.sum().astype(jnp.float32))


def fixed_divisor(
  loss_NBW: jax.Array,
  is_counted_NBW: jax.Array,
  branches_N: jax.Array,
  *,
  divisor_tokens: int,
) -> Ratio:
  """Token sums over a constant length (Dr. GRPO, Liu et al. 2025).

  Example: sequences of 3 and 1 tokens with per-token losses 1 and 3 and a
  divisor of 4 tokens give (3 + 3) / (2 * 4) = 0.75.
  """
  loss_NBW = jnp.where(is_counted_NBW, loss_NBW, 0.0)
  sequences = branches_N.sum().astype(jnp.float32)
  return Ratio(loss_NBW.sum(), sequences * divisor_tokens)
