# SPDX-License-Identifier: Apache-2.0
"""Who sees whom in a row that holds trees of tokens; which blocks that takes.

A token sees itself and its ancestors. Where they lie in the row is free: in
the update a row holds trunks and, behind them, lanes of branches. Walked depth
first, every token is entered once, and left when all its descendants were
entered. So one rule serves trunks, branches, branches of branches and padding:

    a key is visible iff enter of the key <= enter of the query < leave of the
    key

Not for: the arithmetic of attention (tree_attention.py).

Axes: N rows, T tokens of a row, P devices of a row, I items of a list of
blocks, U trunks, S trunk positions, B lanes, W cells of a lane; J blocks of a
row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Bits that say what a kernel does with an item; 0 for nothing.
FIRST, LAST, PARTLY, WHOLLY = 1, 2, 4, 8


class Labels(NamedTuple):
  """Depth-first labels of the tokens; -1, -1 is padding.

  Attributes:
    enter_NT: number of the token in the order of the walk.
    leave_NT: number of the first token entered after all its descendants.
    position_NT: number of its ancestors.
  """

  enter_NT: jax.Array
  leave_NT: jax.Array
  position_NT: jax.Array


class Blocks(NamedTuple):
  """Pairs of a block of queries and a block of keys, one row after the other.

  The queries of a row are split over P devices, and each has a list. The pairs
  of a block of queries follow each other. Each block has one pair at least. At
  the end of a list the last pair repeats, with flags 0.

  Attributes:
    query_NPI: blocks of the device's queries, counted in blocks.
    key_NPI: blocks of keys.
    flags_NPI: FIRST and LAST for the first and the last pair of a block of
      queries; WHOLLY if every query sees every key, else PARTLY.
  """

  query_NPI: jax.Array
  key_NPI: jax.Array
  flags_NPI: jax.Array


class Plan(NamedTuple):
  """What the kernels need to know of rows; the same for layers of a kind.

  Attributes:
    labels_N4T: enter, leave and position of each token, and the first
      position that it sees.
    forward: pairs of blocks.
    backward: the same, in one list for each part of the keys.
  """

  labels_N4T: jax.Array
  forward: Blocks
  backward: tuple[Blocks, ...]


def is_visible(query_4: jax.Array, key_4: jax.Array) -> jax.Array:
  """Returns True where a query sees a key, from labels of `Plan` [4, ...].

  The labels of queries and keys broadcast against each other.
  """
  enter, _, _, first = query_4
  key_enter, key_leave, key_position, _ = key_4
  return (key_enter <= enter) & (enter < key_leave) & (key_position >= first)


def label_lanes(
  trunk_position_NUS: jax.Array,
  position_NBW: jax.Array,
  first_NBW: jax.Array,
  trunk_of_NB: jax.Array,
) -> Labels:
  """Labels rows of trunks and lanes, T = U * S + B * W.

  Two trunks, A of three tokens and B of two, and a lane with two branches of A:
  x, which sees both of its tokens before A2, and y, which sees one. A token is
  seen from where it is entered to where it is left:

    token   A0 A1 A2 B0 B1  x0 x1 y0
    enter    0  2  5  6  7   3  4  1
    leave    6  6  6  8  8   5  5  2

  Args:
    trunk_position_NUS: positions of the trunks' tokens; -1 marks padding.
    position_NBW: positions of the branches' tokens; -1 marks padding.
    first_NBW: cell of the first token of the same branch.
    trunk_of_NB: which of the U trunks of its row a lane reads.
  """
  n, u, s = trunk_position_NUS.shape
  cell_W = jnp.arange(position_NBW.shape[-1])
  place_NBW = cell_W - first_NBW
  start_NBW = position_NBW - place_NBW
  # A branch comes just before the trunk token at its first position, which is
  # the first that it does not see.
  of_trunk_NUS = 2 * ((s + 1) * jnp.arange(u)[:, None] + trunk_position_NUS) + 1
  of_lanes_NBW = 2 * ((s + 1) * trunk_of_NB[..., None] + start_NBW)
  flat = lambda x, y: jnp.concatenate(  # noqa: E731
    [x.reshape(n, -1), y.reshape(n, -1)], axis=1
  )
  position_NT = flat(trunk_position_NUS, position_NBW)
  is_token_NT = position_NT >= 0
  last = 2 * (s + 1) * u
  order_NT = jnp.where(is_token_NT, flat(of_trunk_NUS, of_lanes_NBW), last)
  # Both sorts are stable, so the tokens of a branch stay together.
  enter_NT = jnp.argsort(jnp.argsort(order_NT, axis=1), axis=1)
  # All that hangs off a trunk comes before the next trunk.
  ends_NU = (
    order_NT[:, None] < 2 * (s + 1) * jnp.arange(1, u + 1)[:, None]
  ).sum(-1)
  next_NBW = jnp.pad(
    first_NBW[..., 1:], ((0, 0), (0, 0), (0, 1)), constant_values=-1
  )
  is_next_NBW = jnp.pad(position_NBW[..., 1:] >= 0, ((0, 0), (0, 0), (0, 1)))
  is_end_NBW = (next_NBW != first_NBW) | ~is_next_NBW
  end_NBW = jax.lax.cummin(
    jnp.where(is_end_NBW, cell_W, cell_W.size), axis=2, reverse=True
  )
  leave_NT = flat(
    jnp.broadcast_to(ends_NU[..., None], (n, u, s)),
    enter_NT[:, u * s :].reshape(position_NBW.shape) + end_NBW - cell_W + 1,
  )
  keep = lambda x: jnp.where(is_token_NT, x, -1).astype(jnp.int32)  # noqa: E731
  return Labels(keep(enter_NT), keep(leave_NT), keep(position_NT))


def plan(
  labels: Labels, *, block: int, parts: int, window: int = 0, shards: int = 1
) -> Plan:
  """Lists the pairs of blocks in which a query sees a key.

  Args:
    labels: the labels; shards of whole blocks make up T.
    block: tokens of a block.
    parts: number of parts of the keys, for the backward pass; each has as many
      blocks as the others, but for the last.
    window: how many positions a token sees, its own included; 0 for all.
    shards: number of devices that the queries of a row are split over. Each has
      a list of its own.
  """
  enter_NT, leave_NT, position_NT = labels
  first_NT = position_NT - window + 1 if window else jnp.zeros_like(enter_NT)
  labels_N4T = jnp.stack([enter_NT, leave_NT, position_NT, first_NT], axis=1)
  n, _, t = labels_N4T.shape
  count = t // block
  cut_4NJT = jnp.moveaxis(labels_N4T, 1, 0).reshape(4, n, count, block)
  seen = is_visible(
    cut_4NJT[:, :, :, None, :, None], cut_4NJT[:, :, None, :, None, :]
  )
  is_some_NJJ, is_all_NJJ = seen.any((-1, -2)), seen.all((-1, -2))
  size = -(-count // parts)

  def blocks(start, stop):
    # The shards of a row are rows of their own.
    own = (
      x[..., start:stop].reshape(n * shards, count // shards, -1)
      for x in (is_some_NJJ, is_all_NJJ)
    )
    found = _blocks(*own, start)
    return Blocks(*(x.reshape(n, shards, -1) for x in found))

  return Plan(
    labels_N4T,
    blocks(0, count),
    tuple(blocks(start, start + size) for start in range(0, count, size)),
  )


def _blocks(is_some_NJJ, is_all_NJJ, start):
  """The pairs that are `some`; keys are counted from `start`."""
  # The results of a block of queries without a pair would not be written.
  lacks_NJ1 = ~is_some_NJJ.any(-1, keepdims=True)
  is_some_NJJ |= lacks_NJ1 & (jnp.arange(is_some_NJJ.shape[-1]) == 0)
  n, queries, keys = is_some_NJJ.shape
  is_some_NI, is_all_NI = (
    x.reshape(n, queries * keys) for x in (is_some_NJJ, is_all_NJJ)
  )
  count_N1 = is_some_NI.sum(-1, keepdims=True)
  place_I = jnp.arange(queries * keys)
  order_NI = jnp.argsort(~is_some_NI, axis=-1)
  pair_NI = jnp.take_along_axis(
    order_NI, jnp.minimum(place_I, count_N1 - 1), axis=-1
  )
  query_NI, key_NI = pair_NI // keys, pair_NI % keys + start
  is_change_NI = query_NI[:, 1:] != query_NI[:, :-1]
  edge = ((0, 0), (1, 0)), ((0, 0), (0, 1))
  is_first_NI, is_last_NI = (
    jnp.pad(is_change_NI, x, constant_values=True) for x in edge
  )
  is_last_NI |= place_I == count_N1 - 1
  is_whole_NI = jnp.take_along_axis(is_all_NI, pair_NI, axis=-1)
  flags_NI = jnp.where(is_whole_NI, WHOLLY, PARTLY)
  flags_NI += FIRST * is_first_NI + LAST * is_last_NI
  flags_NI = jnp.where(place_I < count_N1, flags_NI, 0)
  return (x.astype(jnp.int32) for x in (query_NI, key_NI, flags_NI))
