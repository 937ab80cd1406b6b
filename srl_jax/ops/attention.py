# SPDX-License-Identifier: Apache-2.0
"""Attention of a stream of tokens to several sources of keys and values.

A branch token attends to two sources at once: the trunk, whose keys and
values are stored once for all branches, and its own branch. Who sees whom is
decided by positions alone, in one function that sampler, scorer and trainer
share: a key at position -1 is padding, wherever it lies in the array.

Axes: N trunks, R branches, T queries, H key/value heads, M query heads per
key/value head, E head width; X is the key axis of a source (S or C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Finite, so that a query that sees nothing (padding) gives finite garbage and
# a zero gradient instead of NaN.
_MASKED = -1e30


class Source(NamedTuple):
  """Keys and values with the mask of who may look at them.

  Attributes:
    k: [N, S, H, E] when shared by all branches, else [N, R, C, H, E].
    v: as k.
    is_visible_NRTX: broadcastable to that shape; True where the query may
      look.
  """

  k: jax.Array
  v: jax.Array
  is_visible_NRTX: jax.Array


def own_visible(
  query_position_NRT: jax.Array, key_position_NRX: jax.Array
) -> jax.Array:
  """True where a key of the same stream is real and not in the future."""
  key_NR1X = key_position_NRX[:, :, None, :]
  return (key_NR1X >= 0) & (key_NR1X <= query_position_NRT[..., None])


def trunk_visible(
  branch_at_NR: jax.Array, key_position_NS: jax.Array
) -> jax.Array:
  """True where a trunk key is real and lies before the branch point."""
  key_N11S = key_position_NS[:, None, None, :]
  return (key_N11S >= 0) & (key_N11S < branch_at_NR[:, :, None, None])


def attend(q_NRTHME: jax.Array, sources: Sequence[Source]) -> jax.Array:
  """Softmax attention over the union of all sources.

  The softmax is one over all keys; sources are never concatenated, so a
  shared trunk is read once for its R branches, as one matrix product per
  trunk and head.

  Args:
    q_NRTHME: queries, not yet scaled.
    sources: at least one.

  Returns:
    [N, R, T, H, M, E] in the dtype of the queries.
  """
  # Float32 from here to the weights: a bf16 softmax loses the tail.
  logits = [_logits(q_NRTHME, source) for source in sources]
  peak = logits[0].max(axis=-1)
  for x in logits[1:]:
    peak = jnp.maximum(peak, x.max(axis=-1))
  peak = jax.lax.stop_gradient(peak)[..., None]
  weights = [jnp.exp(x - peak) for x in logits]
  total_NRTHM = sum(x.sum(axis=-1) for x in weights)
  total_NRTHM = jnp.moveaxis(total_NRTHM, (1, 2), (3, 4))
  out = sum(_mix(w, s) for w, s in zip(weights, sources, strict=True))
  return (out / total_NRTHM[..., None]).astype(q_NRTHME.dtype)


def _logits(q_NRTHME: jax.Array, source: Source) -> jax.Array:
  keys = "NSHE" if source.k.ndim == 4 else "NRSHE"
  logits_NHMRTS = jnp.einsum(
    f"NRTHME,{keys}->NHMRTS",
    q_NRTHME,
    source.k,
    preferred_element_type=jnp.float32,
  )
  logits_NHMRTS *= q_NRTHME.shape[-1] ** -0.5
  # Masked last: arithmetic on _MASKED, fused and rounded once instead of
  # twice, would leave a rest that overflows in exp.
  is_visible_N11RTX = source.is_visible_NRTX[:, None, None]
  return jnp.where(is_visible_N11RTX, logits_NHMRTS, _MASKED)


def _mix(weights_NHMRTX: jax.Array, source: Source) -> jax.Array:
  values = "NXHE" if source.v.ndim == 4 else "NRXHE"
  return jnp.einsum(
    f"NHMRTX,{values}->NRTHME",
    weights_NHMRTX.astype(source.v.dtype),
    source.v,
    preferred_element_type=jnp.float32,
  )
