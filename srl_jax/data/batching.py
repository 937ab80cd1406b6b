# SPDX-License-Identifier: Apache-2.0
"""Trunk records -> padded arrays. No shuffling, no sharding, no device.

Axes: N trunks, S trunk positions, K branch points, C branch positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srl_jax.data.trunks import TrunkRecord
from srl_jax.types import Trunks


class TrunkBatch(NamedTuple):
  """Arrays for the device and, in the same order, what the host keeps."""

  trunks: Trunks
  records: tuple[TrunkRecord, ...]


class Widths(NamedTuple):
  """The smallest widths that hold some records, in tokens (points: count)."""

  trunk: int
  points: int
  stem: int
  target: int  # stem and target tokens together, as target_tokens() needs


def widths(records: Sequence[TrunkRecord]) -> Widths:
  """Returns the widths to pass to collate and target_tokens.

  Take them from all records of a run, not of one batch, so that every batch
  has one shape and nothing is compiled twice.
  """
  if not records:
    raise ValueError("there are no records; see the drops of BuildReport")
  points = [point for record in records for point in record.points]
  return Widths(
    trunk=max(len(record.tokens) for record in records),
    points=max(len(record.points) for record in records),
    stem=max(len(point.stem) for point in points),
    target=max(len(p.stem) + len(p.target_tokens) for p in points),
  )


def collate(
  records: Sequence[TrunkRecord],
  *,
  trunk_width: int,
  points: int,
  stem_width: int,
) -> TrunkBatch:
  """Lays records out as Trunks [N, ...] of int32 arrays, right padded with 0.

  Missing branch points have is_real False, branch_at 0 and one stem token.

  Raises:
    ValueError: a record is longer, has more points or a longer stem than the
      widths allow; names the trajectory and the width to raise.
  """
  N, S, K, C = len(records), trunk_width, points, stem_width
  trunks = Trunks(
    tokens_NS=np.zeros((N, S), np.int32),
    length_N=np.zeros(N, np.int32),
    branch_at_NK=np.zeros((N, K), np.int32),
    stem_NKC=np.zeros((N, K, C), np.int32),
    stem_length_NK=np.ones((N, K), np.int32),
    instance_NK=np.zeros((N, K), np.uint32),
    is_real_NK=np.zeros((N, K), bool),
  )
  for n, record in enumerate(records):
    length, count = len(record.tokens), len(record.points)
    _check(length, S, "trunk tokens", "trunk_width", record)
    _check(count, K, "branch points", "points", record)
    trunks.tokens_NS[n, :length] = record.tokens
    trunks.length_N[n] = length
    trunks.is_real_NK[n, :count] = True
    for k, point in enumerate(record.points):
      _check(len(point.stem), C, "stem tokens", "stem_width", record)
      trunks.branch_at_NK[n, k] = point.at
      trunks.stem_NKC[n, k, : len(point.stem)] = point.stem
      trunks.stem_length_NK[n, k] = len(point.stem)
      trunks.instance_NK[n, k] = point.instance
  return TrunkBatch(trunks, tuple(records))


def target_tokens(
  batch: TrunkBatch, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Expert branches: stem and target tokens, right padded with 0.

  Returns:
    (tokens_NKC, length_NK), int32, C = width; length 0 for padding points.

  Raises:
    ValueError: a branch is longer than width.
  """
  N, K = batch.trunks.branch_at_NK.shape
  tokens_NKC = np.zeros((N, K, width), np.int32)
  length_NK = np.zeros((N, K), np.int32)
  for n, record in enumerate(batch.records):
    for k, point in enumerate(record.points):
      stem, length = len(point.stem), len(point.stem) + len(point.target_tokens)
      _check(length, width, "stem and target tokens", "width", record)
      tokens_NKC[n, k, :stem] = point.stem
      tokens_NKC[n, k, stem:length] = point.target_tokens
      length_NK[n, k] = length
  return tokens_NKC, length_NK


def _check(got: int, allowed: int, what: str, name: str, record: TrunkRecord):
  if got > allowed:
    raise ValueError(
      f"trajectory {record.trajectory_id!r} has {got} {what}, more than"
      f" {name}={allowed}; raise {name} to {got}, or drop long instances with"
      " max_trunk_tokens / max_target_tokens when building the trunks"
    )
