# SPDX-License-Identifier: Apache-2.0
"""What is in an update batch that no model has sampled yet.

Which groups are kept, and how long completions are, decides how many rounds of
sampling and how many micro-batches an update step takes. Here both are drawn,
and the branches are packed, and the kernels' work is planned, by the code that
trains.
"""

from __future__ import annotations

import argparse
import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from srl_jax.models import ModelConfig
from srl_jax.ops import decode_plan, tree_attention, trees
from srl_jax.update import packing
from srl_jax.update.packing import PackShape, Spots

from .work import InKernel

# Deviation of the logarithm of a length. Answers to problems of one kind have
# 0.4 to 0.8.
_SPREAD = 0.6
# Rows whose pairs are counted; the others are taken to be like them.
_COUNTED_ROWS = 4


class Lengths(NamedTuple):
  """What an update step is assumed to find.

  Attributes:
    kept: share of the sampled groups whose rewards differ.
    mean: mean length of a completion in tokens; its limit, for completions
      that are all cut off.
  """

  kept: float
  mean: float


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that `lengths_of` takes."""
  parser.add_argument(
    "--kept",
    type=float,
    default=1.0,
    help="share of the sampled groups whose rewards differ, from 0 to 1",
  )
  parser.add_argument(
    "--mean_tokens",
    type=int,
    default=0,
    help="mean length of a completion (default: its limit)",
  )


def lengths_of(stage: str, limit: int, kept: float, mean: float) -> Lengths:
  """Returns what the flags assume of a stage; a mean of 0 is the limit.

  Raises:
    ValueError: no update step can find that.
  """
  if not 0 < kept <= 1:
    raise ValueError(f"--kept is {kept:g}; use a share such as 0.4")
  if mean < 0:
    raise ValueError(f"--mean_tokens is {mean:g}; use 0 or more")
  if mean > limit:
    raise ValueError(
      f"--mean_tokens={mean:g} is above c.{stage}.sampling.max_new_tokens="
      f"{limit}; give at most that"
    )
  return Lengths(kept, mean or limit)


class Shape(NamedTuple):
  """What a stage samples, and how it is packed.

  Attributes:
    groups: groups of an update step.
    points: branch points of a trunk.
    samples: samples of a branch point.
    trunk: tokens of a trunk.
    stem: given tokens at the head of a branch.
    limit: longest completion in tokens.
    pack: shape of a micro-batch.
  """

  groups: int
  points: int
  samples: int
  trunk: int
  stem: int
  limit: int
  pack: PackShape

  @property
  def cells(self) -> int:
    """W, cells of a lane: its last token is only a target."""
    return self.stem + self.limit - 1


class Batch(NamedTuple):
  """Kept groups of one update step, placed in rows.

  Attributes:
    shape: what was drawn for.
    micro_batches: how many there are.
    length_N: tokens of each trunk, up to its last branch.
    at_M: position at which each branch begins.
    cells_M: cells that it takes.
    spots: where it lies.
  """

  shape: Shape
  micro_batches: int
  length_N: np.ndarray
  at_M: np.ndarray
  cells_M: np.ndarray
  spots: Spots

  @property
  def positions(self) -> int:
    """Positions of all micro-batches, padding too."""
    shape = self.shape
    _, trunks, lanes = shape.pack
    return self.spots.rows * (trunks * shape.trunk + lanes * shape.cells)

  @property
  def visible_pairs(self) -> float:
    """Pairs of a query and a key that it sees, each trunk counted once."""
    of_trunks = self.length_N * (self.length_N + 1) / 2
    of_branches = self.cells_M * (self.at_M + (self.cells_M + 1) / 2)
    return float(of_trunks.sum() + of_branches.sum())


def entries_read(batch: Batch) -> float:
  """Entries of its branch's cache that a token reads by the kernel of decoding.

  It reads whole blocks.
  """
  block = decode_plan.OWN
  whole_M, rest_M = batch.cells_M // block, batch.cells_M % block
  blocks_M = block * whole_M * (whole_M + 1) / 2 + rest_M * (whole_M + 1)
  return float(block * blocks_M.sum() / batch.cells_M.sum())


def rounds(shape: Shape, trunks: int, lengths: Lengths) -> int:
  """Returns the rounds of so many trunks that an update step takes."""
  return math.ceil(shape.groups / (trunks * shape.points * lengths.kept) - 1e-9)


def draw(shape: Shape, lengths: Lengths) -> Batch:
  """Draws and packs the groups of an update step.

  Args:
    shape: what is sampled, and how it is packed.
    lengths: what is assumed. Lengths are log-normal, and cut at the limit.
  """
  rng = np.random.default_rng(0)
  # From one kept group to the next.
  point_P = rng.geometric(lengths.kept, shape.groups).cumsum() - 1
  count = (len(point_P), shape.samples)
  length_PG = np.full(count, shape.limit)
  if lengths.mean < shape.limit:
    length_PG = _log_normal(rng, lengths.mean, shape.limit, count)
  point_M = point_P.repeat(shape.samples)
  cells_M = shape.stem + length_PG.ravel() - 1
  trunk_M = point_M // shape.points
  spots = packing.place(trunk_M, cells_M, shape.cells, shape.pack)
  # Points divide a trunk evenly, and follow each other.
  at_M = shape.trunk * (point_M % shape.points + 1) // shape.points
  _, first_N = np.unique(trunk_M, return_index=True)
  length_N = np.maximum.reduceat(at_M, first_N)
  micro_batches = spots.rows // shape.pack.rows
  return Batch(shape, micro_batches, length_N, at_M, cells_M, spots)


def _log_normal(rng, mean: float, limit: int, count) -> np.ndarray:
  """Whole lengths from 1 to the limit whose mean is about `mean`."""
  normal = rng.standard_normal(count)
  low, high = 0.0, 4 * math.log(limit) + 4
  # The mean rises with the middle, however many lengths the limit cuts.
  for _ in range(50):
    middle = (low + high) / 2
    length = np.clip(np.exp(middle + _SPREAD * normal).round(), 1, limit)
    low, high = (middle, high) if length.mean() < mean else (low, middle)
  return length.astype(int)


def in_kernel(batch: Batch, config: ModelConfig, devices: int) -> InKernel:
  """Plans the kernels' work in a micro-batch, and returns what it amounts to.

  Each row is split over `devices`. A few rows are planned. The devices wait for
  each other, so all count as the one with the most work.
  """
  rows = np.linspace(0, batch.spots.rows - 1, _COUNTED_ROWS).round()
  labels = _labels(batch, np.unique(rows).astype(int))
  tokens = labels.enter_NT.shape[1]
  room = tree_attention.padded(tokens, devices) - tokens
  pad = lambda x: np.pad(x, ((0, 0), (0, room)), constant_values=-1)  # noqa: E731
  labels = jax.tree.map(pad, labels)
  local = config.is_local() or (False,) * config.n_layers
  pairs = fetched = 0.0
  for is_local in set(local):
    share = local.count(is_local) / len(local)
    window = config.sliding_window if is_local else 0
    blocks, block = _blocks(labels, config, window, devices)
    pairs += share * blocks * block * block
    fetched += share * blocks * block
  per_row = (tokens + room, pairs, fetched)
  return InKernel(*(batch.shape.pack.rows * x for x in per_row))


def _blocks(labels, config, window: int, devices: int) -> tuple[int, int]:
  """Returns a row's pairs of blocks, if all have the most, and their side."""
  make = functools.partial(
    tree_attention.plan,
    kv_heads=config.n_kv_heads,
    group=config.n_heads // config.n_kv_heads,
    head_width=config.head_width,
    window=window,
    shards=devices,
  )
  plan = jax.jit(make)(labels)
  query_NPI, _, flags_NPI = map(np.asarray, plan.forward)
  # Every block of queries has a pair.
  side = labels.enter_NT.shape[1] // devices // (query_NPI.max() + 1)
  return int((flags_NPI > 0).sum(-1).max()) * devices, int(side)


def _labels(batch: Batch, rows: np.ndarray) -> trees.Labels:
  """Labels of the tokens of some rows, as `trees.label_lanes` wants them."""
  shape, spots = batch.shape, batch.spots
  _, trunks, lanes = shape.pack
  trunk_NUS = np.full((len(rows), trunks, shape.trunk), -1)
  position_NBW = np.full((len(rows), lanes, shape.cells), -1)
  first_NBW = np.zeros_like(position_NBW)
  trunk_of_NB = np.zeros((len(rows), lanes), int)
  for m in np.nonzero(np.isin(spots.row_M, rows))[0]:
    n = np.searchsorted(rows, spots.row_M[m])
    u, b, first = spots.trunk_M[m], spots.lane_M[m], spots.first_M[m]
    at, cells = batch.at_M[m], batch.cells_M[m]
    trunk_NUS[n, u, :at] = np.arange(at)
    trunk_of_NB[n, b] = u
    position_NBW[n, b, first : first + cells] = at + np.arange(cells)
    first_NBW[n, b, first : first + cells] = first
  return trees.label_lanes(trunk_NUS, position_NBW, first_NBW, trunk_of_NB)
