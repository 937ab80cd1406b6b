# SPDX-License-Identifier: Apache-2.0
"""Means with intervals over problems, and unbiased pass@k.

Shares of what is right or wrong have exact binomial intervals, which are also
right near 0 and 1. Other means have bootstrap intervals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv

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
      mean.
    seed: seed of the resampling.

  Returns:
    The estimate; all NaN if the denominators sum to 0.
  """
  top = np.asarray(numerators, np.float64)
  bottom = np.ones_like(top) if denominators is None else denominators
  bottom = np.asarray(bottom, np.float64)
  if not bottom.sum():
    return Estimate(math.nan, math.nan, math.nan)
  rng = np.random.default_rng(seed)
  index = rng.integers(len(top), size=(_RESAMPLES, len(top)))
  resampled = top[index].sum(1) / np.maximum(bottom[index].sum(1), 1e-12)
  low, high = np.quantile(resampled, [0.025, 0.975])
  return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def share(
  numerators: Sequence[float], denominators: Sequence[float] | None = None
) -> Estimate:
  """Returns a share of outcomes 0 and 1 with a binomial interval.

  If every problem has one outcome, the interval is that of Clopper and Pearson
  (1934). If a problem has several, they depend on each other, and the interval
  is that of as many independent outcomes as would vary as much (Korn and
  Graubard 1998). There are no fewer of these than problems and no more than
  outcomes: nothing is said of the dependence if all outcomes are equal.

  Example: 0 of 200 gives [0, 0.018]; a bootstrap would give [0, 0].

  Args:
    numerators: outcomes that are 1, one sum per problem (or trajectory).
    denominators: all outcomes, one sum per problem; if absent all are 1.

  Returns:
    The estimate; all NaN if the denominators sum to 0.
  """
  top = np.asarray(numerators, np.float64)
  bottom = np.ones_like(top) if denominators is None else denominators
  bottom = np.asarray(bottom, np.float64)
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
  effective = count
  if error:
    effective = value * (1 - value) / error
  elif value in (0, 1):
    effective = fewest
  effective = min(max(effective, fewest), count)
  ones = value * effective
  zeros = effective - ones
  low = betaincinv(ones, zeros + 1, 0.025) if ones > 0 else 0.0
  high = betaincinv(ones + 1, zeros, 0.975) if zeros > 0 else 1.0
  return Estimate(float(value), float(low), float(high))


def pass_at_k(correct: int, samples: int, k: int) -> float:
  """Returns the unbiased estimate of pass@k (Chen et al. 2021, Eq. 1).

  Example: 1 of 4 samples correct gives pass@2 = 1 - C(3,2)/C(4,2) = 0.5; the
  biased 1 - (1 - 1/4)^2 would be 0.4375.
  """
  wrong = samples - correct
  return 1.0 - math.comb(wrong, k) / math.comb(samples, k)
