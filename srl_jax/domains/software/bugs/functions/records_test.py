# SPDX-License-Identifier: Apache-2.0
"""Tests of dictionaries and lists of them."""

from srl_jax.domains.software.bugs.functions.records import (
  changed_keys,
  deep_get,
  deep_merge,
  flatten_keys,
  group_by,
  invert,
  order_total,
  top_scores,
)


def test_group_by():
  assert group_by([{"a": 1}, {"a": 2}, {"a": 1}], "a") == {
    1: [{"a": 1}, {"a": 1}],
    2: [{"a": 2}],
  }
  assert group_by([], "a") == {}
  assert group_by([{"x": "p", "y": 3}], "x") == {"p": [{"x": "p", "y": 3}]}


def test_invert():
  assert invert({"a": 1, "b": 2}) == {1: ["a"], 2: ["b"]}
  assert invert({"b": 1, "a": 1}) == {1: ["a", "b"]}
  assert invert({}) == {}


def test_deep_get():
  assert deep_get({"a": {"b": 3}}, "a.b") == 3
  assert deep_get({"a": {"b": 3}}, "a.c") is None
  assert deep_get({"a": 1}, "a.b", 0) == 0
  assert deep_get({"a": 1}, "a") == 1
  assert deep_get({}, "x", "none") == "none"


def test_deep_merge():
  assert deep_merge({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
  assert deep_merge({"a": 1}, {"a": 2}) == {"a": 2}
  assert deep_merge({"a": {"x": 1}}, {"a": {"y": 2}}) == {"a": {"x": 1, "y": 2}}
  assert deep_merge({"a": {"x": 1}}, {"a": 5}) == {"a": 5}
  assert deep_merge({"a": 5}, {"a": {"x": 1}}) == {"a": {"x": 1}}
  assert deep_merge({}, {}) == {}


def test_flatten_keys():
  assert flatten_keys({"a": {"b": 1, "c": 2}}) == {"a.b": 1, "a.c": 2}
  assert flatten_keys({"a": 1}) == {"a": 1}
  assert flatten_keys({"a": {"b": {"c": 3}}, "d": 4}) == {"a.b.c": 3, "d": 4}
  assert flatten_keys({}) == {}
  assert flatten_keys({"x": 1}, "p") == {"p.x": 1}


def test_order_total():
  assert order_total({"items": [{"price": 100, "quantity": 3}]}) == 790
  assert order_total({"items": [{"price": 3000, "quantity": 2}]}) == 6000
  assert order_total({"items": [{"price": 5000, "quantity": 1}]}) == 5000
  assert order_total({"items": [], "postage": 0}) == 0
  assert (
    order_total({"items": [{"price": 10000, "quantity": 1}], "discount": 20})
    == 8000
  )
  assert (
    order_total({"items": [{"price": 9999, "quantity": 1}], "discount": 20})
    == 9999
  )


def test_top_scores():
  assert top_scores(
    [{"name": "a", "score": 1}, {"name": "b", "score": 3}], 1
  ) == ["b"]
  assert top_scores(
    [{"name": "d", "score": 2}, {"name": "c", "score": 2}], 2
  ) == ["c", "d"]
  assert top_scores([], 3) == []
  assert top_scores([{"name": "a", "score": 1}], 0) == []


def test_changed_keys():
  assert changed_keys({"a": 1}, {"a": 2}) == {
    "added": [],
    "removed": [],
    "changed": ["a"],
  }
  assert changed_keys({"b": 1}, {"c": 1, "a": 1}) == {
    "added": ["a", "c"],
    "removed": ["b"],
    "changed": [],
  }
  assert changed_keys({}, {}) == {"added": [], "removed": [], "changed": []}
  assert changed_keys({"x": 1}, {"x": 1}) == {
    "added": [],
    "removed": [],
    "changed": [],
  }
