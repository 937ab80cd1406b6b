# SPDX-License-Identifier: Apache-2.0
"""Pads trunks into arrays. No shuffling, no sharding, no device.

Axes: N trunks, S trunk positions, K branch points, C branch positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srl_jax.data.trunks import Trunk
from srl_jax.types import Trunks


class TrunkBatch(NamedTuple):
  """Padded arrays for the device and their trunks, in the same order."""

  trunks: Trunks
  sources: tuple[Trunk, ...]


class Widths(NamedTuple):
  """The smallest widths that hold some trunks, in tokens (points: a count)."""

  trunk: int
  points: int
  stem: int
  target: int  # stem and target tokens together, as target_tokens() needs


def widths(trunks: Sequence[Trunk]) -> Widths:
  """Returns the widths to pass to collate and target_tokens.

  Compute them from all trunks of a run, not from one batch. All batches then
  have the same shape, and nothing is compiled twice.

  Raises:
    ValueError: there are no trunks.
  """
  if not trunks:
    raise ValueError("there are no trunks; see the drops of BuildReport")
  points = [point for trunk in trunks for point in trunk.points]
  return Widths(
    trunk=max(len(trunk.tokens) for trunk in trunks),
    points=max(len(trunk.points) for trunk in trunks),
    stem=max(len(point.stem) for point in points),
    target=max(len(p.stem) + len(p.target_tokens) for p in points),
  )


def collate(
  trunks: Sequence[Trunk],
  *,
  trunk_width: int,
  points: int,
  stem_width: int,
) -> TrunkBatch:
  """Pads trunks into Trunks [N, ...] of int32 arrays, right padded with 0.

  Missing branch points have is_real False, branch_at 0 and one stem token.

  Raises:
    ValueError: a trunk is longer, has more points or has a longer stem than
      the widths allow. The message names the trajectory and the width to raise.
  """
  N, S, K, C = len(trunks), trunk_width, points, stem_width
  arrays = Trunks(
    tokens_NS=np.zeros((N, S), np.int32),
    length_N=np.zeros(N, np.int32),
    branch_at_NK=np.zeros((N, K), np.int32),
    stem_NKC=np.zeros((N, K, C), np.int32),
    stem_length_NK=np.ones((N, K), np.int32),
    point_id_NK=np.zeros((N, K), np.uint32),
    is_real_NK=np.zeros((N, K), bool),
  )
  for n, trunk in enumerate(trunks):
    length, count = len(trunk.tokens), len(trunk.points)
    _check(length, S, "trunk tokens", "trunk_width", trunk)
    _check(count, K, "branch points", "points", trunk)
    arrays.tokens_NS[n, :length] = trunk.tokens
    arrays.length_N[n] = length
    arrays.is_real_NK[n, :count] = True
    for k, point in enumerate(trunk.points):
      _check(len(point.stem), C, "stem tokens", "stem_width", trunk)
      arrays.branch_at_NK[n, k] = point.at
      arrays.stem_NKC[n, k, : len(point.stem)] = point.stem
      arrays.stem_length_NK[n, k] = len(point.stem)
      arrays.point_id_NK[n, k] = point.point_id
  return TrunkBatch(arrays, tuple(trunks))


def target_tokens(
  batch: TrunkBatch, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the expert's branches: stem and target tokens, padded with 0.

  Returns:
    (tokens_NKC, length_NK), int32, right padded to C = width. Padding points
    have length 0.

  Raises:
    ValueError: a branch is longer than width.
  """
  N, K = batch.trunks.branch_at_NK.shape
  tokens_NKC = np.zeros((N, K, width), np.int32)
  length_NK = np.zeros((N, K), np.int32)
  for n, trunk in enumerate(batch.sources):
    for k, point in enumerate(trunk.points):
      stem, length = len(point.stem), len(point.stem) + len(point.target_tokens)
      _check(length, width, "stem and target tokens", "width", trunk)
      tokens_NKC[n, k, :stem] = point.stem
      tokens_NKC[n, k, stem:length] = point.target_tokens
      length_NK[n, k] = length
  return tokens_NKC, length_NK


def _check(got: int, allowed: int, what: str, name: str, trunk: Trunk):
  if got > allowed:
    raise ValueError(
      f"trajectory {trunk.trajectory.id!r} has {got} {what}, more than"
      f" {name}={allowed}; raise {name} to {got}, or drop long branch points"
      " with max_trunk_tokens / max_target_tokens when building the trunks"
    )
