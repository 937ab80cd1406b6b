# SPDX-License-Identifier: Apache-2.0
"""Attention of a stream of tokens to several sources of keys and values.

A branch token attends to two sources at once: the trunk, whose keys and
values are stored once for all branches, and its own branch. Who sees whom is
decided by positions alone, in one function that sampler, scorer and trainer
share: a key at position -1 is padding, wherever it lies in the array.

Axes: N trunks, R branches, T queries, H key/value heads, M query heads per
key/value head, E head width; X is the key axis of a source (S or C). Keys are
stored [.., E, X] and values [.., X, E], as the matrix products read them:
decoding reads a cache at every iteration, and does not transpose it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Finite, so that a query that sees nothing (padding) gives finite garbage and
# a zero gradient instead of NaN.
_MASKED = -1e30
_float32_product = functools.partial(
  jnp.einsum, preferred_element_type=jnp.float32
)
# A stream that sees only itself is cut into _PIECES pieces of at least _PIECE
# positions, and each piece looks no further than to its own end. Four pieces
# compute 5/8 of the square; more take longer to compile than they save.
_PIECES = 4
_PIECE = 256


class Source(NamedTuple):
  """Keys and values, where they stand, and how far each query may look.

  Attributes:
    k: keys: [N, H, E, S] if all branches share them, else [N * R, H, E, C].
    v: values: [N, H, S, E] or [N * R, H, C, E].
    position: positions of the keys, [N, S] or [N, R, C]; -1 marks an entry
      that holds no token. Anything that rises by one from token to token can
      stand for positions, if limit and first are counted in it too.
    limit_NRT: last position that a query sees; T may be 1. It is the query's
      own position in its own stream, `branch_at` - 1 in the trunk, and -1 for
      a query that sees nothing.
    first_NRT: first position that a query sees (a sliding window, the start
      of its branch); None for no such bound.
  """

  k: jax.Array
  v: jax.Array
  position: jax.Array
  limit_NRT: jax.Array
  first_NRT: jax.Array | None = None


class Scoring(NamedTuple):
  """How the logit of a query and a key is made.

  Attributes:
    scale: factor of their product.
    softcap: logits x become cap * tanh(x / cap) (Gemma 2); 0 leaves them.
  """

  scale: float
  softcap: float = 0.0


def source_of(
  k_NRTHE: jax.Array,
  v_NRTHE: jax.Array,
  position_NRT: jax.Array,
  limit_NRT: jax.Array,
) -> Source:
  """Makes a source of the keys and values that a projection returns."""
  k_NRHET = jnp.moveaxis(k_NRTHE, -3, -1)
  v_NRHTE = jnp.moveaxis(v_NRTHE, -3, -2)
  return Source(_merge(k_NRHET), _merge(v_NRHTE), position_NRT, limit_NRT)


def _merge(x_NR: jax.Array) -> jax.Array:
  return x_NR.reshape(-1, *x_NR.shape[2:])


def _split(x_B: jax.Array, branches: int) -> jax.Array:
  return x_B.reshape(-1, branches, *x_B.shape[1:])


def is_visible(source: Source) -> jax.Array:
  """Returns True where a query may see a key: [N, R or 1, T or 1, X]."""
  position = source.position
  key_NRX = position if position.ndim == 3 else position[:, None]
  key_NR1X = key_NRX[:, :, None, :]
  is_seen = (key_NR1X >= 0) & (key_NR1X <= source.limit_NRT[..., None])
  if source.first_NRT is None:
    return is_seen
  return is_seen & (key_NR1X >= source.first_NRT[..., None])


def attend(
  q_NRTHME: jax.Array,
  sources: Sequence[Source],
  *,
  scoring: Scoring,
  max_logits: int = 0,
) -> jax.Array:
  """Softmax attention over the union of all sources.

  There is one softmax over all keys, but the sources are never concatenated.
  So a shared trunk is read once for its R branches, in one matrix product per
  trunk and head.

  Args:
    q_NRTHME: queries, not yet scaled.
    sources: one or more sources of keys and values.
    scoring: how logits are made.
    max_logits: upper bound, roughly, of the logits per trunk that are held at
      a time, in the forward and in the backward pass (which computes them
      again). Branches, and the positions of a branch that is too much alone,
      are computed in blocks, one after the other. The result is the same. 0
      for no bound.

  Returns:
    [N, R, T, H, M, E] in the dtype of the queries.
  """
  _, r, t, h, m, _ = q_NRTHME.shape
  axis = 1 if r > 1 else 2
  keys = sum(source.position.shape[-1] for source in sources)
  per_query = keys * h * m * (t if axis == 1 else 1)
  length = q_NRTHME.shape[axis]
  block = max(1, max_logits // per_query) if max_logits else length
  if block >= length:
    return _attend(q_NRTHME, sources, scoring)
  count = -(-length // block)

  def cut(x, fill=0):
    """[.., length, ..] along axis as [count, .., block, ..]."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, count * block - length)
    x = jnp.pad(x, padding, constant_values=fill)
    shape = (*x.shape[:axis], count, block, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)

  xs, static, dtype = [], [], sources[0].k.dtype
  for source in sources:
    # Arrays that every branch has for itself are cut along R; shared ones are
    # not.
    own = axis == 1 and source.position.ndim == 3
    limit, first = source.limit_NRT, source.first_NRT
    xs.append(
      Source(
        k=cut(_split(source.k, r)) if own else None,
        v=cut(_split(source.v, r)) if own else None,
        position=cut(source.position, -1) if own else None,
        limit_NRT=cut(limit, -1) if limit.shape[axis] == length else None,
        first_NRT=None if first is None else cut(first),
      )
    )
    # What all blocks share is in float32, because its gradient is their sum.
    k, v = (x if own else x.astype(jnp.float32) for x in (source.k, source.v))
    static.append(source._replace(k=k, v=v))

  def of_block(block_xs):
    q, parts = block_xs
    merged = []
    for whole, part in zip(static, parts, strict=True):
      if part.k is not None:
        part = part._replace(k=_merge(part.k), v=_merge(part.v))
      chosen = (w if p is None else p for w, p in zip(whole, part, strict=True))
      k, v, *rest = chosen
      merged.append(Source(k.astype(dtype), v.astype(dtype), *rest))
    return attend(q, merged, scoring=scoring, max_logits=max_logits)

  # A branch that is cut itself computes its own blocks again.
  is_cut_again = axis == 1 and t > 1 and per_query > max_logits
  of_block = of_block if is_cut_again else jax.checkpoint(of_block)
  out = jax.lax.map(of_block, (cut(q_NRTHME), xs))
  out = jnp.moveaxis(out, 0, axis)
  out = out.reshape(*out.shape[:axis], count * block, *out.shape[axis + 2 :])
  return jax.lax.slice_in_dim(out, 0, length, axis=axis)


