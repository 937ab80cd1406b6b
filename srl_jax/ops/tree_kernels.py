# SPDX-License-Identifier: Apache-2.0
"""The bodies of the kernels of tree_attention.py: one pair of blocks.

A step computes one pair of a block of queries and a block of keys, for all
query heads of one or several key/value heads, so that these share the keys, the
values and the mask. Logits lie with the keys along the rows: then maxima and
sums go from register to register, and what is kept of a query is one number.

Logits are over log 2, because the hardware's exponential is of base 2. They are
float32; weights are rounded to the dtype of the values before a product.

Axes: H key/value heads, M query heads per key/value head, E head width.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from srl_jax.ops import trees
from srl_jax.ops.attention import Scoring

# Lanes of a TPU register.
LANES = 128
# Finite, so that a query that sees nothing (padding) gives finite garbage.
_MASKED = -1e30
_LOG2E = math.log2(math.e)
dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
# The axes that a product sums over: columns of both, or columns and rows.
COLUMNS = (((1,), (1,)), ((), ()))
ROWS = (((1,), (0,)), ((), ()))


class Static(NamedTuple):
  """What is known when a kernel is compiled.

  Attributes:
    heads: key/value heads H on a device.
    group: query heads M per key/value head.
    width: head width E.
    block: tokens of a block.
    scoring: how logits are made.
    interpret: True runs the kernels without a TPU.
  """

  heads: int
  group: int
  width: int
  block: int
  scoring: Scoring
  interpret: bool

  @property
  def together(self) -> int:
    """Key/value heads of a step."""
    return together(self.heads, self.width)


def together(kv_heads: int, head_width: int) -> int:
  """Key/value heads of a step: the fewest that are whole registers wide."""
  for heads in range(1, kv_heads):
    if kv_heads % heads == 0 and heads * head_width % LANES == 0:
      return heads
  return kv_heads


def forward(static, _q, _k, flags, query, key, q, k, v, out, log_sum, *scratch):
  keys, values, acc, top, total = scratch
  has = _has(flags)

  @pl.when(has(trees.FIRST))
  def _():
    acc[...] = jnp.zeros_like(acc)
    top[...] = jnp.full_like(top, _MASKED)
    total[...] = jnp.zeros_like(total)

  def run(is_seen):
    for g in range(static.together):
      keys[g] = _columns(static, k, g)
      values[g] = _columns(static, v, g).T

    def body(h, queries):
      kv, row = jax.lax.div(h, static.group), pl.ds(h, 1)
      logits, _ = over_log2(static.scoring, dot(keys[kv], queries, COLUMNS))
      if is_seen is not None:
        logits = jnp.where(is_seen, logits, _MASKED)
      old = top[row]
      new = jnp.maximum(old, logits.max(0, keepdims=True))
      weights = jnp.exp2(logits - new)
      shrink = jnp.exp2(old - new)
      top[row] = new
      total[row] = total[row] * shrink + weights.sum(0, keepdims=True)
      mixed = dot(values[kv], weights.astype(values.dtype), ROWS)
      acc[h] = acc[h] * shrink + mixed

    _each_head(static, body, q)

  _run(has, run, query, key)

  @pl.when(has(trees.LAST))
  def _():
    _put(static, out, lambda h: acc[h] / total[pl.ds(h, 1)])
    log_sum[...] = top[...] + jnp.log2(total[...])


def backward(
  static,
  _q,
  key_blocks,
  flags,
  query,
  key,
  q,
  k,
  v,
  out,
  grad,
  log_sum,
  grad_q,
  grad_k,
  grad_v,
  *scratch,
  start,
):
  keys, turned, values, of_keys, of_values, acc, shift = scratch
  has = _has(flags)
  row, item = pl.program_id(0), pl.program_id(2)
  place = (key_blocks[row, item] - start) * static.block
  rows = pl.ds(pl.multiple_of(place, static.block), static.block)

  @pl.when(item == 0)
  def _():
    grad_k[...] = jnp.zeros_like(grad_k)
    grad_v[...] = jnp.zeros_like(grad_v)

  @pl.when(has(trees.FIRST))
  def _():
    acc[...] = jnp.zeros_like(acc)

    def body(h, outs, grads):
      # What the softmax takes off: sum over keys of weight times gradient.
      product = outs.astype(jnp.float32) * grads.astype(jnp.float32)
      shift[pl.ds(h, 1)] = product.T.sum(0, keepdims=True)

    _each_head(static, body, out, grad)

  def run(is_seen):
    for g in range(static.together):
      keys[g] = _columns(static, k, g)
      turned[g] = _columns(static, k, g).T
      values[g] = _columns(static, v, g)
    of_keys[...] = jnp.zeros_like(of_keys)
    of_values[...] = jnp.zeros_like(of_values)

    def body(h, queries, grads):
      kv, row = jax.lax.div(h, static.group), pl.ds(h, 1)
      logits, slope = over_log2(static.scoring, dot(keys[kv], queries, COLUMNS))
      weights = jnp.exp2(logits - log_sum[row])
      if is_seen is not None:
        weights = jnp.where(is_seen, weights, 0.0)
      of_values[kv] += dot(weights.astype(grads.dtype), grads, ROWS)
      of_logits = weights * (dot(values[kv], grads, COLUMNS) - shift[row])
      if slope is not None:
        of_logits *= slope
      of_logits = of_logits.astype(keys.dtype)
      of_keys[kv] += dot(of_logits, queries, ROWS)
      acc[h] += dot(turned[kv], of_logits, ROWS)

    _each_head(static, body, q, grad)
    for g in range(static.together):
      columns = pl.ds(g * static.width, static.width)
      grad_k[rows, columns] += of_keys[g]
      grad_v[rows, columns] += of_values[g]

  _run(has, run, query, key)

  @pl.when(has(trees.LAST))
  def _():
    _put(static, grad_q, lambda h: acc[h] * static.scoring.scale)


def _has(flags):
  """Returns a function that says whether this pair of blocks has a flag."""
  found = flags[pl.program_id(0), pl.program_id(2)]
  return lambda flag: (found & flag) != 0


def _run(has, run, query, key):
  """Calls run(mask), or run(None) where every query sees every key."""

  @pl.when(has(trees.PARTLY))
  def _():
    queries = [query[pl.ds(i, 1), :] for i in range(4)]
    keys = [key[i, :][:, None] for i in range(4)]
    run(trees.is_visible(queries, keys))

  pl.when(has(trees.WHOLLY))(lambda: run(None))


def over_log2(
  scoring: Scoring, product: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
  """Returns logits over log 2, and their slope by the cap, if there is one."""
  scale, cap = scoring
  if not cap:
    return product * (scale * _LOG2E), None
  bent = jnp.tanh(product * (scale / cap))
  return bent * (cap * _LOG2E), 1 - bent**2


def _columns(static, x, h):
  return x[:, h * static.width : (h + 1) * static.width]


def _in_registers(static, body):
  """Calls body(first head, number of heads, their columns), a few at a time.

  They are as many as fill whole registers: only there may a loop read and
  write. What is left over is known when the kernel is compiled.
  """
  few = LANES // math.gcd(static.width, LANES)
  heads = static.together * static.group
  width = few * static.width

  def run_few(i, _):
    start = pl.multiple_of(i * width, LANES)
    body(i * few, few, pl.ds(start, width))

  if heads >= few:
    jax.lax.fori_loop(0, heads // few, run_few, None)
  rest = heads % few
  if rest:
    first = heads - rest
    body(first, rest, pl.ds(first * static.width, rest * static.width))


def _each_head(static, body, *refs):
  """Calls body(head, its columns of each array) for the heads of a step."""

  def of_some(first, count, columns):
    arrays = [ref[:, columns] for ref in refs]
    for h in range(count):
      body(first + h, *(_columns(static, x, h) for x in arrays))

  _in_registers(static, of_some)


def _put(static, ref, head):
  """Writes head(h), which is [E, block], to the columns of each head."""

  def of_some(first, count, columns):
    x = jnp.concatenate([head(first + h) for h in range(count)])
    ref[:, columns] = x.T.astype(ref.dtype)

  _in_registers(static, of_some)
