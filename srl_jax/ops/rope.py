# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding (Su et al. 2021, RoFormer, Section 3.4.2).

Pairs are (i, i + E/2), which is the layout of Hugging Face checkpoints. The
paper interleaves them as (2i, 2i + 1). The two layouts differ by a permutation
of the head width.
"""

from __future__ import annotations

import functools

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
  angle_NRTE = position_NRT[..., None].astype(jnp.float32) * frequency_E
  return _rotate_pairs(x_NRTAE, jnp.cos(angle_NRTE), jnp.sin(angle_NRTE))


@functools.lru_cache(maxsize=8)
def _table(length: int, frequencies: bytes) -> np.ndarray:
  """Cosines and sines [2, length, E/2] of the first positions."""
  frequency_E = np.frombuffer(frequencies, np.float32)
  angle_PE = np.arange(length, dtype=np.float32)[:, None] * frequency_E
  return np.stack([np.cos(angle_PE), np.sin(angle_PE)])


def rotate_by_table(
  x_NRTAE: jax.Array,
  position_NRT: jax.Array,
  frequency_E: np.ndarray,
  length: int,
) -> jax.Array:
  """Does what `rotate` does for positions below `length`, by a constant table.

  XLA on CPU computes a cosine again for each element of each array that is
  turned, which takes longer in a decoding loop than the other operations of the
  layer that are not matrix products.

  Args:
    x_NRTAE: see `rotate`.
    position_NRT: positions in tokens, below `length`; padding may have -1.
      From `length` on, the result is NaN.
    frequency_E: angle per position of each pair [E/2], known when compiling.
    length: length of the table.
  """
  table = _table(length, np.asarray(frequency_E, np.float32).tobytes())
  cos_NRTE, sin_NRTE = (jnp.take(x, position_NRT, axis=0) for x in table)
  return _rotate_pairs(x_NRTAE, cos_NRTE, sin_NRTE)


def _rotate_pairs(x_NRTAE, cos_NRTE, sin_NRTE):
  head_axes = range(3, x_NRTAE.ndim - 1)
  cos, sin = (jnp.expand_dims(x, head_axes) for x in (cos_NRTE, sin_NRTE))
  first, second = jnp.split(x_NRTAE.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x_NRTAE.dtype)
