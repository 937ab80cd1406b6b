# SPDX-License-Identifier: Apache-2.0
"""Keys and values of all layers, and what happens to them while decoding.

Axes: those of the legend, see srl_jax/types.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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

  def replace_rows(self, row_M: jax.Array, trunks: KeyValues) -> KeyValues:
    """Puts M trunks, no wider than these, into rows; row N stands for none."""

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
