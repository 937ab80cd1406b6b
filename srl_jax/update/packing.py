# SPDX-License-Identifier: Apache-2.0
"""Packs groups into micro-batches that hold few empty cells. Host side, numpy.

Completions end far below their limit and many groups are dropped, so a row
with a place for every branch would be mostly padding. Here branches lie back
to back in lanes, and two trunks with unequal numbers of branches share the
lanes of a row. Not for: which groups are trained on (groups.py), how large
micro-batches are (pack_shapes.py), what the arrays mean (batch.py).

Axes: P groups, G samples, M branches with completion tokens, N rows, U trunks
of a row, B lanes of a row, W cells of a lane.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from srl_jax.ops import advantages
from srl_jax.update.batch import MicroBatch
from srl_jax.update.groups import Groups


class PackShape(NamedTuple):
  """The shape of a micro-batch.

  Attributes:
    rows: N, rows of a micro-batch.
    trunks: U, trunks of a row.
    lanes: B, lanes that the trunks of a row share.
  """

  rows: int
  trunks: int
  lanes: int


def pack(
  groups: Groups,
  shape: PackShape,
  *,
  update_step: int,
  divide_by_std: bool = True,
  advantage_PG: np.ndarray | None = None,
) -> Iterator[MicroBatch]:
  """Packs the branches of groups into micro-batches of one shape.

  Each is filled when it is taken, so that devices work on the first ones while
  the others are filled.

  Example: lanes of 4 cells, and rows of 2 trunks that share 3 lanes. Trunk x
  has branches of 2, 4, 3 and 2 cells (a branch takes a cell less than it has
  tokens); trunk y has branches of 3 and 1; trunk z has one of 2:

      row 0, trunk x          row 1, trunks y and z
      lane of x  2 2 2 2      lane of y  1 1 1 2
      lane of x  3 3 3 .      lane of z  1 1 . .
      lane of x  1 1 4 4      no lane    . . . .

  The digits are the branches of a trunk. Trunk x takes all lanes of row 0, so
  that y and z share row 1.

  The branches of a trunk go into its lanes by falling length, each into the
  first lane with room. Rows are filled one after the other: with the neediest
  trunk, then with the neediest that fits into the free lanes. If none fits,
  the neediest gives the row some of its lanes, and the others go to another
  row, where the trunk is computed again. Empty rows fill up the last
  micro-batch; without groups there is one of empty rows. The gradient of the
  whole batch does not depend on any of this, apart from the order of its sums.

  Args:
    groups: the groups of the batch. A lane has a cell less than `tokens_NRC`.
    shape: rows, trunks and lanes of a micro-batch.
    update_step: the current update step; groups born in it are fresh.
    divide_by_std: see `advantages.group_advantages`.
    advantage_PG: the advantages; None takes those of the groups' rewards.
  """
  branches = groups.batch.branches
  tokens_PG = branches.is_completion_NRC.sum(-1)
  of_M, trunk_id_M, cells_M = branches_of(groups)
  spots = place(trunk_id_M, cells_M, branches.tokens_NRC.shape[-1] - 1, shape)
  if advantage_PG is None:
    advantage_PG = advantages.group_advantages(
      groups.batch.reward_NKG[:, 0], divide_by_std=divide_by_std
    )
  is_fresh_PG = np.broadcast_to(
    groups.born_P[:, None] == update_step, tokens_PG.shape
  )
  for first in range(0, spots.rows, shape.rows):
    is_here_M = spots.row_M // shape.rows == first // shape.rows
    here = Spots(
      shape.rows,
      spots.row_M[is_here_M] - first,
      *(x[is_here_M] for x in spots[2:]),
    )
    of_here = tuple(x[is_here_M] for x in of_M)
    yield MicroBatch(
      **_fill_trunks(groups, of_here[0], here, shape),
      **_fill_cells(
        groups,
        of_here,
        here,
        shape,
        completion_tokens_NBW=tokens_PG,
        advantage_NBW=advantage_PG,
        is_fresh_NBW=is_fresh_PG,
      ),
    )


def branches_of(
  groups: Groups,
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
  """Returns the branches that have completion tokens.

  Returns:
    The group and the sample of each, its trunk, and the cells that it takes.
  """
  branches = groups.batch.branches
  of_M = np.nonzero(branches.is_completion_NRC.any(-1))
  return of_M, groups.trunk_id_P[of_M[0]], branches.length_NR[of_M] - 1


def _fill_trunks(groups, group_M, spots, shape):
  """Returns the arrays of rows, trunks and lanes."""
  trunks = groups.batch.trunks
  width = trunks.tokens_NS.shape[1]
  trunk_NUS = np.zeros((spots.rows, shape.trunks, width), np.int32)
  trunk_NUS[spots.row_M, spots.trunk_M] = trunks.tokens_NS[group_M]
  length_NU = np.zeros((spots.rows, shape.trunks), np.int32)
  # No branch of the row sees more of the trunk.
  seen_M = trunks.branch_at_NK[group_M, 0]
  np.maximum.at(length_NU, (spots.row_M, spots.trunk_M), seen_M)
  trunk_of_NB = np.zeros((spots.rows, shape.lanes), np.int32)
  trunk_of_NB[spots.row_M, spots.lane_M] = spots.trunk_M
  branches_N = np.bincount(spots.row_M, minlength=spots.rows)
  return {
    "trunk_NUS": trunk_NUS,
    "trunk_length_NU": length_NU,
    "trunk_of_NB": trunk_of_NB,
    "branches_N": branches_N.astype(np.int32),
  }


def _fill_cells(groups, of_M, spots, shape, **of_branch_PG):
  """Returns the arrays [N, B, W]."""
  trunks, branches, *_ = groups.batch
  width = branches.tokens_NRC.shape[-1] - 1
  cells_M = branches.length_NR[of_M] - 1
  # X: the tokens of all branches. Which branch each is of, and its place there.
  branch_X, place_X = np.nonzero(np.arange(width) < cells_M[:, None])
  from_X = (of_M[0][branch_X], of_M[1][branch_X])
  first_X = spots.first_M[branch_X]
  to_X = (spots.row_M[branch_X], spots.lane_M[branch_X], first_X + place_X)

  def put(x_X, empty=0):
    out = np.full((spots.rows, shape.lanes, width), empty, x_X.dtype)
    out[to_X] = x_X
    return out

  position_X = trunks.branch_at_NK[from_X[0], 0] + place_X
  this_X, next_X = (*from_X, place_X), (*from_X, place_X + 1)
  cells = {
    "tokens_NBW": put(branches.tokens_NRC[this_X]),
    "position_NBW": put(position_X.astype(np.int32), -1),
    "first_NBW": put(first_X.astype(np.int32)),
    "targets_NBW": put(branches.tokens_NRC[next_X]),
    "sampler_logp_NBW": put(branches.sampler_logp_NRC[next_X]),
  }
  cells |= {name: put(x_PG[from_X]) for name, x_PG in of_branch_PG.items()}
  tokens_NBW = cells["completion_tokens_NBW"]
  is_counted_NBW = put(branches.is_completion_NRC[next_X])
  cells["completion_tokens_NBW"] = (tokens_NBW * is_counted_NBW).astype(
    np.int32
  )
  return cells


class Spots(NamedTuple):
  """Where the branches of a batch lie.

  Attributes:
    rows: rows of all micro-batches together, at least one's.
    row_M: row of each branch.
    trunk_M: trunk of the row.
    lane_M: lane of the row.
    first_M: first cell in the lane.
  """

  rows: int
  row_M: np.ndarray
  trunk_M: np.ndarray
  lane_M: np.ndarray
  first_M: np.ndarray


_Lane = list[int]  # Branches, back to back.


def place(
  trunk_id_M: np.ndarray, cells_M: np.ndarray, width: int, shape: PackShape
) -> Spots:
  """Says where `pack` puts branches.

  Args:
    trunk_id_M: the trunk of each branch.
    cells_M: cells that it takes, at least one.
    width: W, cells of a lane.
    shape: rows, trunks and lanes of a micro-batch.
  """
  of_trunk: dict[int, list[int]] = {}
  for branch, trunk_id in enumerate(trunk_id_M.tolist()):
    of_trunk.setdefault(trunk_id, []).append(branch)
  cells = cells_M.tolist()
  trunks = [_fill_lanes(x, cells, width) for x in of_trunk.values()]
  rows = _fill_rows(trunks, shape)
  at_M4 = np.zeros((len(cells), 4), np.int64)
  for n, row in enumerate(rows):
    lane = 0
    for u, lanes in enumerate(row):
      for branches in lanes:
        first = 0
        for branch in branches:
          at_M4[branch] = n, u, lane, first
          first += cells[branch]
        lane += 1
  batches = max(1, math.ceil(len(rows) / shape.rows))
  return Spots(batches * shape.rows, *at_M4.T)


def _fill_lanes(
  branches: Sequence[int], cells: Sequence[int], width: int
) -> list[_Lane]:
  """Returns the lanes of a trunk (first fit decreasing)."""
  lanes: list[_Lane] = []
  room: list[int] = []
  for branch in sorted(branches, key=lambda x: -cells[x]):
    fits = (i for i, free in enumerate(room) if free >= cells[branch])
    lane = next(fits, len(lanes))
    if lane == len(lanes):
      lanes.append([])
      room.append(width)
    lanes[lane].append(branch)
    room[lane] -= cells[branch]
  return lanes


def _fill_rows(
  trunks: Sequence[list[_Lane]], shape: PackShape
) -> list[list[list[_Lane]]]:
  """Returns rows of trunks, each as its lanes."""
  by_need = lambda lanes: -len(lanes)  # noqa: E731
  waiting = sorted(trunks, key=by_need)
  rows = []
  while waiting:
    row: list[list[_Lane]] = []
    free = shape.lanes
    while waiting and free and len(row) < shape.trunks:
      # First the trunk with the most lanes, then the largest that fit. If none
      # fits, the largest leaves some of its lanes to another row.
      fits = (i for i, lanes in enumerate(waiting) if len(lanes) <= free)
      lanes = waiting.pop(next(fits, 0) if row else 0)
      row.append(lanes[:free])
      if lanes[free:]:
        bisect.insort(waiting, lanes[free:], key=by_need)
      free -= len(row[-1])
    rows.append(row)
  return rows
