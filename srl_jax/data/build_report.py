# SPDX-License-Identifier: Apache-2.0
"""What making trunks of trajectories reports: numbers, lengths, drops.

Trunks are made in trunks.py. "Flat" counts tokens as if every sample had a
prompt of its own, "shared" as they are processed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class LengthStats:
  """Order statistics of lengths in tokens; all 0 without lengths."""

  min: int
  median: int
  p95: int
  max: int

  @classmethod
  def of(cls, lengths: list[int]) -> LengthStats:
    quantiles = np.quantile(
      lengths or [0], [0, 0.5, 0.95, 1], method="inverted_cdf"
    )
    return cls(*map(int, quantiles))


def expected_trunk_tokens(at: list[int], drawn: int) -> float:
  """Expected trunk tokens to visit each of K points once, n at a time.

  A visit runs the trunk up to the last point drawn. The j-th point (from 0)
  is the last of the n drawn with probability C(j, n-1) / C(K, n). Seeing every
  point once takes K / n visits.
  """
  if not drawn or drawn >= len(at):
    return at[-1]
  ways = math.comb(len(at), drawn)
  last = sum(a * math.comb(j, drawn - 1) for j, a in enumerate(at)) / ways
  return last * len(at) / drawn


@dataclasses.dataclass(frozen=True)
class BuildReport:
  """What build_trunks made, what it dropped, and why.

  Attributes:
    trajectories: number of trajectories given.
    trunks: number of trunks made.
    points: number of branch points on these trunks.
    without_answer: number of trajectories without a reference answer.
    lengths: length statistics of "trunk", "stem" and "target", in tokens.
    drops: reason -> names of the dropped branch points, each written as
      "trajectory id/task/step".
    points_per_trunk: the configured number; 0 for all.
    context_tokens: trunk tokens that a branch point sees, summed over all.
    trunk_tokens: expected number of trunk tokens processed to visit every
      branch point once, with points_per_trunk of them on each visit of a trunk.
    stem_tokens: stem tokens of a branch point, summed over all.
  """

  trajectories: int
  trunks: int
  points: int
  without_answer: int
  lengths: dict[str, LengthStats]
  drops: dict[str, tuple[str, ...]]
  points_per_trunk: int
  context_tokens: int
  trunk_tokens: float
  stem_tokens: int

  def prompt_tokens(self, group_size: int = 1) -> tuple[int, int]:
    """Returns the prompt tokens of one rollout of all points: (flat, shared).

    "Flat" repeats context and stem for each of the group_size samples.
    "Shared" runs each trunk once and repeats only the stem.
    """
    flat = group_size * (self.context_tokens + self.stem_tokens)
    shared = self.trunk_tokens + group_size * self.stem_tokens
    return flat, round(shared)
