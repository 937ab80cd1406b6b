# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given tokens without ever holding [tokens, V] in float32.

The softmax over the vocabulary is summed block by block, as blockwise attention
does over keys (Milakov and Gimelshein 2018, online normaliser), and the
backward pass computes each block of logits again. A block is done with all
tokens before the next, chunk by chunk if they are many, so that the gradient of
the output table is made once, block by block, and summed in float32.

Axes besides those of the legend: Y devices that the vocabulary is split over,
X blocks on each, W rows of the vocabulary in a block, J chunks of positions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Bounds of the width of a block. Even the narrowest is wide enough for matrix
# products at full speed, whatever the number of tokens.
_WIDEST = 8192
_NARROWEST = 1024


class Head(NamedTuple):
  """The output layer of a model.

  Attributes:
    table_VD: the logit of token v is the product of row v and the state.
    vocab_parts: number of devices that the vocabulary is split over, evenly.
    token_parts: number of devices that the tokens are split over.
    softcap: logits x become cap * tanh(x / cap) (Gemma 2); 0 leaves them.
  """

  table_VD: jax.Array
  vocab_parts: int = 1
  token_parts: int = 1
  softcap: float = 0.0


class TokenScores(NamedTuple):
  """What a model says of given tokens; all of one shape.

  Attributes:
    logp: float32 nats, the log-prob of each token.
    entropy: float32 nats, of the distribution that the token is drawn from.
    is_top: True where no token is more likely than the given one.
  """

  logp: jax.Array
  entropy: jax.Array
  is_top: jax.Array


@jax.named_scope("logits")
def logits(head: Head, hidden_D: jax.Array) -> jax.Array:
  """Float32 logits [..., V] of hidden states [..., D]."""
  product = jnp.einsum(
    "...D,VD->...V",
    hidden_D,
    head.table_VD,
    preferred_element_type=jnp.float32,
  )
  return _capped(product, head.softcap)


def _capped(logits: jax.Array, softcap: float) -> jax.Array:
  return softcap * jnp.tanh(logits / softcap) if softcap else logits


