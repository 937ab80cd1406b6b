# SPDX-License-Identifier: Apache-2.0
"""Which shapes packed micro-batches have."""

import numpy as np
import pytest

from srl_jax.testing.tiny import make_trunk, make_trunks
from srl_jax.update.pack_shapes import (
  best_shape,
  fewest_positions,
  pack_shape,
  usual_branches,
  with_rows_of_one,
)
from srl_jax.update.packing import PackShape, pack, place
from tests.support.packed import experience_of, groups_of


@pytest.mark.parametrize(
  ("trunks", "multiple", "filled", "shape"),
  [
    # Rows of two trunks, each device one; a quarter of 2 * 16 branches.
    (16, 8, 0.25, PackShape(8, 2, 8)),
    # Rows of two would leave devices without one.
    (8, 8, 0.25, PackShape(8, 1, 4)),
    (24, 8, 0.25, PackShape(24, 1, 4)),
    # No more lanes than branches, and at least one.
    (2, 1, 3.0, PackShape(1, 2, 32)),
    (1, 1, 0.0, PackShape(1, 1, 1)),
  ],
)
def test_the_shape_follows_from_trunks_and_branches(
  trunks, multiple, filled, shape
):
  got = pack_shape(trunks, multiple=multiple, branches=16, filled=filled)
  assert got == shape


@pytest.mark.parametrize(
  ("trunks", "trunk_width", "count"), [(2, 512, 2), (2, 511, 1), (1, 512, 1)]
)
def test_rows_of_one_are_a_choice_where_two_long_trunks_share_them(
  trunks, trunk_width, count
):
  shape = PackShape(4, trunks, 6)
  found = with_rows_of_one(shape, trunk_width)
  assert found == (shape, PackShape(4, 1, 6))[:count]


@pytest.mark.parametrize(("cells", "trunks"), [(2, 2), (4, 1)])
def test_the_shape_with_fewest_positions_is_taken(cells, trunks):
  # Trunks of two branches of 4 cells or of 2, in two lanes of 4.
  made = make_trunks([make_trunk([1, 2, 3], (3, [9], n)) for n in range(6)])
  groups = groups_of(
    experience_of(
      made,
      np.ones((6, 2, 5), np.int32),
      np.full((6, 2), cells),
      np.arange(12.0).reshape(6, 1, 2),
    )
  )
  both = (PackShape(1, 2, 2), PackShape(1, 1, 2))
  best = best_shape(groups, both)
  assert best.trunks == trunks
  taken = {
    shape: sum(
      x.trunk_NUS.size + x.tokens_NBW.size
      for x in pack(groups, shape, update_step=3)
    )
    for shape in both
  }
  assert taken[best] == min(taken.values()) < max(taken.values())


def best_lanes(trunk_width, branches, most=16, lane_width=100):
  return fewest_positions(
    PackShape(4, 2, most),
    *branches,
    trunk_width=trunk_width,
    lane_width=lane_width,
  )


def test_lanes_are_as_many_as_the_branches_of_a_row_take():
  # Eight trunks of four branches that fill a lane each.
  branches = np.arange(8).repeat(4), np.full(32, 100)
  assert best_lanes(1000, branches) == PackShape(4, 2, 8)
  # Two of them, or four, share a lane.
  assert best_lanes(1000, (branches[0], np.full(32, 50))).lanes == 4
  assert best_lanes(1000, (branches[0], np.full(32, 25))).lanes == 2
  # Where trunks cost nothing, no lane needs to be empty.
  assert best_lanes(0, (np.zeros(5, int), np.full(5, 100))).lanes == 1


def test_one_branch_to_a_trunk_takes_one_lane_each():
  # As SFT on windows has them: a lane is of one trunk.
  branches = np.arange(9), np.full(9, 10)
  assert best_lanes(1000, branches, most=2) == PackShape(4, 2, 2)


@pytest.mark.parametrize("points", [1, 2, 4])
def test_no_other_number_of_lanes_takes_much_less(points):
  """Of branches that are not those of the trial."""
  limit, trunk_width = 1000, 2000
  most = 2 * points * 8
  usual = usual_branches(points, 8, stem=1, limit=limit, kept=0.5)
  chosen = best_lanes(trunk_width, usual, most, limit)
  rng = np.random.default_rng(1)
  kept_P = np.flatnonzero(rng.random(400) < 0.5)
  trunk_id_M = (kept_P // points).repeat(8)
  cells_M = rng.integers(100, 700, trunk_id_M.size)

  def positions(lanes):
    spots = place(trunk_id_M, cells_M, limit, PackShape(1, 2, lanes))
    return spots.rows * (2 * trunk_width + lanes * limit)

  best = min(map(positions, range(1, most + 1)))
  assert positions(chosen.lanes) < 1.1 * best
  assert positions(max(1, chosen.lanes // 2)) > 1.2 * best
  assert positions(most) > 1.2 * best


def test_usual_branches_are_of_the_share_that_is_kept():
  trunk_id_M, cells_M = usual_branches(2, 8, stem=3, limit=100, kept=0.25)
  assert trunk_id_M.size == cells_M.size == 128 * 8
  # Of 512 points, two to a trunk.
  assert 200 < trunk_id_M.max() < 310
  assert cells_M.min() >= 3 and cells_M.max() == 3 + 100 - 1
  assert 0.37 < (cells_M - 2).mean() / 100 < 0.43
  all_M, _ = usual_branches(2, 8, stem=3, limit=100, kept=1.0)
  assert all_M.tolist() == [i // 16 for i in range(128 * 8)]
