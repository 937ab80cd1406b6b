# SPDX-License-Identifier: Apache-2.0
"""Majority votes over final answers: maj@k, without bias.

Samples without a final answer cast no vote. All votes that were judged right
are votes for the reference answer. Wrong ones are votes for the same answer if
rewards/equality.py says so, or if they read the same in one spelling of TeX.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from srl_jax.rewards.equality import same_answer
from srl_jax.rewards.tex import normalise


def count_votes(
  finals: Sequence[str], verdicts: Sequence[bool]
) -> tuple[int, tuple[int, ...]]:
  """Returns the votes for the right answer, and for each wrong one.

  They do not depend on the order of the samples.

  Args:
    finals: final answers of the samples of one problem; "" casts no vote.
    verdicts: whether each is right.
  """
  # Tables and comparisons ask again, and to compare expressions is slow.
  return _counted(tuple(finals), tuple(verdicts))


@functools.lru_cache(1 << 14)
def _counted(
  finals: tuple[str, ...], verdicts: tuple[bool, ...]
) -> tuple[int, tuple[int, ...]]:
  right = 0
  spellings: collections.Counter[str] = collections.Counter()
  raw: dict[str, str] = {}
  for final, is_correct in zip(finals, verdicts, strict=True):
    if is_correct:
      right += 1
    elif final:
      spelling = normalise(final)
      spellings[spelling] += 1
      raw[spelling] = min(final, raw.get(spelling, final))
  groups: list[tuple[str, int]] = []
  for spelling in sorted(spellings):
    final, votes = raw[spelling], spellings[spelling]
    for i, (first, so_far) in enumerate(groups):
      if same_answer(final, first):
        groups[i] = (first, so_far + votes)
        break
    else:
      groups.append((final, votes))
  return right, tuple(votes for _, votes in groups)


def majority_at_k(
  right: int, wrong: Sequence[int], samples: int, k: int
) -> float:
  """Returns the probability that the majority of k samples is right.

  The k samples are drawn from all samples without replacement, so the estimate
  is unbiased; with k = samples it is the vote of all. Answers that tie for
  most votes win with equal probability. Where nobody votes, nobody is right.

  Example: votes 2 for the right answer, 1 and 1 for two wrong ones, k = 2. One
  pair of six is right twice, four tie (1/2), one holds no right vote:
  (1 + 4/2) / 6 = 0.5. Calling every tie right would give 5/6.

  Args:
    right: votes for the right answer.
    wrong: votes for each wrong answer.
    samples: number of samples, those without a vote included.
    k: number of samples that vote.
  """
  silent = samples - right - sum(wrong)
  if silent < 0 or not 0 < k <= samples:
    raise ValueError(
      f"{right} + {sum(wrong)} votes of {samples} samples, k={k}; there are at "
      "most as many votes as samples, and k is from 1 to their number"
    )
  sizes = collections.Counter(wrong)
  total = Fraction(0)  # Binomial coefficients outgrow floating point.
  for most in range(1, min(right, k) + 1):
    ways = math.comb(right, most)
    total += ways * _weighted_rest(sizes, silent, k - most, most)
  return float(total / math.comb(samples, k))


def _weighted_rest(
  sizes: Mapping[int, int], silent: int, rest: int, most: int
) -> Fraction:
  """Ways to draw the other samples so that no wrong answer beats `most` votes.

  Each way counts 1 / (1 + number of wrong answers with exactly `most`).
  """
  # {(samples drawn, answers that tie): ways}
  ways = {(i, 0): math.comb(silent, i) for i in range(min(silent, rest) + 1)}
  for size, answers in sizes.items():
    for _ in range(answers):
      grown: dict[tuple[int, int], int] = collections.defaultdict(int)
      for (drawn, ties), count in ways.items():
        for votes in range(min(size, most, rest - drawn) + 1):
          state = (drawn + votes, ties + (votes == most))
          grown[state] += count * math.comb(size, votes)
      ways = grown
  return sum(
    (
      Fraction(count, 1 + ties)
      for (drawn, ties), count in ways.items()
      if drawn == rest
    ),
    Fraction(0),
  )
