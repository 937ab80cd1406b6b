# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given tokens without ever holding [tokens, V] in float32."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def token_logps(
  logits_fn: Callable[[jax.Array], jax.Array],
  hidden_NRCD: jax.Array,
  tokens_NRC: jax.Array,
  *,
  temperature: float,
  chunk_tokens: int,
) -> tuple[jax.Array, jax.Array]:
  """Log-prob of each token and entropy of the distribution it came from.

  Logits are made for about `chunk_tokens` tokens at a time, in forward and
  backward (they are recomputed there). Chunks run along C, so that the
  sharding of N stays as it is.

  Args:
    logits_fn: hidden states [..., D] to logits [..., V]; may close over
      parameters, gradients flow into them.
    hidden_NRCD: states that predict `tokens_NRC`, position by position.
    tokens_NRC: the tokens to score.
    temperature: divides the logits, as it did when the tokens were drawn.
    chunk_tokens: upper bound of N * R * (positions per chunk), unless a
      single position already exceeds it; 0 means all at once.

  Returns:
    (log-probs, entropies), float32 nats, both [N, R, C].
  """

  def score(hidden, tokens):
    logits = logits_fn(hidden).astype(jnp.float32) / temperature
    logp = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    return chosen, jax.lax.stop_gradient(entropy)

  n, r, length, width = hidden_NRCD.shape
  chunk = max(1, chunk_tokens // (n * r)) if chunk_tokens else length
  if chunk >= length:
    return score(hidden_NRCD, tokens_NRC)
  count = -(-length // chunk)
  pad = count * chunk - length
  hidden = jnp.pad(hidden_NRCD, ((0, 0), (0, 0), (0, pad), (0, 0)))
  tokens = jnp.pad(tokens_NRC, ((0, 0), (0, 0), (0, pad)))
  chunks = (
    jnp.moveaxis(hidden.reshape(n, r, count, chunk, width), 2, 0),
    jnp.moveaxis(tokens.reshape(n, r, count, chunk), 2, 0),
  )
  scored = jax.lax.map(jax.checkpoint(lambda xs: score(*xs)), chunks)
  logp, entropy = (
    jnp.moveaxis(x, 0, 2).reshape(n, r, count * chunk)[:, :, :length]
    for x in scored
  )
  return logp, entropy
