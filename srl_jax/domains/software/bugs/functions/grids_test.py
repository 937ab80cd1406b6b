# SPDX-License-Identifier: Apache-2.0
"""Tests of grids and intervals."""

from srl_jax.domains.software.bugs.functions.grids import (
  count_neighbours,
  fill,
  free_slots,
  life_step,
  merge_intervals,
  spiral,
  transpose,
  turn_right,
)


def test_transpose():
  assert transpose([[1, 2, 3], [4, 5, 6]]) == [[1, 4], [2, 5], [3, 6]]
  assert transpose([]) == []
  assert transpose([[1], [2]]) == [[1, 2]]
  assert transpose([[7]]) == [[7]]


def test_turn_right():
  assert turn_right([[1, 2], [3, 4]]) == [[3, 1], [4, 2]]
  assert turn_right([[1, 2, 3]]) == [[1], [2], [3]]
  assert turn_right([]) == []


def test_spiral():
  assert spiral([[1, 2], [4, 3]]) == [1, 2, 3, 4]
  assert spiral([[1, 2, 3], [8, 9, 4], [7, 6, 5]]) == [
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
  ]
  assert spiral([[1, 2, 3]]) == [1, 2, 3]
  assert spiral([]) == []


def test_count_neighbours():
  assert count_neighbours([[1, 1], [1, 1]], 0, 0) == 3
  assert count_neighbours([[1]], 0, 0) == 0
  assert count_neighbours([[1, 0, 1], [0, 1, 0], [1, 0, 1]], 1, 1) == 4
  assert count_neighbours([[1, 0, 1], [0, 1, 0], [1, 0, 1]], 2, 2) == 1
  assert count_neighbours([[0, 1, 1]], 0, 1) == 1


def test_life_step():
  assert life_step([[0, 1, 0], [0, 1, 0], [0, 1, 0]]) == [
    [0, 0, 0],
    [1, 1, 1],
    [0, 0, 0],
  ]
  assert life_step([[1, 1], [1, 1]]) == [[1, 1], [1, 1]]
  assert life_step([[1, 0], [0, 0]]) == [[0, 0], [0, 0]]
  assert life_step([[1, 1], [1, 0]]) == [[1, 1], [1, 1]]


def test_merge_intervals():
  assert merge_intervals([(5, 7), (1, 3), (2, 4)]) == [(1, 4), (5, 7)]
  assert merge_intervals([(1, 2), (2, 3)]) == [(1, 3)]
  assert merge_intervals([(1, 9), (2, 3)]) == [(1, 9)]
  assert merge_intervals([]) == []
  assert merge_intervals([(4, 6)]) == [(4, 6)]


def test_free_slots():
  assert free_slots([(2, 3), (5, 6)], 0, 9) == [(0, 2), (3, 5), (6, 9)]
  assert free_slots([], 1, 4) == [(1, 4)]
  assert free_slots([(0, 9)], 0, 9) == []
  assert free_slots([(0, 4), (2, 3)], 0, 8) == [(4, 8)]


def test_fill():
  assert fill([[0, 0, 1], [1, 0, 1]], 0, 0, 2) == 3
  assert fill([[1]], 0, 0, 1) == 0
  assert fill([[5, 5], [5, 5]], 1, 1, 0) == 4
  assert fill([[1, 2], [2, 1]], 0, 0, 3) == 1
  assert fill([[3, 4, 3]], 0, 2, 9) == 1
