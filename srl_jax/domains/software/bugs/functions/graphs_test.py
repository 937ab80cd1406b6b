# SPDX-License-Identifier: Apache-2.0
"""Tests of graphs."""

from srl_jax.domains.software.bugs.functions.graphs import (
  cheapest,
  components,
  reachable,
  shortest_path,
  topological,
)


def test_reachable():
  assert reachable({"a": ["b", "c"], "b": ["d"]}, "a") == ["a", "b", "c", "d"]
  assert reachable({}, "x") == ["x"]
  assert reachable({"a": ["b"], "b": ["a"]}, "b") == ["b", "a"]
  assert reachable({"a": ["b"], "c": ["d"]}, "c") == ["c", "d"]


def test_shortest_path():
  assert shortest_path({1: [2, 3], 2: [4], 3: [4]}, 1, 4) == [1, 2, 4]
  assert shortest_path({1: [2], 2: [3], 3: [4]}, 1, 4) == [1, 2, 3, 4]
  assert shortest_path({1: [2]}, 2, 1) == []
  assert shortest_path({1: [2]}, 1, 1) == [1]
  assert shortest_path({1: [2, 4], 2: [4]}, 1, 4) == [1, 4]


def test_topological():
  assert topological({"a": ["b"], "b": ["c"]}) == ["a", "b", "c"]
  assert topological({"a": ["b"], "b": ["a"]}) == []
  assert topological({}) == []
  assert topological({"x": ["z"], "y": ["z"]}) == ["x", "y", "z"]
  assert topological({"b": [], "a": []}) == ["a", "b"]


def test_components():
  assert components({1: [2], 2: [1], 3: []}) == [[1, 2], [3]]
  assert components({}) == []
  assert components({"b": ["a"], "a": ["b"]}) == [["a", "b"]]
  assert components({3: [], 1: [], 2: []}) == [[1], [2], [3]]


def test_cheapest():
  assert cheapest({"a": {"b": 5, "c": 1}, "c": {"b": 2}}, "a", "b") == 3
  assert cheapest({"a": {"b": 2}}, "b", "a") == -1
  assert cheapest({"a": {"b": 2}}, "a", "a") == 0
  assert cheapest({1: {2: 1}, 2: {3: 1}, 3: {4: 1}}, 1, 4) == 3
  assert cheapest({1: {2: 9, 3: 2}, 3: {2: 8}}, 1, 2) == 9
