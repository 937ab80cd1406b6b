# SPDX-License-Identifier: Apache-2.0
"""Means with intervals over problems, unbiased pass@k and G-Pass@k.

Shares of what is right or wrong have exact binomial intervals, which are also
right near 0 and 1. Other means have bootstrap intervals. seeds.py has the
intervals over several seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean with its 95% interval."""

  value: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
  numerators: Sequence[float],
  denominators: Sequence[float] | None = None,
  *,
  seed: int = 0,
) -> Estimate:
  """Returns a ratio of sums with a percentile bootstrap interval.

  Args:
    numerators: one term per problem (or trajectory); these are resampled.
    denominators: one term per problem; if absent all are 1, and the ratio is a
      mean. Problems with 0 say nothing, and are not resampled.
    seed: seed of the resampling.

  Returns:
    The estimate; all NaN if the denominators sum to 0.
  """
  top, bottom = _terms(numerators, denominators)
  if not len(bottom):
    return Estimate(math.nan, math.nan, math.nan)
  rng = np.random.default_rng(seed)
  index = rng.integers(len(top), size=(_RESAMPLES, len(top)))
  resampled = top[index].sum(1) / bottom[index].sum(1)
  low, high = np.quantile(resampled, [0.025, 0.975])
  return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def share(
  numerators: Sequence[float], denominators: Sequence[float] | None = None
) -> Estimate:
  """Returns a share of outcomes 0 and 1 with a binomial interval.

  If every problem has one outcome, the interval is that of Clopper and Pearson
  (1934). If a problem has several, they depend on each other, and the interval
  is that of as many independent outcomes as would vary as much, less what it
  costs to estimate that from few problems (Korn and Graubard 1998). There are
  no fewer of these than problems and no more than outcomes: nothing is said of
  the dependence by one problem, or if all outcomes are equal.

  Example: 0 of 200 gives [0, 0.018]; a bootstrap would give [0, 0].

  Args:
    numerators: outcomes that are 1, one sum per problem (or trajectory).
    denominators: all outcomes, one sum per problem; if absent all are 1.
      Problems with 0 say nothing, and do not count.

  Returns:
    The estimate; all NaN if the denominators sum to 0.
  """
  top, bottom = _terms(numerators, denominators)
  count = bottom.sum()
  if not count:
    return Estimate(math.nan, math.nan, math.nan)
  value = top.sum() / count
  problems = len(bottom)
  # The variance of a ratio of sums, by linearisation.
  error = ((top - value * bottom) ** 2).sum() / count**2
  error *= problems / max(problems - 1, 1)
  # Fewer than problems only if these have different numbers of outcomes.
  fewest = count**2 / (bottom**2).sum()
  if problems == 1 or value in (0, 1):
    effective = fewest
  else:
    effective = value * (1 - value) / error if error else count
    effective *= (ndtri(0.975) / stdtrit(problems - 1, 0.975)) ** 2
  effective = min(max(effective, fewest), count)
  return _binomial(float(value), float(effective))


def _terms(
  numerators: Sequence[float], denominators: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the terms of both sums where the denominator is not 0."""
  top = np.asarray(numerators, np.float64)
  bottom = np.ones_like(top) if denominators is None else denominators
  bottom = np.asarray(bottom, np.float64)
  return top[bottom > 0], bottom[bottom > 0]


def _binomial(value: float, outcomes: float) -> Estimate:
  """Returns a share with the interval of Clopper and Pearson (1934).

  Args:
    value: the share, in [0, 1].
    outcomes: number of independent outcomes; need not be whole.
  """
  ones = value * outcomes
  zeros = outcomes - ones
  low = betaincinv(ones, zeros + 1, 0.025) if ones > 0 else 0.0
  high = betaincinv(ones + 1, zeros, 0.975) if zeros > 0 else 1.0
  return Estimate(value, float(low), float(high))


def pass_at_k(correct: int, samples: int, k: int) -> float:
  """Returns the unbiased estimate of pass@k (Chen et al. 2021, Eq. 1).

  Example: 1 of 4 samples correct gives pass@2 = 1 - C(3,2)/C(4,2) = 0.5; the
  biased 1 - (1 - 1/4)^2 would be 0.4375.
  """
  wrong = samples - correct
  return 1.0 - math.comb(wrong, k) / math.comb(samples, k)


def g_pass_at_k(correct: int, samples: int, k: int, tau: float) -> float:
  """Returns G-Pass@k at the threshold tau (arXiv 2412.13147, Eq. 4).

  That is the probability that at least a share tau of k samples is correct,
  where the k are drawn from all samples without replacement. A tau near 0 gives
  pass@k.

  Example: 3 of 4 samples correct. Of the 6 pairs 3 are all correct, so
  G-Pass@2 at tau = 1 is 0.5; the biased (3/4)^2 would be 0.5625.
  """
  # 0.07 * 100 is a little more than 7 in floating point.
  needed = max(1, math.ceil(tau * k - 1e-9))
  hits = sum(
    math.comb(correct, j) * math.comb(samples - correct, k - j)
    for j in range(needed, k + 1)
  )
  return hits / math.comb(samples, k)


def mean_g_pass_at_k(correct: int, samples: int, k: int) -> float:
  """Returns mG-Pass@k: G-Pass@k averaged over tau from 0.5 to 1.

  It is 2/k times the sum of G-Pass@k at tau = i/k over the i from
  ceil(k/2) + 1 to k (arXiv 2412.13147, Eq. 6).

  Example: 3 of 4 samples correct, k = 2: only i = 2 counts, 2/2 * 0.5 = 0.5.
  """
  first = math.ceil(k / 2) + 1
  return (2 / k) * sum(
    g_pass_at_k(correct, samples, k, i / k) for i in range(first, k + 1)
  )
