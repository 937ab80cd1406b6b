# SPDX-License-Identifier: Apache-2.0
"""The summary of a suite's answers: by hand, by level, by simulation."""

import math

import numpy as np
import pytest

from srl_jax.domains.suite import Problem
from srl_jax.evaluate import summary as summary_lib
from srl_jax.evaluate.estimates import g_pass_at_k, mean_g_pass_at_k
from srl_jax.evaluate.summary import rows, solve_rates, summary, unit_of
from tests.support.answers import answer, numbered_problems, with_finals


@pytest.mark.parametrize(
  ("correct", "samples", "k", "tau", "want"),
  [
    # 3 pairs of 6; the biased (3/4)^2 would be 0.5625.
    (3, 4, 2, 1.0, 0.5),
    # At least one of two: pass@2.
    (1, 4, 2, 0.5, 0.5),
    (1, 4, 2, 0.001, 0.5),
    # With k = n all depends on the count: 3 of 4 is 0.75.
    (3, 4, 4, 0.75, 1.0),
    (3, 4, 4, 0.76, 0.0),
    # 0.07 * 100 is more than 7 in floating point, and 7 are enough.
    (7, 100, 100, 0.07, 1.0),
    # C(8,4) C(8,0) of C(16,4), hypergeometric.
    (8, 16, 4, 1.0, 70 / 1820),
  ],
)
def test_g_pass_by_hand(correct, samples, k, tau, want):
  assert math.isclose(g_pass_at_k(correct, samples, k, tau), want)


def test_mean_g_pass_by_hand():
  assert math.isclose(mean_g_pass_at_k(3, 4, 2), 0.5)
  # k = 4 of n = 4: i = 3 and 4 count, and 3 right reach only the first.
  assert math.isclose(mean_g_pass_at_k(3, 4, 4), 0.5)
  # The mean is over the upper half: all right is 1, half right is 0.
  assert math.isclose(mean_g_pass_at_k(16, 16, 8), 1)
  assert mean_g_pass_at_k(4, 8, 8) == 0


def test_the_summary_by_hand():
  problems, answers = with_finals([["1", "1", "2", "2"], ["3", "3", "1", ""]])
  answers += [
    answer("p0", decoding="greedy", text="one two three", tokens=9),
    answer("p1", decoding="greedy", final="", is_stopped=False, tokens=1),
  ]
  got = {name: e.value for name, e in summary(problems, answers).items()}
  want = {
    "greedy": 0.5,
    "avg@4": 3 / 8,
    "pass@1": 3 / 8,
    # 1 - 1/6 and 1 - 3/6.
    "pass@2": 2 / 3,
    "pass@4": 1.0,
    # A tie of two answers, and two votes against one.
    "maj@4": 0.25,
    "G-Pass@2 tau=0.5": 2 / 3,
    # One pair of six, and none.
    "G-Pass@2 tau=0.75": 1 / 12,
    "G-Pass@2 tau=1": 1 / 12,
    "mG-Pass@2": 1 / 12,
    "cut": 0.0,
    "no answer": 1 / 8,
    "tokens": 5.0,
    # "It is ." has three words too.
    "words": 3.0,
    "cut, greedy": 0.5,
    "no answer, greedy": 0.5,
    "tokens, greedy": 5.0,
    "words, greedy": 3.0,
  }
  assert list(got) == list(want)
  np.testing.assert_allclose([*got.values()], [*want.values()], rtol=1e-12)


def test_greedy_answers_alone_have_no_rates_of_samples():
  problems = numbered_problems(2)
  answers = [answer(p.id, decoding="greedy") for p in problems]
  assert [*summary(problems, answers)][:2] == ["greedy", "cut, greedy"]


def test_k_runs_over_powers_of_two_and_the_number_of_samples():
  rates = solve_rates([6, 0], 6)
  assert list(rates) == ["avg@6", "pass@2", "pass@4", "pass@6"]
  assert [rate.outcomes for rate in rates.values()] == [6, 3, 1, 1]


def test_levels_are_ordered_as_numbers():
  levels = ["level 10", "level 9", "", "level 9"]
  problems = [
    Problem(f"p{i}", "?", "1", level) for i, level in enumerate(levels)
  ]
  answers = [answer("p0"), answer("p1", final="2"), answer("p2"), answer("p3")]
  found = summary_lib.values(problems, answers)
  got = rows(problems, found, "level")
  assert list(got) == ["", "level 9", "level 10"]
  assert [row["avg@1"].value for row in got.values()] == [1, 0.5, 1]
  [(name, row)] = rows(problems, found, "subject").items()
  assert (name, row) == ("", summary(problems, answers))


def test_answers_that_do_not_fit_the_problems_are_refused():
  problems, answers = with_finals([["1", "2"], ["1", "1"]])
  with pytest.raises(ValueError, match="'p9', which is not among the 2"):
    summary(problems, [*answers, answer("p9")])
  with pytest.raises(ValueError, match="'p1' lacks the sampled answer 1 of 2"):
    summary(problems, answers[:-1])
  with pytest.raises(ValueError, match="two sampled answers with sample 1"):
    summary(problems, [*answers, answers[-1]])
  with pytest.raises(ValueError, match="same id"):
    summary([*problems, problems[0]], answers)


def test_every_metric_has_its_unit():
  problems, answers = with_finals([["1", "2"]])
  answers.append(answer("p0", decoding="greedy"))
  units = {name: unit_of(name) for name in summary(problems, answers)}
  assert units["tokens, greedy"] == units["tokens"] == "tokens"
  assert units["words"] == "words"
  assert units["cut, greedy"] == units["avg@2"] == "%"


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.5), (1, 3), (20, 20)])
def test_intervals_of_votes_and_of_g_pass_cover(a, b):
  # Truth: the mean of the same estimates over 20,000 problems. Wrong answers
  # fall on three values.
  rng = np.random.default_rng(0)

  def draw(count):
    right = rng.binomial(8, rng.beta(a, b, count))
    wrong = [rng.multinomial(8 - r, [0.5, 0.3, 0.2]) for r in right]
    return right, wrong

  def terms(right, wrong):
    votes = [
      summary_lib.majority_at_k(int(r), [int(x) for x in w], 8, 4)
      for r, w in zip(right, wrong, strict=True)
    ]
    g_pass = [g_pass_at_k(int(r), 8, 4, 0.75) for r in right]
    return [summary_lib.Values(np.array(x), 2) for x in (votes, g_pass)]

  truth = [x.values_P.mean() for x in terms(*draw(20000))]
  held = np.zeros(2)
  for _ in range(200):
    found = [x.estimate() for x in terms(*draw(60))]
    held += [
      x.low <= true <= x.high for x, true in zip(found, truth, strict=True)
    ]
  # 200 repeats have a standard error of 0.015 at a coverage of 0.95.
  assert (held / 200 >= 0.91).all(), held