@jax.named_scope("token_logps")
def token_logps(
  head: Head,
  hidden_NRCD: jax.Array,
  tokens_NRC: jax.Array,
  *,
  temperature: float,
  max_logits: int,
) -> TokenScores:
  """Log-prob of each token, and entropy of the distribution it came from.

  Args:
    head: the output layer; gradients flow into its table.
    hidden_NRCD: states that predict `tokens_NRC`, position by position.
    tokens_NRC: the tokens to score.
    temperature: divides the logits, as it did when the tokens were drawn.
    max_logits: upper bound, roughly, of the logits that a device holds at a
      time, in the forward and in the backward pass. If all would be more, the
      vocabulary is computed in blocks, and if that is not enough, positions in
      chunks too; the sharding of N stays as it is. 0 for no bound.

  Returns:
    Scores [N, R, C].
  """
  n, r, length, width = hidden_NRCD.shape
  vocab = head.table_VD.shape[0]
  whole = max_logits * head.token_parts * head.vocab_parts
  if not max_logits or n * r * length * vocab <= whole:
    return _score(head, hidden_NRCD, tokens_NRC, temperature)
  block = block_width(vocab // head.vocab_parts)
  table_XYWD = head.table_VD.reshape(head.vocab_parts, -1, block, width)
  table_XYWD = jnp.moveaxis(table_XYWD, 1, 0)
  chunk = max(1, whole // (n * r * block * head.vocab_parts))
  count = -(-length // chunk)
  pad = count * min(chunk, length) - length

  def cut(x):
    x = jnp.pad(x, ((0, 0), (0, 0), (0, pad), *((0, 0),) * (x.ndim - 3)))
    return jnp.moveaxis(x.reshape(n, r, count, -1, *x.shape[3:]), 2, 0)

  scored = _score_in_blocks(
    table_XYWD, cut(hidden_NRCD), cut(tokens_NRC), temperature, head.softcap
  )
  return TokenScores(
    *(jnp.moveaxis(x, 0, 2).reshape(n, r, -1)[:, :, :length] for x in scored)
  )


def _score(head, hidden_NRCD, tokens_NRC, temperature):
  logp = jax.nn.log_softmax(logits(head, hidden_NRCD) / temperature)
  chosen = jnp.take_along_axis(logp, tokens_NRC[..., None], axis=-1)[..., 0]
  entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
  is_top = chosen >= logp.max(axis=-1)
  return TokenScores(chosen, jax.lax.stop_gradient(entropy), is_top)


def block_width(vocab: int) -> int:
  """Widest allowed block that divides the vocabulary, else all of it."""
  for width in range(min(_WIDEST, vocab), _NARROWEST - 1, -1):
    if vocab % width == 0:
      return width
  return vocab


def _score_in_blocks(
  table_XYWD, hidden_JNRCD, tokens_JNRC, temperature, softcap
):
  """Scores [J, N, R, C], one block after the other and one chunk at a time."""
  blocks, devices, width, _ = table_XYWD.shape
  # Token ids of the rows of the first block.
  first_YW = jnp.arange(devices)[:, None] * (blocks * width) + jnp.arange(width)
  dtype = table_XYWD.dtype
  # In float32, because their gradients are sums: that of a state over blocks,
  # and that of a block of the table over chunks. They are multiplied as before.
  hidden_JNRCD = hidden_JNRCD.astype(jnp.float32)

  def add(sums, xs):
    block, table_YWD = xs
    row_YW, table_YWD = first_YW + block * width, table_YWD.astype(jnp.float32)

    def add_chunk(xs):
      sums, hidden_NRCD, tokens_NRC = xs
      logits_NRCYW = jnp.einsum(
        "NRCD,YWD->NRCYW",
        hidden_NRCD.astype(dtype),
        table_YWD.astype(dtype),
        preferred_element_type=jnp.float32,
      )
      logits_NRCYW = _capped(logits_NRCYW, softcap) / temperature
      return _add(sums, logits_NRCYW, row_YW, tokens_NRC)

    if len(tokens_JNRC) > 1:
      add_chunk = jax.checkpoint(add_chunk)
    return jax.lax.map(add_chunk, (sums, hidden_JNRCD, tokens_JNRC)), None

  zeros = jnp.zeros(tokens_JNRC.shape, jnp.float32)
  # The first peak is finite, so that an empty sum gives no NaN.
  (peak, total, chosen, weighted), _ = jax.lax.scan(
    jax.checkpoint(add),
    (zeros - 1e30, zeros, zeros, zeros),
    (jnp.arange(blocks), table_XYWD),
  )
  normaliser = peak + jnp.log(total)
  entropy = normaliser - weighted / total
  return TokenScores(
    chosen - normaliser, jax.lax.stop_gradient(entropy), chosen >= peak
  )


def _add(sums, logits_NRCYW, row_YW, tokens_NRC):
  """Adds a block of the vocabulary, whose token ids are `row_YW`, to sums."""
  peak, total, chosen, weighted = sums
  wider = lambda x: x[..., None, None]  # noqa: E731
  highest = jnp.maximum(peak, logits_NRCYW.max((-2, -1)))
  highest = jax.lax.stop_gradient(highest)
  odds_NRCYW = jnp.exp(logits_NRCYW - wider(highest))
  shrink = jnp.exp(peak - highest)
  is_it_NRCYW = row_YW == wider(tokens_NRC)
  chosen += jnp.where(is_it_NRCYW, logits_NRCYW, 0).sum((-2, -1))
  total = total * shrink + odds_NRCYW.sum((-2, -1))
  product = jax.lax.stop_gradient(odds_NRCYW * logits_NRCYW)
  weighted = weighted * shrink + product.sum((-2, -1))
  return highest, total, chosen, weighted
