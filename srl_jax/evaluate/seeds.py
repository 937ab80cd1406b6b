# SPDX-License-Identifier: Apache-2.0
"""Paired differences between models, over problems and seeds.

Values come as matrices [seeds, problems]; each is the mean over the samples of
a problem, so all samples of a problem stay together. All seeds see the same
problems: problems and seeds are crossed clusters, and the interval covers the
choice of both. It is a t interval: the variance over problems and that over
seeds are added, with degrees of freedom after Satterthwaite (1946).

A t interval is too narrow where few problems differ: with 3 of 200 expected to
change, all for the better, it holds the true mean in 85% of the cases. Where
fewer than four differ, the interval is therefore no narrower than that of
equal pairs (Clopper and Pearson 1934), and holds it in 99%. It stays somewhat
narrow above that: with 8 such changes expected it holds it in 90%.

Two to five seeds are too few for a bootstrap: with 3 equally noisy seeds it
holds the true mean in 3 cases of 4 (tests/evaluate/test_seeds.py).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.special import stdtrit

# Standard normal quantiles of a two-sided test at 5% and of a power of 80%.
_Z = 1.959964 + 0.841621

# A t interval of four differences of 1 is wider than that of none of them.
_FEW = 4

# Shares are ratios of small numbers; what differs by less is the same.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Difference:
  """A paired difference "other minus base" with its 95% interval.

  Attributes:
    value: the difference of the means.
    low: lower end of the interval.
    high: upper end of the interval.
    base: mean of the base.
    other: mean of the other.
    problems: number of problems that both solved.
    problems_needed: number of such problems at which a difference of this size
      is found with a power of 80% (two-sided test at 5%); inf if no number of
      problems is enough, because nothing differs or the seeds differ too much.
  """

  value: float
  low: float
  high: float
  base: float
  other: float
  problems: int
  problems_needed: float

  def __str__(self) -> str:
    return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def difference(
  base_SP: np.ndarray, other_SP: np.ndarray, *, is_share: bool
) -> Difference:
  """Returns other minus base, paired by problem.

  Args:
    base_SP: values of the base, one row per seed.
    other_SP: values of the other on the same problems. The seeds of the two
      are not paired, and their numbers may differ.
    is_share: whether the values lie in [0, 1]. If then fewer than four
      problems differ from the others, the interval reaches at least as far as
      that many equal pairs allow: 0.018 for 200 problems, and not 0.

  Raises:
    ValueError: the numbers of problems differ.
  """
  base_SP, other_SP = _checked(base_SP), _checked(other_SP)
  problems = base_SP.shape[1]
  if other_SP.shape[1] != problems:
    raise ValueError(
      f"values of {problems} and {other_SP.shape[1]} problems; a paired "
      "difference needs the same problems on both sides"
    )
  differences = other_SP.mean(0) - base_SP.mean(0)
  value = float(differences.mean())
  of_problems = _over_problems(differences)
  of_seeds = [_over_seeds(x) for x in (base_SP, other_SP) if len(x) > 1]
  variance, freedom = _sum(of_problems, *of_seeds)
  reach = _quantile(freedom) * math.sqrt(variance)
  is_other = np.abs(differences - np.median(differences)) > _ROUNDING
  if is_share and is_other.sum() < _FEW:
    reach = max(reach, 1 - 0.025 ** (1 / problems))
  low, high = value - reach, value + reach
  if is_share:
    low, high = max(low, -1.0), min(high, 1.0)
  return Difference(
    value,
    low,
    high,
    float(base_SP.mean()),
    float(other_SP.mean()),
    problems,
    _needed(value, of_problems[0] * problems, sum(v for v, _ in of_seeds)),
  )


def _needed(value: float, per_problem: float, of_seeds: float) -> float:
  """Solves |value| = _Z * sqrt(per_problem / n + of_seeds) for n."""
  room = (value / _Z) ** 2 - of_seeds
  if value == 0 or room <= 0:
    return math.inf
  return float(max(2, math.ceil(per_problem / room)))


def _checked(values_SP: np.ndarray) -> np.ndarray:
  values_SP = np.asarray(values_SP, np.float64)
  if values_SP.ndim != 2 or values_SP.shape[1] < 2 or not len(values_SP):
    raise ValueError(
      "a difference needs two problems or more, and one seed; these are values "
      f"of shape {values_SP.shape} [seeds, problems] (raise --limit)"
    )
  return values_SP


def _over_problems(values_P: np.ndarray) -> tuple[float, float]:
  """The variance of a mean over problems, and its degrees of freedom."""
  count = len(values_P)
  return float(values_P.var(ddof=1)) / count, count - 1


def _over_seeds(values_SP: np.ndarray) -> tuple[float, float]:
  """The variance of a mean over seeds, and its degrees of freedom.

  It also holds noise of single values, which the variance over problems has
  already. That is not subtracted: the difference of two rough estimates made
  intervals of 3 seeds hold the true mean in 91% of the cases only.
  """
  seeds = len(values_SP)
  return float(values_SP.mean(1).var(ddof=1)) / seeds, seeds - 1


def _sum(*parts: tuple[float, float]) -> tuple[float, float]:
  """Adds variances; degrees of freedom by Satterthwaite (1946)."""
  total = sum(variance for variance, _ in parts)
  spread = sum(variance**2 / freedom for variance, freedom in parts)
  return total, total**2 / spread if spread else math.inf


def _quantile(freedom: float) -> float:
  return float(stdtrit(min(freedom, 1e9), 0.975))
