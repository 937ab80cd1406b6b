# SPDX-License-Identifier: Apache-2.0
"""Group advantages and the filter's deviation, by hand."""

import functools

import jax
import numpy as np
import pytest

from srl_jax.ops.advantages import group_advantages, group_std

# The filter runs on the host, the advantage inside the update.
BOTH = pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["np", "jax"])


@BOTH
def test_advantages_use_the_population_deviation(run):
  # Mean 0.5, population deviation 0.5. The sample deviation (divisor G - 1)
  # is 0.577 and would give +-0.866.
  reward_G = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
  np.testing.assert_allclose(run(group_advantages)(reward_G), [1, -1, -1, 1])


@BOTH
def test_each_group_is_normalised_for_itself(run):
  # Over both groups together (mean 0.8, deviation 2.86) the first group would
  # be [-0.07, -0.63].
  reward_PG = np.array([[0.6, -1.0], [-2.0, 6.0]], np.float32)
  got_PG = run(group_advantages)(reward_PG)
  # The first group's 0.6 is not exact in float32.
  np.testing.assert_allclose(got_PG, [[1, -1], [-1, 1]], rtol=1e-6)


@BOTH
def test_without_std_advantages_keep_the_scale_of_the_rewards(run):
  reward_G = np.array([4.0, 0.0, 0.0, 0.0], np.float32)
  raw = functools.partial(group_advantages, divide_by_std=False)
  got_G = run(raw)(reward_G)
  np.testing.assert_array_equal(got_G, [3, -1, -1, -1])
  with_std_G = run(group_advantages)(reward_G)
  # Deviation sqrt(3); three digits of it are written here.
  np.testing.assert_allclose(
    with_std_G, [1.732, -0.577, -0.577, -0.577], atol=1e-3
  )


@BOTH
@pytest.mark.parametrize("divide_by_std", [True, False])
def test_equal_rewards_give_exactly_zero(run, divide_by_std):
  # Rounding of the mean of seven times 0.1 must not be blown up by dividing
  # by a deviation that is rounding as well.
  reward_PG = np.repeat(
    np.array([[0.0], [-1.0], [0.1], [1 / 3], [1e-7], [123.456]], np.float32),
    7,
    axis=1,
  )
  advantages = functools.partial(group_advantages, divide_by_std=divide_by_std)
  got_PG = run(advantages)(reward_PG)
  np.testing.assert_array_equal(got_PG, np.zeros((6, 7)))
  np.testing.assert_array_equal(run(group_std)(reward_PG), np.zeros(6))


@BOTH
def test_group_std_has_divisor_g(run):
  # [1, 0, 0, 0]: variance 3/16. The sample deviation would be 0.5.
  reward_PG = np.array([[1.0, 0, 0, 0], [-1.0, 0, -1.0, 0]], np.float32)
  # The square root of 3/16 is rounded to float32.
  np.testing.assert_allclose(
    run(group_std)(reward_PG), [3**0.5 / 4, 0.5], rtol=1e-6
  )


@BOTH
def test_the_last_axis_is_the_group(run):
  # One trunk, two groups of two samples. Along the groups the deviations
  # would be [0.5, 2.5].
  reward_NKG = np.array([[[1.0, 0.0], [0.0, 5.0]]], np.float32)
  np.testing.assert_array_equal(run(group_std)(reward_NKG), [[0.5, 2.5]])
  np.testing.assert_array_equal(
    run(group_advantages)(reward_NKG), [[[1, -1], [-1, 1]]]
  )
