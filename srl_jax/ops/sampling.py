# SPDX-License-Identifier: Apache-2.0
"""Drawing a token from logits, with the log-prob it was drawn with.

The distribution is explicit: `distribution` gives its log-probs, `draw` draws
from exactly those, and the caller gathers the log-prob of what was drawn. So
the log-prob that the sampler stores is always one of the distribution used.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# `draw` has two levels of about sqrt(V) each; 512 suits a vocabulary of 256k.
_BLOCKS = 512
# A cumulative sum over more tokens would not be exact enough in float32.
_LONGEST_BLOCK = 4096


def distribution(
  logits_BV: jax.Array,
  *,
  temperature: float | jax.Array,
  top_k: int | jax.Array,
  top_p: float | jax.Array,
) -> jax.Array:
  """Log-probs, in nats and float32, of the distribution to draw from.

  The settings are numbers, or arrays [B, 1] of a setting per row. Rows are not
  sorted if both top_k and top_p are numbers that keep all tokens.

  Args:
    logits_BV: any leading shape.
    temperature: divides the logits; greater than zero.
    top_k: keeps the k most likely tokens, with ties at the border; 0 keeps
      all.
    top_p: keeps the smallest set of most likely tokens that holds this mass
      (Holtzman et al. 2019, nucleus sampling); 1.0 keeps all.

  Returns:
    Log-probs renormalised over the kept tokens; -inf for the others.
  """
  logp_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32) / temperature)
  cuts_k = not (isinstance(top_k, int) and top_k == 0)
  cuts_p = not (isinstance(top_p, float | int) and top_p >= 1.0)
  if not (cuts_k or cuts_p):
    return logp_BV
  sorted_BV = -jnp.sort(-logp_BV, axis=-1)
  if cuts_k:
    vocab = logits_BV.shape[-1]
    top_k = jnp.asarray(top_k)
    last = jnp.where(top_k == 0, vocab, jnp.minimum(top_k, vocab)) - 1
    last_B1 = jnp.broadcast_to(last, (*sorted_BV.shape[:-1], 1))
    smallest_B1 = jnp.take_along_axis(sorted_BV, last_B1, axis=-1)
    logp_BV = jnp.where(logp_BV >= smallest_B1, logp_BV, -jnp.inf)
    sorted_BV = jnp.where(sorted_BV >= smallest_B1, sorted_BV, -jnp.inf)
  if cuts_p:
    probs_BV = jax.nn.softmax(sorted_BV)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    # A mass of 1 keeps all, also where rounding lets the sum reach it early.
    is_kept_BV = (before_BV < top_p) | (top_p >= 1.0)
    smallest_B1 = jnp.where(is_kept_BV, sorted_BV, jnp.inf).min(-1)[..., None]
    logp_BV = jnp.where(logp_BV >= smallest_B1, logp_BV, -jnp.inf)
  return jax.nn.log_softmax(logp_BV)


def draw(key_B: jax.Array, logp_BV: jax.Array) -> jax.Array:
  """Draws one token per row by inverting the cumulative distribution.

  It takes two uniform numbers per row, instead of the V numbers of the Gumbel
  trick: one chooses a block of tokens by the mass of the blocks, the other a
  token within the block. Sums stay short, because one cumulative sum over a
  vocabulary of 150k is not exact enough in float32.

  Args:
    key_B: one random key per row.
    logp_BV: log-probs of each row, -inf for impossible tokens.

  Returns:
    int32 tokens [B]; a token of probability zero is never drawn.
  """
  vocab = logp_BV.shape[-1]
  blocks = blocks_of(vocab)
  width = math.ceil(vocab / blocks)
  padding = [(0, 0)] * (logp_BV.ndim - 1) + [(0, blocks * width - vocab)]
  logp_BV = jnp.pad(logp_BV, padding, constant_values=-jnp.inf)
  logp_BXY = logp_BV.reshape(*logp_BV.shape[:-1], blocks, width)
  uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(key_B)
  # The mass of a block is summed as it is computed; no [B, V] of it is written.
  block_B = _invert(jnp.exp(logp_BXY).sum(-1), uniform_B2[:, 0])
  inside_BY = jnp.take_along_axis(logp_BXY, block_B[:, None, None], 1)[:, 0]
  return block_B * width + _invert(jnp.exp(inside_BY), uniform_B2[:, 1])


def blocks_of(vocab: int) -> int:
  """Returns into how many blocks `draw` cuts a vocabulary.

  A power of two that divides it, so that a part of the vocabulary on a device
  is a number of blocks: then devices exchange the masses of blocks and one
  block per row, and no device gathers a row.
  """
  if vocab <= _BLOCKS:
    return 1
  blocks = math.gcd(vocab, _BLOCKS)
  if vocab <= blocks * _LONGEST_BLOCK:
    return blocks
  return math.ceil(vocab / _BLOCKS)


def _invert(mass_BX: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """Index of the cell in which the fraction `uniform_B` of the mass ends."""
  cumulative_BX = jnp.cumsum(mass_BX, axis=-1)
  target_B1 = (uniform_B * cumulative_BX[:, -1])[:, None]
  cells_X = jnp.arange(mass_BX.shape[-1], dtype=jnp.int32)
  # XLA sums in an order in which a cell without mass can be a little more than
  # the one before; and u * total can round up to total, which no cell is past.
  is_past_BX = (cumulative_BX > target_B1) & (mass_BX > 0)
  first_B = jnp.where(is_past_BX, cells_X, cells_X[-1]).min(-1)
  last_B = jnp.where(mass_BX > 0, cells_X, 0).max(-1)
  return jnp.minimum(first_B, last_B)


def draw_greedy(logp_BV: jax.Array) -> jax.Array:
  """Returns the most likely token of each row; of equals, the smallest id."""
  return jnp.argmax(logp_BV, axis=-1).astype(jnp.int32)
