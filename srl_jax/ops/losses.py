# SPDX-License-Identifier: Apache-2.0
"""Policy losses and their aggregation, as functions of arrays.

Axes: N trunks, R branches, C branch positions. Log-probs in nats, float32.
A loss is aggregated to a numerator and a denominator, which both add over
micro-batches; the gradient of the whole is the gradient of the summed
numerators over the summed denominators, exactly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from srl_jax.types import Ratio


def clipped_surrogate(
  logp_NRC: jax.Array,
  sampler_logp_NRC: jax.Array,
  advantage_NR: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> jax.Array:
  """Per-token PPO surrogate, as a loss (Schulman et al. 2017, Eq. 7).

  Both log-probs are of the same sampled tokens at the same temperature;
  `sampler_logp_NRC` comes from the parameters that sampled and gets no
  gradient. An upper bound above the lower one is DAPO's clip-higher.
  """
  ratio_NRC = jnp.exp(logp_NRC - jax.lax.stop_gradient(sampler_logp_NRC))
  clipped_NRC = jnp.clip(ratio_NRC, 1 - clip_low, 1 + clip_high)
  advantage_NR1 = advantage_NR[..., None]
  return -jnp.minimum(ratio_NRC * advantage_NR1, clipped_NRC * advantage_NR1)


def dual_clipped_surrogate(
  logp_NRC: jax.Array,
  sampler_logp_NRC: jax.Array,
  advantage_NR: jax.Array,
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
  loss_NRC = clipped_surrogate(
    logp_NRC,
    sampler_logp_NRC,
    advantage_NR,
    clip_low=clip_low,
    clip_high=clip_high,
  )
  advantage_NR1 = advantage_NR[..., None]
  bounded_NRC = jnp.minimum(loss_NRC, -dual_clip * advantage_NR1)
  return jnp.where(advantage_NR1 < 0, bounded_NRC, loss_NRC)


def truncated_importance(
  logp_NRC: jax.Array,
  sampler_logp_NRC: jax.Array,
  advantage_NR: jax.Array,
  *,
  cap: float,
) -> jax.Array:
  """REINFORCE with truncated importance weights (Espeholt et al. 2018).

  The weight min(ratio, cap) corrects for a sampler that is not the present
  policy and gets no gradient, so no token loses its gradient by clipping.
  """
  ratio_NRC = jnp.exp(logp_NRC - sampler_logp_NRC)
  weight_NRC = jax.lax.stop_gradient(jnp.minimum(ratio_NRC, cap))
  return -weight_NRC * advantage_NR[..., None] * logp_NRC


def kl_k3(logp_NRC: jax.Array, reference_logp_NRC: jax.Array) -> jax.Array:
  """Per-token estimate of KL(policy || reference), never negative.

  The k3 estimator of Schulman's note "Approximating KL divergence":
  exp(d) - d - 1 with d = reference - policy log-prob.
  """
  delta_NRC = jax.lax.stop_gradient(reference_logp_NRC) - logp_NRC
  return jnp.exp(delta_NRC) - delta_NRC - 1


def sequence_mean(loss_NRC: jax.Array, is_counted_NRC: jax.Array) -> Ratio:
  """Mean over sequences of each sequence's token mean (GRPO, SRL paper).

  Example: sequences of 3 and 1 tokens with per-token losses 1 and 3 give
  (1 + 3) / 2 = 2; the token mean would be 1.5.
  """
  loss_NRC = jnp.where(is_counted_NRC, loss_NRC, 0.0)
  tokens_NR = is_counted_NRC.sum(-1)
  mean_NR = loss_NRC.sum(-1) / jnp.maximum(tokens_NR, 1)
  return Ratio(mean_NR.sum(), (tokens_NR > 0).sum().astype(jnp.float32))


def token_mean(loss_NRC: jax.Array, is_counted_NRC: jax.Array) -> Ratio:
  """Mean over all tokens of the batch (DAPO, Yu et al. 2025, Section 3.3).

  Example: sequences of 3 and 1 tokens with per-token losses 1 and 3 give
  (1 + 1 + 1 + 3) / 4 = 1.5; the sequence mean would be 2.
  """
  loss_NRC = jnp.where(is_counted_NRC, loss_NRC, 0.0)
  return Ratio(loss_NRC.sum(), is_counted_NRC.sum().astype(jnp.float32))


def fixed_divisor(
  loss_NRC: jax.Array, is_counted_NRC: jax.Array, *, divisor_tokens: int
) -> Ratio:
  """Token sums over a constant length (Dr. GRPO, Liu et al. 2025).

  Example: sequences of 3 and 1 tokens with per-token losses 1 and 3 and a
  divisor of 4 tokens give (3 + 3) / (2 * 4) = 0.75.
  """
  loss_NRC = jnp.where(is_counted_NRC, loss_NRC, 0.0)
  sequences = is_counted_NRC.any(-1).sum().astype(jnp.float32)
  return Ratio(loss_NRC.sum(), sequences * divisor_tokens)
