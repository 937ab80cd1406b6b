# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding (Su et al. 2021, RoFormer, Section 3.4.2).

Pairs are (i, i + E/2), which is the layout of Hugging Face checkpoints. The
paper interleaves them as (2i, 2i + 1). The two layouts differ by a permutation
of the head width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(head_width: int, theta: float) -> np.ndarray:
  """Angles per position [E/2]: a geometric series of base `theta`."""
  half = head_width // 2
  exponent = np.arange(half, dtype=np.float32) / half
  return (1.0 / theta**exponent).astype(np.float32)


def stretch_long_waves(
  frequency_E: np.ndarray,
  *,
  factor: float,
  low_frequency_factor: float,
  high_frequency_factor: float,
  original_positions: int,
) -> np.ndarray:
  """Llama 3.1's scaling of frequencies; see `models.config.RopeScaling`.

  A wave that fits into the original context fewer than low_frequency_factor
  times becomes `factor` times as long. A wave that fits more often than
  high_frequency_factor times stays as it is. In between, the frequencies are
  interpolated.
  """
  waves_E = original_positions * frequency_E / (2 * np.pi)
  spread = high_frequency_factor - low_frequency_factor
  kept_E = np.clip((waves_E - low_frequency_factor) / spread, 0.0, 1.0)
  scaled_E = (1 - kept_E) * frequency_E / factor + kept_E * frequency_E
  return scaled_E.astype(np.float32)


def rotate(
  x_NRTAE: jax.Array, position_NRT: jax.Array, frequency_E: jax.Array
) -> jax.Array:
  """Rotates each head vector by an angle proportional to its position.

  Args:
    x_NRTAE: head vectors, with any number of head axes A between T and E; E is
      even.
    position_NRT: positions in tokens; padding may have any value.
    frequency_E: angle per position of each pair [E/2].

  Returns:
    The rotated array, of the same shape and dtype. It is computed in float32,
    because bfloat16 cannot tell neighbouring positions beyond a few hundred
    apart.
  """
  angle = position_NRT[..., None].astype(jnp.float32) * frequency_E
  head_axes = x_NRTAE.ndim - position_NRT.ndim - 1
  angle = jnp.expand_dims(angle, range(3, 3 + head_axes))
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  first, second = jnp.split(x_NRTAE.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x_NRTAE.dtype)
