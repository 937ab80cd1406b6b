# SPDX-License-Identifier: Apache-2.0
"""A TPU kernel for decoding: reads what the branches have, and no more.

In a turn of the decoding loop every slot runs one token. It attends to its
trunk and to the cache of its own branch, whose room is as long as the limit,
while most branches are short. Here a row's work is a list of blocks, made once
per turn for all layers: blocks of the trunk that any slot sees, and blocks of
each slot's cache that it sees. Idle slots, room that is not used yet, padding
and what a sliding window has left behind are not read.

A block of the trunk is read once for all slots of the row. There is one softmax
over trunk and own branch, and the logits never reach memory.

Axes: N rows, B slots of a row, H key/value heads, M query heads per key/value
head, P the same filled up to whole registers, E head width, S trunk positions,
C cache entries, I items of a list of blocks.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from srl_jax.ops import tree_attention, tree_kernels
from srl_jax.ops.attention import Scoring, Source, is_visible

# Positions of a block: of a trunk, and of a branch, which ends within one.
TRUNK, OWN = 512, 256
# Query heads of a slot are filled up to so many, the rows of a register.
_ROWS = 8
_LANES = tree_kernels.LANES
# Finite, so that a slot without a branch gives zeros and not NaN.
_MASKED = -1e30
# What an item is; 0 for nothing.
_FIRST, _LAST, _OF_TRUNK, _OF_SLOT = 1, 2, 4, 8


class Plan(NamedTuple):
  """What a turn reads; the same for layers of a kind.

  An item is a block of the trunk, or of a slot's cache. What it does not read
  stays as it was in the item before, so that nothing is fetched.

  Attributes:
    trunk_NI: blocks of the trunk.
    slot_NI: slots.
    own_NI: blocks of the slot's cache.
    flags_NI: _OF_TRUNK or _OF_SLOT, and _FIRST and _LAST of the row.
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
PLAN_AXES = Plan(
  *(("batch", None),) * 4,
  *(("batch", None, None),) * 2,
  ("batch", None),
  ("batch", None, None),
)


def is_chosen(kernel: str, device: str, head_width: int) -> bool:
  """Whether decoding attends by this kernel.

  Args:
    kernel: "plain", "ragged", or "auto" for the kernel where it suits: on TPUs,
      for heads that fill registers. Narrower ones are filled up in memory too.
    device: kind of the devices, as JAX names it: "TPU v5 lite", "cpu".
    head_width: width of one head.

  Raises:
    ValueError: "ragged" is asked for and cannot run here.
  """
  if kernel == "auto" and head_width % _LANES:
    return False
  return tree_attention.suits(
    kernel, "ragged", device, field="c.model.decode_kernel"
  )


