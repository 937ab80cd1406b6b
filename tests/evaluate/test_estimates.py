# SPDX-License-Identifier: Apache-2.0
"""Intervals of shares: by published figures, and by simulation."""

import math

import numpy as np
import pytest
from scipy.special import betaincinv

from srl_jax.evaluate.estimates import bootstrap, share
from srl_jax.evaluate.solve import summarise
from srl_jax.rollout.episodes import Episode


@pytest.mark.parametrize(
  ("ones", "count", "low", "high"),
  [
    # 1 - 0.025^(1/n) where all outcomes are equal.
    (0, 200, 0.0, 1 - 0.025 ** (1 / 200)),
    (200, 200, 0.025 ** (1 / 200), 1.0),
    (0, 1, 0.0, 0.975),
    # Clopper and Pearson (1934); binom.test of R prints the same.
    (1, 10, 0.0025286, 0.4450161),
    (30, 100, 0.2124064, 0.3998147),
  ],
)
def test_the_interval_of_single_outcomes_is_exact(ones, count, low, high):
  found = share([1] * ones + [0] * (count - ones))
  assert found.value == ones / count
  np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-5)


def test_outcomes_of_a_problem_that_are_equal_count_once():
  once = share([1] * 30 + [0] * 70)
  # Four times as many independent outcomes give half the width.
  assert share([4] * 30 + [0] * 70, [4] * 100) == once
  with_four = share([1, 2, 1, 0, 1] * 24, [4] * 120)
  of_480 = share([1] * 120 + [0] * 360)
  assert (with_four.low, with_four.high) == (of_480.low, of_480.high)


def test_problems_count_by_their_outcomes():
  # Nothing is right in problems of 1 and 3 outcomes: (1 + 3)^2 / (1 + 9) = 1.6
  # outcomes if those of a problem are equal, not 2 and not 4.
  found = share([0, 0], [1, 3])
  np.testing.assert_allclose(found.high, 1 - 0.025 ** (1 / 1.6))


def test_outcomes_of_a_problem_that_agree_in_part_count_by_their_variance():
  # Twelve shares of 0.2 or 0.8 vary by 0.09 * 12 / 11, and their mean by a
  # twelfth of it. Independent outcomes would be 0.25 over that: 30.6.
  # Quantiles of t and the normal distribution make 24.2 of them.
  found = share([2, 8] * 6, [10] * 12)
  outcomes = 0.25 / (0.09 / 11) * (1.959964 / 2.200985) ** 2
  low = betaincinv(outcomes / 2, outcomes / 2 + 1, 0.025)
  np.testing.assert_allclose([found.low, found.high], [low, 1 - low], rtol=1e-5)


@pytest.mark.parametrize("problems", [1, 2, 3, 5])
def test_few_problems_of_many_outcomes_say_little(problems):
  """How the outcomes of a problem depend on each other is hardly known."""
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(1000):
    right = rng.binomial(32, rng.beta(0.5, 0.5, problems))
    found = share(right, [32] * problems)
    held += found.low <= 0.5 <= found.high
  # Without the quantile of t: 0.10, 0.75, 0.84 and 0.90.
  assert held > 930


def test_problems_without_outcomes_do_not_count():
  of_two = share([30, 10], [40, 40])
  # As if all 200 problems were known, it would be [0.16, 0.84].
  assert share([30, 10] + [0] * 198, [40, 40] + [0] * 198) == of_two


def test_of_no_outcomes_there_is_no_share():
  assert math.isnan(share([], []).value)
  assert math.isnan(share([0.0], [0.0]).high)


def coverage(draw, true, samples=None, *, method=share, repeats=2000):
  """How often the interval of 200 problems holds the true share."""
  rng = np.random.default_rng(0)
  denominators = samples and np.full(200, samples)
  found = [method(draw(rng), denominators) for _ in range(repeats)]
  return np.mean([x.low <= true <= x.high for x in found])


# 2,000 repeats have a standard error of 0.005 at a coverage of 0.95.
@pytest.mark.parametrize("rate", [0.005, 0.02, 0.3, 0.97, 0.995])
def test_intervals_of_single_outcomes_cover(rate):
  # That of Wilson covers 92% at 0.5%, a bootstrap 63%.
  assert coverage(lambda rng: rng.random(200) < rate, rate) >= 0.93


def test_a_bootstrap_is_drawn_by_its_seed():
  one, again, other = (bootstrap(range(100), seed=x) for x in (0, 0, 1))
  assert one == again != other


def test_a_bootstrap_does_not_cover_near_zero():
  draw = lambda rng: rng.random(200) < 0.005  # noqa: E731
  assert coverage(draw, 0.005, method=bootstrap, repeats=200) < 0.75


@pytest.mark.parametrize(
  ("a", "b"),
  # Rates of problems: nearly all 0 or 1; mixed; nearly equal.
  [(0.005, 0.995), (0.05, 9.95), (0.5, 2), (50, 50), (0.995, 0.005)],
)
def test_intervals_of_four_samples_cover(a, b):
  draw = lambda rng: rng.binomial(4, rng.beta(a, b, 200))  # noqa: E731
  assert coverage(draw, a / (a + b), 4) >= 0.93


def test_no_solution_at_all_leaves_room_in_every_row():
  episodes = [
    Episode(problem, sample, ("x",), ("x",), (), "answered", False, 2)
    for problem in range(200)
    for sample in range(4)
  ]
  # With 4 samples there are 2 draws of pass@2, but still only 200 problems.
  for found in summarise(episodes, 200, 4).values():
    assert str(found) == "0.000 [0.000, 0.018]"
