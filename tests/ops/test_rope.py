# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding: angles by hand, and what makes it relative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax.ops import rope


@functools.partial(jax.jit, static_argnums=2)
def rotate(x_NRTAE, position_NRT, theta):
  frequency_E = rope.frequencies(x_NRTAE.shape[-1], theta)
  return rope.rotate(x_NRTAE, position_NRT, frequency_E)


def test_angles_by_hand():
  # Head width 4, base 100: angles are 1 and 100**-0.5 = 0.1 times the
  # position, for the pairs (0, 2) and (1, 3). Interleaved pairs would be
  # (0, 1) and (2, 3).
  x_NRTE = np.array([1.0, 1.0, 0.0, 0.0], np.float32).reshape(1, 1, 1, 4)
  got = rotate(x_NRTE, np.array([[[3]]]), 100.0)[0, 0, 0]
  want = [np.cos(3.0), np.cos(0.3), np.sin(3.0), np.sin(0.3)]
  # Sines of float32 angles of this size are good to some 1e-7.
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_only_long_waves_are_stretched():
  # Of the five waves, 1/2, 1, 2, 4 and 8 fit into 64 positions. The first two
  # become 8 times as long, the last two stay. The middle one is a third of
  # the way from 1 to 4, so it has 2/3 of an eighth and 1/3 of its frequency:
  # 1/12 + 1/3 = 5/12.
  frequency_E = np.array([0.5, 1, 2, 4, 8]) * 2 * np.pi / 64
  got_E = rope.stretch_long_waves(
    frequency_E,
    factor=8.0,
    low_frequency_factor=1.0,
    high_frequency_factor=4.0,
    original_positions=64,
  )
  # The result is rounded to float32.
  np.testing.assert_allclose(
    got_E / frequency_E, [1 / 8, 1 / 8, 5 / 12, 1, 1], rtol=1e-6
  )


def test_every_head_axis_gets_the_same_angle():
  rng = np.random.default_rng(0)
  x_NRTHME = rng.standard_normal((2, 3, 4, 2, 5, 6)).astype(np.float32)
  position_NRT = rng.integers(0, 50, (2, 3, 4))
  whole = np.asarray(rotate(x_NRTHME, position_NRT, 100.0))
  for h in range(2):
    one = rotate(x_NRTHME[..., h, 3, :], position_NRT, 100.0)
    # Fused differently, so not equal to the last bit.
    np.testing.assert_allclose(whole[..., h, 3, :], one, rtol=1e-5, atol=1e-6)


def test_products_depend_on_the_distance_only():
  rng = np.random.default_rng(1)
  q, k = rng.standard_normal((2, 1, 1, 1, 8)).astype(np.float32)

  def product(query_position, key_position):
    def turned(x, position):
      return np.asarray(rotate(x, np.full((1, 1, 1), position), 1e4))

    return (turned(q, query_position) * turned(k, key_position)).sum()

  # Angles of up to 100 radians in float32 are good to some 1e-5.
  np.testing.assert_allclose(product(5, 2), product(98, 95), rtol=1e-4)
  assert abs(product(5, 2) - product(5, 3)) > 0.1


def test_far_neighbours_stay_apart_in_bfloat16():
  # In bfloat16 the positions 1000 and 1001 are the same number.
  x_NRTE = np.ones((1, 1, 2, 4), jnp.bfloat16)
  got = rotate(x_NRTE, np.array([[[1000, 1001]]]), 100.0)
  assert got.dtype == jnp.bfloat16
  at_1000, at_1001 = np.asarray(got, np.float32)[0, 0]
  assert abs(at_1000 - at_1001).max() > 0.3


def test_a_table_turns_as_the_angles_do_and_shows_where_it_ends():
  rng = np.random.default_rng(2)
  x_NRTHE = rng.standard_normal((1, 1, 5, 3, 8)).astype(np.float32)
  position_NRT = np.array([[[0, 1, 6, -1, 7]]])
  frequency_E = rope.frequencies(8, 1e4)
  got = rope.rotate_by_table(x_NRTHE, position_NRT, frequency_E, 7)
  want = rope.rotate(x_NRTHE, position_NRT, frequency_E)
  # numpy and XLA round cosines differently.
  np.testing.assert_allclose(
    got[:, :, :3], want[:, :, :3], rtol=1e-5, atol=1e-6
  )
  # Padding gets anything finite; a position behind the end must not pass
  # for another one.
  assert np.isfinite(got[:, :, 3]).all() and np.isnan(got[:, :, 4]).all()
