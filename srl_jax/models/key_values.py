# SPDX-License-Identifier: Apache-2.0
"""Keys and values of all layers, and what happens to them while decoding.

Axes: those of the legend, see srl_jax/types.py.
"""

from __future__ import annotations

import functools
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
      taken = jax.vmap(lambda x_N, row_M: x_N.at[row_M].get(mode="clip"))(
        x_DN, row_DM
      )
      return taken.reshape(-1, *x.shape[1:])

    return jax.tree.map(take, self)

  def put_behind(
    self, row_DM: jax.Array, at_DM: jax.Array, new: KeyValues
  ) -> KeyValues:
    """Keeps the first `at_DM` entries of rows and puts new ones behind.

    Args:
      row_DM: indices among the rows of each device; their number stands for
        none.
      at_DM: number of entries that stay; the others are forgotten.
      new: of one branch for each row, with positions [D * M, 1, T].
    """

    def put(axis, at_DM):
      def of_arrays(x, new):
        # A window for each row, from `at_DM` on along the axis.
        windows = jax.lax.ScatterDimensionNumbers(
          update_window_dims=tuple(range(1, x.ndim)),
          inserted_window_dims=(0,),
          scatter_dims_to_operand_dims=(0, x.ndim + axis),
        )
        scatter = functools.partial(
          jax.lax.scatter,
          dimension_numbers=windows,
          mode=jax.lax.GatherScatterMode.FILL_OR_DROP,
        )
        x_DN = x.reshape(len(row_DM), -1, *x.shape[1:])
        new_DM = new.reshape(*row_DM.shape, *new.shape[1:])
        start_DM2 = jnp.stack([row_DM, at_DM], axis=-1)
        return jax.vmap(scatter)(x_DN, start_DM2, new_DM).reshape(x.shape)

      return of_arrays

    place_S = jnp.arange(self.position.shape[1])
    added_DM = (new.position >= 0).sum((1, 2)).reshape(at_DM.shape)
    length_DM1 = (at_DM + added_DM)[..., None]
    position_DMS = jnp.where(place_S < length_DM1, place_S, -1)
    return KeyValues(
      jax.tree.map(put(-1, at_DM), self.k, new.k),
      jax.tree.map(put(-2, at_DM), self.v, new.v),
      put(-1, 0 * at_DM)(self.position, position_DMS.reshape(-1, len(place_S))),
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


def trunk_source(
  k, v, position, limit_NRT, trunk_of_NR, first_NRT
) -> attention.Source:
  """Trunks as branches see them; those of a row are told apart by trunk_of.

  In decoding they lie one behind the other, and `first_NRT` tells them apart.
  """
  if trunk_of_NR is None or len(position) == len(trunk_of_NR):
    return attention.Source(k, v, position, limit_NRT, first_NRT)
  rows = len(trunk_of_NR)

  def choose(x):
    x_NU = x.reshape(rows, -1, *x.shape[1:])
    return jax.vmap(lambda x_U, trunk_R: x_U[trunk_R])(x_NU, trunk_of_NR)

  k, v = (choose(x) for x in (k, v))
  merge = lambda x_NR: x_NR.reshape(-1, *x_NR.shape[2:])  # noqa: E731
  return attention.Source(merge(k), merge(v), choose(position), limit_NRT)
