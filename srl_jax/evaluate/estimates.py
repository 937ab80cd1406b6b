# SPDX-License-Identifier: Apache-2.0
"""Means with bootstrap intervals over problems, and unbiased pass@k."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean with its 95% bootstrap interval."""

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


def pass_at_k(correct: int, samples: int, k: int) -> float:
  """Returns the unbiased estimate of pass@k (Chen et al. 2021, Eq. 1).

  Example: 1 of 4 samples correct gives pass@2 = 1 - C(3,2)/C(4,2) = 0.5; the
  biased 1 - (1 - 1/4)^2 would be 0.4375.
  """
  wrong = samples - correct
  return 1.0 - math.comb(wrong, k) / math.comb(samples, k)
