# SPDX-License-Identifier: Apache-2.0
"""A TPU kernel for decoding: reads what the branches have, and no more.

In an iteration of the decoding loop every slot runs one token. It attends to
its trunk and to the cache of its own branch, whose room is as long as the
limit, while most branches are short. Here a row's work is a list of blocks
(decode_plan.py), made once per iteration for all layers: blocks of the trunk
that any slot sees, and blocks of each slot's cache that it sees. Idle slots,
room that is not used yet, padding and what a sliding window has left behind are
not read.

A block of the trunk is read once for all slots of the row. There is one softmax
over trunk and own branch, and the logits never reach memory.

Axes: N rows, B slots of a row, H key/value heads, M query heads per key/value
head, P the same filled up to whole registers, E head width, S trunk positions,
C cache entries, I items of a list of blocks.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from srl_jax.ops import decode_plan, tree_attention, tree_kernels
from srl_jax.ops.attention import Scoring
from srl_jax.ops.decode_plan import FIRST, LAST, OF_SLOT, OF_TRUNK, Plan

# Rows and items of the lists of a call: what fits into the on-chip memory of
# scalars (1 MiB), where a row of each list takes a multiple of 128 numbers.
_ROWS, _ITEMS = 256, 1 << 14
_LANES = tree_kernels.LANES
# Finite, so that a slot without a branch gives zeros and not NaN.
_MASKED = -1e30


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
    plan: the plan of this iteration.
    scoring: how logits are made.
    interpret: True runs the kernel without a TPU.

  Returns:
    [N, B, H, M, E] in the dtype of the queries.
  """
  n, b, h, m, e = q_NBHME.shape
  rows, items = plan.flags_NI.shape
  slots = n * b // rows
  width = plan.of_trunk_N2Q.shape[2] // slots
  # float32, of which any 8 query heads are a register.
  q_NBHPE = jnp.pad(
    q_NBHME.astype(jnp.float32),
    ((0, 0), (0, 0), (0, 0), (0, width - m), (0, 0)),
  )
  q_NHBPE = q_NBHPE.reshape(rows, slots, h, width, e).swapaxes(1, 2)
  q_NHQE = q_NHBPE.reshape(rows, h, slots * width, e)
  # XLA lays keys out as the kernel reads them, so nothing is transposed.
  arrays = k_NHES.swapaxes(2, 3), v_NHSE, own_k_XHEC.swapaxes(2, 3), own_v_XHCE
  step = max(1, min(_ROWS, _ITEMS // (-(-items // _LANES) * _LANES)))
  outs = [
    _call(
      first,
      jax.tree.map(lambda x, at=first: x[at : at + step], plan),
      q_NHQE[first : first + step],
      arrays,
      groups=rows // n,
      scoring=scoring,
      interpret=interpret,
    )
    for first in range(0, rows, step)
  ]
  out_NHQE = jnp.concatenate(outs) if len(outs) > 1 else outs[0]
  out_NHBPE = out_NHQE.reshape(rows, h, slots, width, e)
  out_NBHPE = out_NHBPE.swapaxes(1, 2).reshape(n, b, h, width, e)
  return out_NBHPE[:, :, :, :m].astype(q_NBHME.dtype)


def _call(row, plan, q_NHQE, arrays, *, groups, scoring, interpret):
  """Runs the kernel on some rows, from number `row` on."""
  n, h, queries, e = q_NHQE.shape
  b = plan.bounds_N2B.shape[2]
  s, c = arrays[1].shape[2], arrays[3].shape[2]
  trunk, own = min(decode_plan.TRUNK, s), min(decode_plan.OWN, c)

  def spec(shape, place):
    return pl.BlockSpec((None, *shape), place)

  heads = spec((h, queries, e), lambda n, i, *_: (n, 0, 0, 0))
  of_trunk = spec(
    (h, trunk, e),
    lambda n, i, t, *_: (jax.lax.div(row + n, groups), 0, t[n, i], 0),
  )
  of_slot = spec(
    (h, own, e),
    lambda n, i, t, x, j, *_: ((row + n) * b + x[n, i], 0, j[n, i], 0),
  )
  # Rows have unequal numbers of items.
  items = (plan.flags_NI > 0).sum(1).max()
  return pl.pallas_call(
    functools.partial(_kernel, scoring, (queries // b, s, c)),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=5,
      grid=(n, items),
      in_specs=[
        spec((2, queries), lambda n, i, *_: (n, 0, 0)),
        spec((1, trunk), lambda n, i, t, *_: (n, 0, t[n, i])),
        spec((1, own), lambda n, i, t, x, j, *_: (n * b + x[n, i], 0, j[n, i])),
        heads,
        *(of_trunk, of_trunk, of_slot, of_slot),
      ],
      out_specs=heads,
      scratch_shapes=[
        pltpu.VMEM((h, queries, e), jnp.float32),
        pltpu.VMEM((h, queries, _LANES), jnp.float32),
        pltpu.VMEM((h, queries, _LANES), jnp.float32),
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
    *arrays,
  )


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
  heads, s, c = sizes
  at = pl.program_id(0), pl.program_id(1)
  has = lambda flag: (flags[at] & flag) != 0  # noqa: E731

  @pl.when(has(FIRST))
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

  @pl.when(has(OF_TRUNK))
  def _():
    first, limit = of_trunk[0, :][:, None], of_trunk[1, :][:, None]
    is_there = _is_there(s, v.shape[1], trunk_blocks[at])
    seen = _is_seen(trunk_position, first, limit)
    add(slice(None), k, v, seen, is_there)

  @pl.when(has(OF_SLOT))
  def _():
    slot, block = slots[at], own_blocks[at]
    first, limit = (bounds[at[0], i, slot] for i in range(2))
    is_there = _is_there(c, own_v.shape[1], block)
    seen = _is_seen(own_position, first, limit)
    queries = pl.ds(pl.multiple_of(slot * heads, heads), heads)
    add(queries, own_k, own_v, seen, is_there)

  @pl.when(has(LAST))
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
