# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding (Su et al. 2021, RoFormer, Section 3.4.2).

Pairs are (i, i + E/2), the layout of the Hugging Face checkpoints, not the
interleaved pairs (2i, 2i + 1) of the paper; the two differ by a permutation
of the head width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rotate(x_NRTAE: jax.Array, position_NRT: jax.Array, theta: float):
  """Rotates each head vector by an angle proportional to its position.

  Args:
    x_NRTAE: heads, with any number of head axes A between T and E; E even.
    position_NRT: positions in tokens; any value for padding.
    theta: base of the geometric series of wave lengths.

  Returns:
    The rotated array, same shape and dtype; computed in float32, because bf16
    cannot tell neighbouring positions apart beyond a few hundred.
  """
  half = x_NRTAE.shape[-1] // 2
  frequency_E = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = position_NRT[..., None].astype(jnp.float32) * frequency_E
  head_axes = x_NRTAE.ndim - position_NRT.ndim - 1
  angle = jnp.expand_dims(angle, range(3, 3 + head_axes))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  first, second = jnp.split(x_NRTAE.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x_NRTAE.dtype)
