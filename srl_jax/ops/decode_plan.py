# SPDX-License-Identifier: Apache-2.0
"""What an iteration of decoding reads: lists of blocks for decode_attention.py.

Axes: N rows, B slots of a row, M query heads per key/value head, P the same
filled up to whole registers, S trunk positions, C cache entries, I items of a
list of blocks, J blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from srl_jax.ops.attention import Source, is_visible

# Positions of a block: of a trunk, and of a branch, which ends within one. What
# is shorter is one block.
TRUNK, OWN = 512, 256
# Slots that are computed together: what fits into on-chip memory with many wide
# heads.
_SLOTS = 32
# Query heads of a slot are filled up to so many, the rows of a register.
_ROWS = 8
# What an item is; 0 for nothing.
FIRST, LAST, OF_TRUNK, OF_SLOT = 1, 2, 4, 8


class Plan(NamedTuple):
  """What an iteration reads; the same for layers of a kind.

  An item is a block of the trunk, or of a slot's cache. What it does not read
  stays as it was in the item before, so that nothing is fetched. A row of many
  slots counts as several here, of the same trunk.

  Attributes:
    trunk_NI: blocks of the trunk.
    slot_NI: slots.
    own_NI: blocks of the slot's cache.
    flags_NI: OF_TRUNK or OF_SLOT, and FIRST and LAST of the row.
    bounds_N2B: first and last position of its own branch that a slot sees.
    of_trunk_N2Q: first and last position of the trunk that a query sees;
      Q = B * P.
    position_NS: positions of the trunk's keys, in whole blocks; -1 marks
      padding.
    position_NBC: positions of the caches' keys, likewise.
  """

  trunk_NI: jax.Array
  slot_NI: jax.Array
  own_NI: jax.Array
  flags_NI: jax.Array
  bounds_N2B: jax.Array
  of_trunk_N2Q: jax.Array
  position_NS: jax.Array
  position_NBC: jax.Array


# Logical axes of the fields of a plan.
AXES = Plan(
  *(("batch", None),) * 4,
  *(("batch", None, None),) * 2,
  ("batch", None),
  ("batch", None, None),
)


def plan(trunk: Source, own: Source, group: int) -> Plan:
  """Plans an iteration in which every slot runs one token.

  Args:
    trunk: what the slots see of their trunks; its keys are not read.
    own: what they see of their own branches, likewise.
    group: number M of query heads per key/value head.
  """
  # An idle slot has a trunk, but no token.
  is_idle_NB1 = own.limit_NRT < 0
  trunk = trunk._replace(limit_NRT=jnp.where(is_idle_NB1, -1, trunk.limit_NRT))
  trunk, own = _in_groups(trunk, own)
  n, b, _ = own.position.shape
  sizes = min(TRUNK, trunk.position.shape[1]), min(OWN, own.position.shape[2])
  is_some_NJ = _blocks(is_visible(trunk)[:, :, 0].any(1), sizes[0])
  is_some_NBJ = _blocks(is_visible(own)[:, :, 0], sizes[1])
  of_trunk, of_slot = is_some_NJ.shape[1], is_some_NBJ.shape[2]
  is_own_NJ = is_some_NBJ.reshape(n, -1)
  is_some_NI = jnp.concatenate([is_some_NJ, is_own_NJ], axis=1)
  count_N1 = is_some_NI.sum(1, keepdims=True)
  place_I = jnp.arange(is_some_NI.shape[1])
  order_NI = jnp.argsort(~is_some_NI, axis=1)
  last_place_N1 = jnp.maximum(count_N1, 1) - 1
  item_NI = jnp.take_along_axis(
    order_NI, jnp.minimum(place_I, last_place_N1), axis=1
  )
  is_trunk_NI = item_NI < of_trunk
  own_NI = jnp.maximum(item_NI - of_trunk, 0)
  # While the trunk is read, the first block of a slot is fetched already.
  own_NI = jnp.where(is_trunk_NI, is_own_NJ.argmax(1)[:, None], own_NI)
  last_N1 = jnp.max(
    jnp.where(is_some_NJ, jnp.arange(of_trunk), 0), axis=1, keepdims=True
  )
  is_item_NI = place_I < count_N1
  flags_NI = jnp.where(is_trunk_NI, OF_TRUNK, OF_SLOT)
  # A row of idle slots has an item that reads nothing.
  flags_NI = jnp.where(is_item_NI, flags_NI, 0)
  flags_NI += FIRST * (place_I == 0)
  flags_NI += LAST * (place_I == last_place_N1)
  heads = -(-group // _ROWS) * _ROWS
  integers = lambda x: x.astype(jnp.int32)  # noqa: E731
  return Plan(
    integers(jnp.where(is_trunk_NI, item_NI, last_N1)),
    integers(own_NI // of_slot),
    integers(own_NI % of_slot),
    integers(flags_NI),
    _bounds(own, n, b),
    jnp.repeat(_bounds(trunk, n, b), heads, axis=2),
    _whole(trunk.position, sizes[0], -1),
    _whole(own.position, sizes[1], -1),
  )


def _in_groups(trunk, own):
  """Makes several rows of each, with at most _SLOTS slots."""
  b = own.position.shape[1]
  groups = next(x for x in range(1, b + 1) if not b % x and b // x <= _SLOTS)
  cut = lambda x: x.reshape(-1, b // groups, x.shape[2])  # noqa: E731
  whole = jnp.repeat(trunk.position, groups, axis=0)
  found = []
  for source, position in ((trunk, whole), (own, cut(own.position))):
    first = source.first_NRT
    found.append(
      source._replace(
        position=position,
        limit_NRT=cut(source.limit_NRT),
        first_NRT=None if first is None else cut(first),
      )
    )
  return found


def _whole(x, size, fill):
  """Fills the last axis up to whole blocks."""
  edge = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % size)]
  return jnp.pad(x, edge, constant_values=fill)


def _blocks(is_seen, size):
  """Whether any of a block of positions [.., X] is seen."""
  is_seen = _whole(is_seen, size, False)
  return is_seen.reshape(*is_seen.shape[:-1], -1, size).any(-1)


def _bounds(source, n, b):
  """First and last position that each slot sees [N, 2, B]."""
  limit = source.limit_NRT
  first = jnp.zeros_like(limit)
  if source.first_NRT is not None:
    first = jnp.maximum(first, source.first_NRT)
  bounds = (jnp.broadcast_to(x[..., 0], (n, b)) for x in (first, limit))
  return jnp.stack(list(bounds), axis=1).astype(jnp.int32)
