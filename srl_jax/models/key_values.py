# SPDX-License-Identifier: Apache-2.0
"""Keys and values of all layers, and what happens to them while decoding.

Axes: those of the legend (srl_jax/types.py), but M counts the trunks that a
program runs, and D in row_DM and the like devices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srl_jax.ops import attention


class KeyValues(NamedTuple):
  """Keys and values of all layers, with the positions of the tokens.

  For trunks, k is [L, N, H, E, S], v [L, N, H, S, E] and position [N, S]. For
  branches they are [L, N * R, H, E, C], [L, N * R, H, C, E] and [N, R, C]. In
  decoding, k and v are tuples of L arrays instead. Keys are already rotated.
  Position -1 marks an entry that holds no token.
  """

  k: Any
  v: Any
  position: jax.Array

  def turned(self) -> KeyValues:
    """The same with the last two axes of the keys exchanged."""
    return self._replace(k=jax.tree.map(lambda x: x.swapaxes(-1, -2), self.k))

  def forget(self, rows_NR: jax.Array) -> KeyValues:
    """Marks all entries of the rows that are True as empty."""
    is_gone_NR1 = rows_NR[..., None]
    return self._replace(position=jnp.where(is_gone_NR1, -1, self.position))

  def grow(self, width: int, oldest: jax.Array) -> KeyValues:
    """Widens the ring to `width` columns; column `oldest` becomes the first."""

    def wider(axis, fill=0):
      def of_array(x):
        room = [(0, 0)] * x.ndim
        room[axis] = (0, width - x.shape[axis])
        return jnp.pad(jnp.roll(x, -oldest, axis), room, constant_values=fill)

      return of_array

    return KeyValues(
      jax.tree.map(wider(-1), self.k),
      jax.tree.map(wider(-2), self.v),
      wider(-1, -1)(self.position),
    )

  def shrink(self, width: int, oldest: jax.Array) -> KeyValues:
    """Keeps the `width` youngest columns of the ring, the oldest in front."""

    def narrower(axis):
      def of_array(x):
        rolled = jnp.roll(x, -oldest, axis)
        first = x.shape[axis] - width
        return jax.lax.slice_in_dim(rolled, first, None, axis=axis % x.ndim)

      return of_array

    return KeyValues(
      jax.tree.map(narrower(-1), self.k),
      jax.tree.map(narrower(-2), self.v),
      narrower(-1)(self.position),
    )

  def replace_rows(
    self,
    row_M: jax.Array,
    trunks: KeyValues,
    place_M: jax.Array | None = None,
  ) -> KeyValues:
    """Puts M trunks, no wider than these, into rows; row N stands for none.

    With `place_M`, a row has places of the trunks' width, and a trunk goes to
    the place of this index. Positions then count from the start of the row.
    """
    if place_M is not None:
      return self._replace_places(row_M, trunks, place_M)

    def replacer(axis, fill=0):
      def of_arrays(x, new):
        room = [(0, 0)] * x.ndim
        room[axis] = (0, x.shape[axis] - new.shape[axis])
        new = jnp.pad(new, room, constant_values=fill)
        return x.at[row_M].set(new, mode="drop")

      return of_arrays

    return KeyValues(
      jax.tree.map(replacer(-1), self.k, trunks.k),
      jax.tree.map(replacer(-2), self.v, trunks.v),
      replacer(-1, -1)(self.position, trunks.position),
    )

  def rows_of(self, row_DM: jax.Array) -> KeyValues:
    """Takes M rows of each of D devices, whose rows lie together.

    Returns:
      D * M rows.
    """

    def take(x):
      x_DN = x.reshape(len(row_DM), -1, *x.shape[1:])
      taken = jax.vmap(lambda x_N, row_M: x_N[row_M])(x_DN, row_DM)
      return taken.reshape(-1, *x.shape[1:])

    return jax.tree.map(take, self)

  def with_rows(self, row_DM: jax.Array, rows: KeyValues) -> KeyValues:
    """Puts back what `rows_of` took. All rows of a device differ."""

    def put(x, new):
      x_DN = x.reshape(len(row_DM), -1, *x.shape[1:])
      new_DM = new.reshape(*row_DM.shape, *new.shape[1:])

      def of_device(x_N, row_M, new_M):
        return x_N.at[row_M].set(
          new_M, unique_indices=True, mode="promise_in_bounds"
        )

      return jax.vmap(of_device)(x_DN, row_DM, new_DM).reshape(x.shape)

    return jax.tree.map(put, self, rows)

  def put_behind(self, at_N: jax.Array, new: KeyValues) -> KeyValues:
    """Keeps the first `at_N` entries of each trunk and puts new ones behind.

    Args:
      at_N: number of entries that stay; the others are forgotten. They and
        all T new ones are no more than there are.
      new: of one branch for each trunk, with positions [N, 1, T].
    """

    def put(axis):
      def of_row(x, new, at):
        return jax.lax.dynamic_update_slice_in_dim(x, new, at, axis)

      return lambda x, new: jax.vmap(of_row)(x, new, at_N)

    place_S = jnp.arange(self.position.shape[1])
    length_N = at_N + (new.position >= 0).sum((1, 2))
    return KeyValues(
      jax.tree.map(put(-1), self.k, new.k),
      jax.tree.map(put(-2), self.v, new.v),
      jnp.where(place_S < length_N[:, None], place_S, -1),
    )

  def _replace_places(self, row_M, trunks, place_M):
    width = trunks.position.shape[1]

    def replacer(axis):
      def of_arrays(x, new):
        at = x.ndim + axis
        split = (*x.shape[:at], -1, width, *x.shape[at + 1 :])
        between = (slice(None),) * (at - 1)
        index = (row_M, *between, place_M)
        return x.reshape(split).at[index].set(new, mode="drop").reshape(x.shape)

      return of_arrays

    start_M1 = place_M[:, None] * width
    position_MS = trunks.position
    position_MS = jnp.where(position_MS < 0, -1, start_M1 + position_MS)
    return KeyValues(
      jax.tree.map(replacer(-1), self.k, trunks.k),
      jax.tree.map(replacer(-2), self.v, trunks.v),
      replacer(-1)(self.position, position_MS),
    )


class TrunkView(NamedTuple):
  """What queries see of trunks, whose keys and values differ by layer.

  Attributes:
    position: positions of the trunks' tokens; -1 marks padding.
    limit_NRT: last position that a query sees.
    trunk_of_NR: which of its row's trunks a branch reads; None if a row has
      one, or if several lie one behind the other.
    first_NRT: first position of them that a query sees; None if it is 0.
  """

  position: jax.Array
  limit_NRT: jax.Array
  trunk_of_NR: jax.Array | None = None
  first_NRT: jax.Array | None = None

  def source(self, k: jax.Array, v: jax.Array) -> attention.Source:
    """The trunks of a layer as a source; one per branch if it chooses."""
    position, limit_NRT, trunk_of_NR, first_NRT = self
    if trunk_of_NR is None or len(position) == len(trunk_of_NR):
      return attention.Source(k, v, position, limit_NRT, first_NRT)
    rows = len(trunk_of_NR)

    def choose(x):
      x_NU = x.reshape(rows, -1, *x.shape[1:])
      return jax.vmap(lambda x_U, trunk_R: x_U[trunk_R])(x_NU, trunk_of_NR)

    k, v = (choose(x) for x in (k, v))
    merge = lambda x_NR: x_NR.reshape(-1, *x_NR.shape[2:])  # noqa: E731
    return attention.Source(merge(k), merge(v), choose(position), limit_NRT)
