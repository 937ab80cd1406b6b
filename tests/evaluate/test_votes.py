# SPDX-License-Identifier: Apache-2.0
"""Majority votes: by hand, by counting all subsets, and by the spelling."""

import collections
import itertools
import math

import pytest

from srl_jax.evaluate import votes
from srl_jax.evaluate.votes import count_votes, majority_at_k


@pytest.mark.parametrize(
  ("right", "wrong", "samples", "k", "want"),
  [
    # One pair of six is right twice and four tie; calling every tie right would
    # give 5/6, calling it wrong 1/6.
    (2, [1, 1], 4, 2, 0.5),
    # The vote of all: three against two, and a tie of three.
    (3, [2], 5, 5, 1.0),
    (2, [2, 2], 6, 6, 1 / 3),
    (2, [3], 5, 5, 0.0),
    # A silent sample is no vote against.
    (1, [], 4, 4, 1.0),
    (1, [], 4, 2, 0.5),
    (0, [], 4, 4, 0.0),
  ],
)
def test_majorities_by_hand(right, wrong, samples, k, want):
  assert math.isclose(majority_at_k(right, wrong, samples, k), want)


@pytest.mark.parametrize(
  ("right", "wrong", "silent"),
  [(3, [2, 2], 1), (2, [1, 1, 1], 2), (1, [3, 1], 0), (4, [4], 1)],
)
def test_a_majority_is_the_mean_over_all_subsets(right, wrong, silent):
  votes = ["right"] * right + [None] * silent
  votes += [i for i, count in enumerate(wrong) for _ in range(count)]

  def is_right(chosen):
    counts = collections.Counter(vote for vote in chosen if vote is not None)
    most = max(counts.values(), default=0)
    winners = [vote for vote, count in counts.items() if count == most]
    return ("right" in winners) / max(len(winners), 1)

  for k in range(1, len(votes) + 1):
    subsets = list(itertools.combinations(votes, k))
    want = sum(map(is_right, subsets)) / len(subsets)
    got = majority_at_k(right, wrong, len(votes), k)
    assert math.isclose(got, want, abs_tol=1e-12)


def test_votes_of_32_different_answers_and_of_many_samples_are_counted():
  # 2^24 subsets of the wrong answers, if they were listed.
  assert 0.9 < majority_at_k(8, [1] * 24, 32, 16) < 1
  # Binomial coefficients of 600 are beyond floating point.
  assert majority_at_k(300, [300], 600, 300) == 0.5


def test_more_votes_than_samples_are_refused():
  with pytest.raises(ValueError, match=r"2 \+ 3 votes of 4 samples"):
    majority_at_k(2, [3], 4, 2)
  with pytest.raises(ValueError, match="k=5"):
    majority_at_k(2, [2], 4, 5)


def test_equal_answers_are_one_vote():
  finals = ["1/2", "7", r"\frac{14}{2}", "7.0", "0.5", "", "8"]
  verdicts = [True, False, False, False, True, False, False]
  assert count_votes(finals, verdicts) == (2, (3, 1))


def test_answers_are_compared_once(monkeypatch):
  asked = []

  def same(a, b):
    asked.append((a, b))
    return False

  monkeypatch.setattr(votes, "same_answer", same)
  for _ in range(2):
    assert count_votes(["701", "702"], [False, False]) == (0, (1, 1))
  assert len(asked) == 1


def test_votes_do_not_depend_on_the_order_of_samples():
  finals = ["x+1", "1+x", "x + 1", "2", "2.0", "3"]
  want = sorted(count_votes(finals, [False] * 6)[1])
  assert want == [1, 2, 3]
  for order in itertools.islice(itertools.permutations(finals), 0, 720, 97):
    assert sorted(count_votes(order, [False] * 6)[1]) == want
