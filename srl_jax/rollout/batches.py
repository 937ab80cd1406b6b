# SPDX-License-Identifier: Apache-2.0
"""Samples trunks batch by batch, for evaluation; rounds.py is for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from srl_jax import progress, sharding
from srl_jax.data import batching
from srl_jax.data.batching import TrunkBatch, Widths
from srl_jax.data.trunks import Trunk
from srl_jax.rollout.sampler import Sampler
from srl_jax.types import Branches


def sample_batches(
  sampler: Sampler,
  params: Any,
  trunks: Sequence[Trunk],
  key: jax.Array,
  widths: Widths,
  trunks_per_batch: int,
) -> Iterator[tuple[TrunkBatch, Branches]]:
  """Yields batches, each with its sampled branches.

  Args:
    sampler: the compiled sampler.
    params: the model's parameters.
    trunks: the trunks; every process passes the same ones.
    key: random key.
    widths: widths of the padded batches; at least `batching.widths(trunks)`.
    trunks_per_batch: trunks sampled together. Empty rows fill up the last
      batch.
  """
  for first in range(0, len(trunks), trunks_per_batch):
    batch = batching.collate(
      trunks[first : first + trunks_per_batch],
      trunk_width=widths.trunk,
      points=widths.points,
      stem_width=widths.stem,
    )
    progress.advance(first, len(trunks))
    yield batch, sample_all(sampler, params, batch, key, trunks_per_batch)


def sample_all(
  sampler: Sampler, params: Any, batch: TrunkBatch, key: jax.Array, rows: int
) -> Branches:
  """Samples a batch, which may have fewer rows than the others.

  Args:
    sampler: the compiled sampler.
    params: the model's parameters.
    batch: N trunks, at most `rows`; every process passes the same ones.
    key: random key.
    rows: number of rows to run. Empty rows fill up the batch to this number,
      rounded up to what the mesh needs.

  Returns:
    The branches of the N trunks as numpy arrays.
  """
  count = len(batch.sources)
  fill = fitting_rows(sampler, max(rows, count)) - count

  def filled_up(x, fill_value):
    tail = np.full((fill, *x.shape[1:]), fill_value, x.dtype)
    return np.concatenate([x, tail])

  trunks = batch.trunks
  filled = type(trunks)(*(filled_up(x, 0) for x in trunks))
  filled = filled._replace(stem_length_NK=filled_up(trunks.stem_length_NK, 1))
  branches = sampler.sample(params, filled, key)
  return type(branches)(*(x[:count] for x in branches))


def fitting_rows(sampler: Sampler, rows: int) -> int:
  """Rounds a number of rows up until it divides over the devices."""
  return sharding.rounded_up(rows, sampler.batch_devices)