def attend_causal(
  q_NRTHME: jax.Array,
  k_NRTHE: jax.Array,
  v_NRTHE: jax.Array,
  position_NRT: jax.Array,
  *,
  scoring: Scoring,
  window: int = 0,
  kernel: Callable[..., jax.Array] | None = None,
  max_logits: int = 0,
) -> jax.Array:
  """Attention of streams to themselves and to nothing else (the trunks).

  Unlike in `attend`, the order counts: the positions of the tokens must rise
  along T, so that no query sees a later index. Tokens get the same result as
  from `attend`; padding gets finite numbers without a meaning.

  Args:
    q_NRTHME: queries, not yet scaled.
    k_NRTHE: keys.
    v_NRTHE: values.
    position_NRT: positions, rising along T; -1 marks padding anywhere.
    scoring: how logits are made; not used with a kernel, which has its own.
    window: number of positions that a token sees, its own included; 0 for
      all. Not used with a kernel, which has its own.
    kernel: a function from `kernels.choose`, on [N, T, ..]; None for `attend`.
    max_logits: see `attend`; a kernel needs no bound.

  Returns:
    [N, R, T, H, M, E] in the dtype of the queries.
  """
  t = q_NRTHME.shape[2]
  arrays = (q_NRTHME, k_NRTHE, v_NRTHE, position_NRT)
  if kernel:
    flat = (x.reshape(-1, *x.shape[2:]) for x in arrays)
    return kernel(*flat).reshape(q_NRTHME.shape)
  pieces = max(1, min(_PIECES, t // _PIECE))
  # The compiler may well hold the logits of all pieces at the same time.
  share = -(-max_logits // pieces)
  outs = []
  for piece in range(pieces):
    start, stop = t * piece // pieces, t * (piece + 1) // pieces
    q, k, v, position = (x[:, :, :stop] for x in arrays)
    asking = position[:, :, start:]
    keys = source_of(k, v, position, asking)
    if window:
      keys = keys._replace(first_NRT=asking - window + 1)
    outs.append(
      attend(q[:, :, start:], [keys], scoring=scoring, max_logits=share)
    )
  return jnp.concatenate(outs, axis=2)


def _attend(q_NRTHME, sources, scoring):
  # Float32 from here to the weights: a bf16 softmax loses the tail.
  logits = [_logits(q_NRTHME, source, scoring) for source in sources]
  peaks = [
    _reorder(x.max(axis=-1), _rows(s), "NRTHM")
    for x, s in zip(logits, sources, strict=True)
  ]
  peak_NRTHM = jax.lax.stop_gradient(functools.reduce(jnp.maximum, peaks))
  weights = [
    jnp.exp(x - _reorder(peak_NRTHM, "NRTHM", _rows(s))[..., None])
    for x, s in zip(logits, sources, strict=True)
  ]
  total_NRTHM = sum(
    _reorder(x.sum(axis=-1), _rows(s), "NRTHM")
    for x, s in zip(weights, sources, strict=True)
  )
  out = sum(_mix(w, s) for w, s in zip(weights, sources, strict=True))
  return (out / total_NRTHM[..., None]).astype(q_NRTHME.dtype)


def _rows(source: Source) -> str:
  """Order of the axes in which one product per key/value head comes out."""
  return "NHRTM" if source.position.ndim == 2 else "NRHTM"


def _reorder(x: jax.Array, axes: str, wanted: str) -> jax.Array:
  return jnp.transpose(x, [axes.index(axis) for axis in wanted])


def _logits(q_NRTHME: jax.Array, source: Source, scoring: Scoring) -> jax.Array:
  """Masked logits; their axes are those of `_rows`, then the keys."""
  if source.position.ndim == 2:
    logits = _products(q_NRTHME, source.k)
  else:
    logits = _products(_merge(q_NRTHME)[:, None], source.k)[:, :, 0]
    logits = _split(logits, q_NRTHME.shape[1])
  logits *= scoring.scale
  if scoring.softcap:
    logits = scoring.softcap * jnp.tanh(logits / scoring.softcap)
  # The mask comes last: arithmetic on _MASKED that is fused, and so rounded
  # once instead of twice, would leave a remainder that overflows in exp.
  heads = [_rows(source).index(axis) for axis in "HM"]
  is_seen = jnp.expand_dims(is_visible(source), heads)
  return jnp.where(is_seen, logits, _MASKED)


@jax.custom_vjp
def _products(q_NRTHME: jax.Array, k_NHEX: jax.Array) -> jax.Array:
  """Products [N, H, R, T, M, X] of queries with keys that branches share.

  The gradient of the keys has the queries as its first factor. JAX would take
  that of the products, of which XLA on CPU makes a transposed copy.
  """
  return _float32_product("NRTHME,NHEX->NHRTMX", q_NRTHME, k_NHEX)


def _products_forward(q_NRTHME, k_NHEX):
  return _products(q_NRTHME, k_NHEX), (q_NRTHME, k_NHEX)


def _products_backward(factors, grad_NHRTMX):
  q_NRTHME, k_NHEX = factors
  grad_NHRTME = _float32_product("NHRTMX,NHEX->NHRTME", grad_NHRTMX, k_NHEX)
  # einsum would swap the factors.
  grad_NHEX = jax.lax.dot_general(
    q_NRTHME,
    grad_NHRTMX,
    (((1, 2, 4), (2, 3, 4)), ((0, 3), (0, 1))),
    preferred_element_type=jnp.float32,
  )
  grad_q = _reorder(grad_NHRTME, "NHRTME", "NRTHME")
  return grad_q.astype(q_NRTHME.dtype), grad_NHEX.astype(k_NHEX.dtype)


_products.defvjp(_products_forward, _products_backward)


def _mix(weights: jax.Array, source: Source) -> jax.Array:
  weights = weights.astype(source.v.dtype)
  # With the results in this order, XLA on CPU makes one matrix product; in
  # another order it falls back to loops that take ten times as long.
  if source.position.ndim == 2:
    out = _float32_product("NHRTMX,NHXE->NHRTME", weights, source.v)
  else:
    out = _float32_product("BHTMX,BHXE->BHTME", _merge(weights), source.v)
    out = _split(out, weights.shape[1])
  return _reorder(out, f"{_rows(source)}E", "NRTHME")
