# SPDX-License-Identifier: Apache-2.0
"""Chooses the shapes of packed micro-batches. Host side, numpy.

A shape is chosen once, before its program is compiled, for branches as they
are assumed to come; where there are two, each update step takes the one that
suits its own branches. See packing.py for the layout and the axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from srl_jax.update.groups import Groups
from srl_jax.update.packing import PackShape, branches_of, place

# Numbers of lanes that are tried, at most; groups that are drawn for it; and
# the deviation of the logarithm of their completions' lengths.
_TRIALS, _GROUPS, _SPREAD = 32, 128, 0.6
# Shorter trunks are not worth a program that leaves the place of one out.
_LONG_TRUNK = 512


def pack_shape(
  trunks: int, *, multiple: int, branches: int, filled: float
) -> PackShape:
  """Chooses the shape of micro-batches of `trunks` trunks.

  Rows of two trunks even out their needs; rows of more save little. So there
  are two, or one where rows of two would not divide over the devices. See
  `with_rows_of_one`.

  Args:
    trunks: trunks of a micro-batch, a multiple of `multiple`.
    multiple: the rows must be a multiple of this.
    branches: the most branches that a trunk can have.
    filled: lanes of a row for each branch that its trunks can have, at most 1.
      A trunk that needs more lanes than there are goes to several rows, and is
      computed in each; `fewest_positions` finds what is best.
  """
  per_row = 1 if trunks % (2 * multiple) else 2
  lanes = math.ceil(per_row * branches * min(1.0, filled))
  return PackShape(trunks // per_row, per_row, max(1, lanes))


def with_rows_of_one(
  shape: PackShape, trunk_width: int
) -> tuple[PackShape, ...]:
  """Returns a shape, and the one with rows of one trunk if trunks are long.

  Where completions are so long that one trunk fills the lanes, the place of a
  second is padding. `best_shape` chooses for each update.

  Args:
    shape: the shape with the most trunks.
    trunk_width: positions of a trunk.
  """
  if shape.trunks == 1 or trunk_width < _LONG_TRUNK:
    return (shape,)
  return (shape, shape._replace(trunks=1))


def best_shape(groups: Groups, shapes: Sequence[PackShape]) -> PackShape:
  """Returns the shape whose micro-batches of `groups` have fewest positions."""
  if len(shapes) == 1:
    return shapes[0]
  _, *branches = branches_of(groups)
  widths = {
    "trunk_width": groups.batch.trunks.tokens_NS.shape[1],
    "lane_width": groups.batch.branches.tokens_NRC.shape[-1] - 1,
  }
  return min(shapes, key=lambda shape: positions(shape, *branches, **widths))


def positions(
  shape: PackShape,
  trunk_id_M: np.ndarray,
  cells_M: np.ndarray,
  *,
  trunk_width: int,
  lane_width: int,
) -> int:
  """Returns the positions of all micro-batches, padding too.

  Args:
    shape: rows, trunks and lanes of a micro-batch.
    trunk_id_M: the trunk of each branch.
    cells_M: cells that it takes, at least one.
    trunk_width: positions of a trunk.
    lane_width: cells of a lane.
  """
  rows = place(trunk_id_M, cells_M, lane_width, shape).rows
  return rows * (shape.trunks * trunk_width + shape.lanes * lane_width)


def fewest_positions(
  shape: PackShape,
  trunk_id_M: np.ndarray,
  cells_M: np.ndarray,
  *,
  trunk_width: int,
  lane_width: int,
) -> PackShape:
  """Returns the shape with as many lanes as pack these branches best.

  It places them into rows of few lanes and of more, up to `shape.lanes`, and
  counts the positions of the rows. Long trunks want many lanes, so that few
  are computed twice; short ones few, so that few lanes are empty.

  Args:
    shape: a shape with the most lanes that come into question.
    trunk_id_M: the trunk of each branch; branches like those to come.
    cells_M: cells that it takes, at least one.
    trunk_width: positions of a trunk.
    lane_width: cells of a lane.
  """

  def of_lanes(lanes: int) -> int:
    return positions(
      PackShape(1, shape.trunks, lanes),
      trunk_id_M,
      cells_M,
      trunk_width=trunk_width,
      lane_width=lane_width,
    )

  step = math.ceil(shape.lanes / _TRIALS)
  tried = range(shape.lanes, 0, -step)
  return shape._replace(lanes=min(reversed(tried), key=of_lanes))


def usual_branches(
  points: int, samples: int, *, stem: int, limit: int, kept: float
) -> tuple[np.ndarray, np.ndarray]:
  """Draws branches of kept groups as runs are assumed to have them.

  Lengths are log-normal, 40% of the limit on average, and some are cut off.

  Args:
    points: branch points of a trunk.
    samples: samples of a branch point.
    stem: given tokens at the head of a branch.
    limit: longest completion in tokens.
    kept: share of the groups that are kept.

  Returns:
    The trunk of each branch, and the cells that it takes.
  """
  rng = np.random.default_rng(0)
  # From one kept group to the next.
  point_P = rng.geometric(kept, _GROUPS).cumsum() - 1
  # The limit takes a few hundredths off the mean.
  middle = math.log(1.04 * 0.4 * limit) - _SPREAD**2 / 2
  length_M = rng.lognormal(middle, _SPREAD, _GROUPS * samples)
  length_M = np.clip(length_M.round(), 1, limit).astype(np.int64)
  return (point_P // points).repeat(samples), stem + length_M - 1
