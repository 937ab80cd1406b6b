# SPDX-License-Identifier: Apache-2.0
"""Tests of lists."""

from srl_jax.domains.software.bugs.functions.lists import (
  chunks,
  find_sorted,
  flatten,
  longest_rise,
  merge_sorted,
  rotate,
  split_by,
  unique,
)


def test_chunks():
  assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
  assert chunks([1, 2, 3], 3) == [[1, 2, 3]]
  assert chunks([], 4) == []
  assert chunks(["a", "b"], 1) == [["a"], ["b"]]
  assert chunks([1, 2], 5) == [[1, 2]]


def test_rotate():
  assert rotate([1, 2, 3, 4], 1) == [2, 3, 4, 1]
  assert rotate([1, 2, 3], 5) == [3, 1, 2]
  assert rotate([1, 2, 3], 0) == [1, 2, 3]
  assert rotate([1, 2, 3], -1) == [3, 1, 2]
  assert rotate([], 3) == []


def test_unique():
  assert unique([3, 1, 3, 2, 1]) == [3, 1, 2]
  assert unique(["a"]) == ["a"]
  assert unique([]) == []
  assert unique([1, 1, 1]) == [1]


def test_flatten():
  assert flatten([1, [2, [3, 4]], 5]) == [1, 2, 3, 4, 5]
  assert flatten([[], [[]]]) == []
  assert flatten(["ab", ["c"]]) == ["ab", "c"]
  assert flatten([]) == []


def test_merge_sorted():
  assert merge_sorted([1, 4], [2, 3, 5]) == [1, 2, 3, 4, 5]
  assert merge_sorted([], [1, 2]) == [1, 2]
  assert merge_sorted([1, 2], []) == [1, 2]
  assert merge_sorted([1, 1], [1]) == [1, 1, 1]
  assert merge_sorted([5, 6], [1, 2]) == [1, 2, 5, 6]


def test_find_sorted():
  assert find_sorted([1, 3, 5, 7], 5) == 2
  assert find_sorted([1, 3, 5, 7], 1) == 0
  assert find_sorted([1, 3, 5, 7], 7) == 3
  assert find_sorted([1, 3, 5, 7], 4) == -1
  assert find_sorted([], 4) == -1
  assert find_sorted([2], 2) == 0
  assert find_sorted([2, 4], 9) == -1


def test_longest_rise():
  assert longest_rise([1, 2, 3, 1, 2]) == 3
  assert longest_rise([3, 2, 1]) == 1
  assert longest_rise([1, 1, 2]) == 2
  assert longest_rise([]) == 0
  assert longest_rise([5]) == 1
  assert longest_rise([2, 1, 2, 3, 4]) == 4


def test_split_by():
  assert split_by([1, 0, 2, 3, 0, 4], 0) == [[1], [2, 3], [4]]
  assert split_by([1, 2], 0) == [[1, 2]]
  assert split_by([0], 0) == [[], []]
  assert split_by([], 0) == [[]]
  assert split_by(["a", "-", "b"], "-") == [["a"], ["b"]]