def plan(trunk: Source, own: Source, group: int) -> Plan:
  """Plans a turn in which every slot runs one token.

  Args:
    trunk: what the slots see of their trunks; its keys are not read.
    own: what they see of their own branches, likewise.
    group: number M of query heads per key/value head.
  """
  n, b, _ = own.position.shape
  # An idle slot has a trunk, but no token.
  is_idle_NB1 = own.limit_NRT < 0
  trunk = trunk._replace(limit_NRT=jnp.where(is_idle_NB1, -1, trunk.limit_NRT))
  is_some_NJ = _blocks(is_visible(trunk)[:, :, 0].any(1), TRUNK)
  is_some_NBJ = _blocks(is_visible(own)[:, :, 0], OWN)
  kinds, blocks = is_some_NJ.shape[1], is_some_NBJ.shape[2]
  is_own_NJ = is_some_NBJ.reshape(n, -1)
  is_some_NI = jnp.concatenate([is_some_NJ, is_own_NJ], axis=1)
  count_N1 = is_some_NI.sum(1, keepdims=True)
  place_I = jnp.arange(is_some_NI.shape[1])
  order_NI = jnp.argsort(~is_some_NI, axis=1)
  last_place_N1 = jnp.maximum(count_N1, 1) - 1
  item_NI = jnp.take_along_axis(
    order_NI, jnp.minimum(place_I, last_place_N1), axis=1
  )
  is_trunk_NI = item_NI < kinds
  own_NI = jnp.maximum(item_NI - kinds, 0)
  # The first item of a slot follows those of the trunk and is fetched early.
  own_NI = jnp.where(is_trunk_NI, is_own_NJ.argmax(1)[:, None], own_NI)
  last_N1 = jnp.max(
    jnp.where(is_some_NJ, jnp.arange(kinds), 0), axis=1, keepdims=True
  )
  is_item_NI = place_I < count_N1
  flags_NI = jnp.where(is_trunk_NI, _OF_TRUNK, _OF_SLOT)
  # A row of idle slots has an item that reads nothing.
  flags_NI = jnp.where(is_item_NI, flags_NI, 0)
  flags_NI += _FIRST * (place_I == 0)
  flags_NI += _LAST * (place_I == last_place_N1)
  rows = -(-group // _ROWS) * _ROWS
  integers = lambda x: x.astype(jnp.int32)  # noqa: E731
  return Plan(
    integers(jnp.where(is_trunk_NI, item_NI, last_N1)),
    integers(own_NI // blocks),
    integers(own_NI % blocks),
    integers(flags_NI),
    _bounds(own, n, b),
    jnp.repeat(_bounds(trunk, n, b), rows, axis=2),
    _whole(trunk.position, TRUNK, -1),
    _whole(own.position, OWN, -1),
  )


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


def attend(
  q_NBHME: jax.Array,
  k_NHES: jax.Array,
  v_NHSE: jax.Array,
  own_k_XHEC: jax.Array,
  own_v_XHCE: jax.Array,
  plan: Plan,
  *,
  scoring: Scoring,
  interpret: bool,
) -> jax.Array:
  """Attention of one token of every slot to its trunk and its own branch.

  Slots get the same result as from `attention.attend`, up to rounding; those
  that see nothing get zeros.

  Args:
    q_NBHME: queries, not yet scaled.
    k_NHES: keys of the trunks.
    v_NHSE: values of the trunks.
    own_k_XHEC: keys of the branches, X = N * B.
    own_v_XHCE: values of the branches.
    plan: the plan of this turn.
    scoring: how logits are made.
    interpret: True runs the kernel without a TPU.

  Returns:
    [N, B, H, M, E] in the dtype of the queries.
  """
  n, b, h, m, e = q_NBHME.shape
  rows = plan.of_trunk_N2Q.shape[2] // b
  s, c = k_NHES.shape[3], own_k_XHEC.shape[3]
  edge = ((0, 0), (0, 0), (0, 0), (0, rows - m), (0, 0))
  # float32, of which any 8 rows are a register.
  q_NHBPE = jnp.pad(q_NBHME.astype(jnp.float32), edge).swapaxes(1, 2)
  q_NHQE = q_NHBPE.reshape(n, h, b * rows, e)

  def spec(shape, place):
    return pl.BlockSpec((None, *shape), place)

  of_row = lambda n, i, *_: (n, 0, 0)  # noqa: E731
  heads = spec((h, b * rows, e), lambda n, i, *_: (n, 0, 0, 0))
  of_trunk = spec((h, TRUNK, e), lambda n, i, t, *_: (n, 0, t[n, i], 0))
  of_slot = spec(
    (h, OWN, e), lambda n, i, t, x, j, *_: (n * b + x[n, i], 0, j[n, i], 0)
  )
  # Rows have unequal numbers of items.
  items = (plan.flags_NI > 0).sum(1).max()
  out_NHQE = pl.pallas_call(
    functools.partial(_kernel, scoring, (rows, s, c)),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=5,
      grid=(n, items),
      in_specs=[
        spec((2, b * rows), of_row),
        spec((1, TRUNK), lambda n, i, t, *_: (n, 0, t[n, i])),
        spec((1, OWN), lambda n, i, t, x, j, *_: (n * b + x[n, i], 0, j[n, i])),
        heads,
        of_trunk,
        of_trunk,
        of_slot,
        of_slot,
      ],
      out_specs=heads,
      scratch_shapes=[
        pltpu.VMEM((h, b * rows, e), jnp.float32),
        pltpu.VMEM((h, b * rows, _LANES), jnp.float32),
        pltpu.VMEM((h, b * rows, _LANES), jnp.float32),
      ],
    ),
    out_shape=jax.ShapeDtypeStruct(q_NHQE.shape, jnp.float32),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary"),
      vmem_limit_bytes=tree_attention.VMEM_BYTES,
    ),
    interpret=interpret,
    name="decode_attention",
  )(
    *plan[:5],
    plan.of_trunk_N2Q,
    plan.position_NS[:, None],
    plan.position_NBC.reshape(n * b, 1, -1),
    q_NHQE,
    # XLA lays keys out as the kernel reads them, so nothing is transposed.
    *(k_NHES.swapaxes(2, 3), v_NHSE, own_k_XHEC.swapaxes(2, 3), own_v_XHCE),
  )
  out_NHBPE = out_NHQE.reshape(n, h, b, rows, e)
  return out_NHBPE[:, :, :, :m].swapaxes(1, 2).astype(q_NBHME.dtype)


