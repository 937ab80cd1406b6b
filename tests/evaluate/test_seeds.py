# SPDX-License-Identifier: Apache-2.0
"""Paired differences over problems and seeds: by hand and by simulation."""

import math

import numpy as np
import pytest

from srl_jax.evaluate.estimates import bootstrap
from srl_jax.evaluate.seeds import difference


def test_a_spread_of_seeds_by_hand():
  # Means of seeds 1, 2, 3: variance 1, /3. All problems are alike.
  other_SP = np.array([[1.0] * 4, [2.0] * 4, [3.0] * 4])
  found = difference(np.zeros((1, 4)), other_SP, is_share=False)
  assert found.value == 2
  # t of 2 degrees of freedom is 4.3027; the normal 1.96 would reach 1.13.
  np.testing.assert_allclose(found.high - 2, 4.3027 / math.sqrt(3), rtol=1e-4)
  np.testing.assert_allclose(2 - found.low, 4.3027 / math.sqrt(3), rtol=1e-4)


def test_without_a_spread_of_seeds_problems_make_the_interval():
  # Paired t of one sample: variance of 0, 1, 2, 3 is 5/3, /4; t_3 = 3.1824.
  other_SP = np.array([[0.0, 1, 2, 3]] * 3)
  found = difference(np.zeros((1, 4)), other_SP, is_share=False)
  reach = 3.1824 * math.sqrt(5 / 12)
  np.testing.assert_allclose(found.high - found.value, reach, rtol=1e-4)


def test_rounding_is_no_spread():
  # Sums of 0.1 are not exact, so that variances are about 1e-34 and not 0.
  base_SP = np.tile([[0.0], [0.1], [0.2], [0.3], [0.7]], (1, 6)).reshape(1, -1)
  found = difference(base_SP, base_SP + 0.1, is_share=True)
  assert found.high - found.low > 0.2


def test_a_paired_difference_by_hand():
  base = np.array([[0.0, 0, 1, 1]])
  other = np.array([[0.0, 1, 1, 1]])
  found = difference(base, other, is_share=True)
  assert (found.value, found.base, found.other) == (0.25, 0.5, 0.75)
  # The differences 0, 1, 0, 0 have variance 1/4, so the error is 1/4. Unpaired,
  # the variances 1/3 and 1/4 would give 0.38.
  np.testing.assert_allclose(found.low, 0.25 - 3.1824 / 4, rtol=1e-4)
  # No difference of shares is larger than 1.
  assert found.high == 1
  # (1.96 + 0.8416)^2 * (1/4) / (1/4)^2 = 31.4; unpaired it would be 73.3.
  assert found.problems_needed == 32
  assert str(found).startswith("+0.250 [-0.546")
  swapped = difference(other, base, is_share=True)
  assert (swapped.value, swapped.high) == (-0.25, -found.low)
  assert swapped.low == -1


def test_problems_do_not_help_against_noise_of_seeds():
  # The means of the seeds differ by more than the models do.
  base = np.array([[0.0, 0.1], [1.0, 0.9]])
  found = difference(base, base + 0.01, is_share=False)
  assert math.isinf(found.problems_needed)
  assert found.low < 0 < found.high
  alone = difference(base[:1], base[:1] + np.array([0.0, 0.02]), is_share=False)
  assert alone.problems_needed < 20


def test_where_nothing_differs_the_interval_is_no_point():
  found = difference(np.zeros((1, 200)), np.zeros((1, 200)), is_share=True)
  assert str(found) == "+0.000 [-0.018, +0.018]"
  assert math.isinf(found.problems_needed)
  # One that does makes it no narrower; t would give [-0.005, +0.015].
  found = difference(np.zeros((1, 200)), np.eye(1, 200), is_share=True)
  assert str(found) == "+0.005 [-0.013, +0.023]"
  # Nor where all problems change alike.
  found = difference(np.zeros((1, 30)), np.ones((1, 30)), is_share=True)
  assert str(found) == "+1.000 [+0.884, +1.000]"


@pytest.mark.parametrize("expected", [3, 5])
def test_intervals_cover_where_few_problems_change(expected):
  # t alone: 0.85 and 0.87.
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(1000):
    other = (rng.random((1, 200)) < expected / 200).astype(float)
    found = difference(np.zeros((1, 200)), other, is_share=True)
    held += found.low <= expected / 200 <= found.high
  assert held / 1000 >= 0.93


def test_a_power_of_80_percent_is_what_it_says():
  # Differences with mean 0.1 and standard deviation 0.5: 2.8016^2 * 25 = 197.
  rng = np.random.default_rng(0)
  pilot = np.concatenate([np.full(500, 0.6), np.full(500, -0.4)])[None]
  needed = int(difference(0 * pilot, pilot, is_share=False).problems_needed)
  assert needed == 197
  seen = 0
  for _ in range(1000):
    drawn = rng.choice(pilot[0], needed)[None]
    seen += difference(0 * drawn, drawn, is_share=False).low > 0
  # The standard error of 1000 repeats is 0.013.
  assert abs(seen / 1000 - 0.8) < 0.04


def test_shapes_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="values of 3 and 4 problems"):
    difference(np.zeros((1, 3)), np.zeros((1, 4)), is_share=True)
  with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
    difference(np.zeros((2, 1)), np.zeros((2, 1)), is_share=True)


def test_a_bootstrap_over_three_seeds_does_not_cover():
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(300):
    found = bootstrap(rng.normal(0, 1, 3))
    held += found.low <= 0 <= found.high
  assert held / 300 < 0.85


@pytest.mark.parametrize(
  ("seeds", "problems", "spread", "samples"),
  [
    ((1, 1), 30, 0, 1),
    ((1, 1), 200, 0, 1),
    ((1, 1), 30, 0, 8),
    ((3, 1), 30, 0, 4),
    ((3, 3), 30, 0.3, 4),
    ((2, 3), 200, 0.5, 4),
  ],
)
def test_intervals_of_differences_cover(seeds, problems, spread, samples):
  # Two models of equal skill; each seed moves the log odds of all problems.
  rng = np.random.default_rng(1)

  def shares(count, odds):
    odds = odds * np.exp(rng.normal(0, spread, (count, 1)))
    return rng.binomial(samples, odds / (1 + odds)) / samples

  held = 0
  for _ in range(1000):
    rates = rng.beta(0.5, 1, problems)
    odds = rates / (1 - rates)
    found = difference(*(shares(n, odds) for n in seeds), is_share=True)
    held += found.low <= 0 <= found.high
  assert held / 1000 >= 0.93