def _kernel(
  scoring,
  sizes,
  trunk_blocks,
  slots,
  own_blocks,
  flags,
  bounds,
  of_trunk,
  trunk_position,
  own_position,
  q,
  k,
  v,
  own_k,
  own_v,
  out,
  acc,
  top,
  total,
):
  """Adds one block to the results of its row."""
  rows, s, c = sizes
  at = pl.program_id(0), pl.program_id(1)
  has = lambda flag: (flags[at] & flag) != 0  # noqa: E731

  @pl.when(has(_FIRST))
  def _():
    acc[...] = jnp.zeros_like(acc)
    top[...] = jnp.full_like(top, _MASKED)
    total[...] = jnp.zeros_like(total)

  def add(queries, keys, values, is_seen, is_there):
    """Adds keys and values [H, X, E] to some of the queries."""
    for h in range(q.shape[0]):
      product = tree_kernels.dot(
        q[h, queries].astype(keys.dtype), keys[h], tree_kernels.COLUMNS
      )
      logits, _ = tree_kernels.over_log2(scoring, product)
      logits = jnp.where(is_seen, logits, _MASKED)
      old = top[h, queries][:, :1]
      new = jnp.maximum(old, logits.max(1, keepdims=True))
      # A query that sees nothing here must not gain the weight of 2^0.
      weights = jnp.where(is_seen, jnp.exp2(logits - new), 0.0)
      shrink = jnp.exp2(old - new)
      sums = total[h, queries][:, :1] * shrink + weights.sum(1, keepdims=True)
      top[h, queries] = jnp.broadcast_to(new, (len(new), _LANES))
      total[h, queries] = jnp.broadcast_to(sums, (len(new), _LANES))
      value = values[h]
      if is_there is not None:
        value = jnp.where(is_there, value, jnp.zeros_like(value))
      mixed = tree_kernels.dot(
        weights.astype(value.dtype), value, tree_kernels.ROWS
      )
      acc[h, queries] = acc[h, queries] * shrink + mixed

  @pl.when(has(_OF_TRUNK))
  def _():
    first, limit = of_trunk[0, :][:, None], of_trunk[1, :][:, None]
    is_there = _is_there(s, TRUNK, trunk_blocks[at])
    seen = _is_seen(trunk_position, first, limit)
    add(slice(None), k, v, seen, is_there)

  @pl.when(has(_OF_SLOT))
  def _():
    slot, block = slots[at], own_blocks[at]
    first, limit = (bounds[at[0], i, slot] for i in range(2))
    is_there = _is_there(c, OWN, block)
    seen = _is_seen(own_position, first, limit)
    queries = pl.ds(pl.multiple_of(slot * rows, rows), rows)
    add(queries, own_k, own_v, seen, is_there)

  @pl.when(has(_LAST))
  def _():
    for h in range(q.shape[0]):
      sums = total[h][:, :1]
      out[h] = acc[h] / jnp.where(sums > 0, sums, 1.0)


def _is_seen(position, first, limit):
  """Which keys of a block are seen [1 or Q, X]."""
  position = position[...]
  return (position >= first) & (position <= limit)


def _is_there(length, size, block):
  """Which values [X, 1] of a block are not beyond the end; None for all.

  What lies beyond may be anything, and no weight makes a NaN nothing.
  """
  if not length % size:
    return None
  place = jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)
  return block * size + place < length
