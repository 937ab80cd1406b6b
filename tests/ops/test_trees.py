# SPDX-License-Identifier: Apache-2.0
"""Depth-first labels and lists of blocks against who descends from whom."""

import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import trees
from srl_jax.ops.trees import FIRST, LAST, PARTLY, WHOLLY, Labels
from tests.support.trees import packed_row, random_tree


def seen_by(labels, window=0):
  """Returns [N, T, T], True where a query (the second axis) sees a key."""
  labels_4NT = jnp.moveaxis(
    trees.plan(labels, block=1, parts=1, window=window).labels_N4T, 1, 0
  )
  return np.asarray(
    trees.is_visible(labels_4NT[..., None], labels_4NT[:, :, None])
  )


@pytest.mark.parametrize("seed", range(3))
def test_a_lane_sees_its_trunk_up_to_the_branch_point_and_its_own_branch(seed):
  rows = packed_row(seed, trunks=2, trunk=9, lanes=3, cells=8)
  seen = seen_by(trees.label_lanes(*rows.arrays))
  np.testing.assert_array_equal(seen, rows.seen_NTT)
  assert 0.05 < rows.seen_NTT.mean() < 0.5


@pytest.mark.parametrize("window", [0, 3])
def test_a_token_of_a_nested_tree_sees_its_ancestors(window):
  # Branches of branches, anywhere in the row, with padding in between.
  labels, ancestors_NTT, depth_NT = random_tree(0, tokens=60, width=70)
  distance = depth_NT[:, :, None] - depth_NT[:, None]
  want = ancestors_NTT & (distance < (window or 99))
  np.testing.assert_array_equal(seen_by(labels, window), want)
  # There are branch points, and branches of branches.
  children_NT = (ancestors_NTT & (distance == 1)).sum(1)
  assert (children_NT > 1).sum() > 3


def blocks_of(labels, block, parts=1, window=0):
  """Returns the pairs of each row, with their flags."""
  plan = trees.plan(labels, block=block, parts=parts, window=window)
  return [
    [
      [
        (q, k, f) for q, k, f in zip(*row, strict=True) if f
      ]  # Without the repeated ones.
      for row in zip(*(np.asarray(x)[:, 0] for x in blocks), strict=True)
    ]
    for blocks in (plan.forward, *plan.backward)
  ]


@pytest.mark.parametrize("window", [0, 5])
def test_the_blocks_are_those_in_which_something_is_seen(window):
  block = 8
  rows = packed_row(1, trunks=2, trunk=16, lanes=4, cells=12, length=6)
  labels = trees.label_lanes(*rows.arrays)
  seen_NTT = seen_by(labels, window)
  n, t, _ = seen_NTT.shape
  cut = seen_NTT.reshape(n, t // block, block, t // block, block)
  some, every = cut.any((2, 4)), cut.all((2, 4))
  [forward, _] = blocks_of(labels, block, window=window)
  for row in range(n):
    found = {(q, k): f for q, k, f in forward[row]}
    # A block of queries that sees nothing has a pair to write its results.
    want = {*zip(*np.nonzero(some[row]), strict=True)}
    lonely = {(q, 0) for q in np.nonzero(~some[row].any(-1))[0]}
    assert found.keys() == want | lonely
    assert len(found) == len(forward[row])
    assert 0 < len(found) < (t // block) ** 2 / 2
    for pair, flags in found.items():
      assert bool(flags & WHOLLY) == every[row][pair]
      assert bool(flags & PARTLY) != bool(flags & WHOLLY)
  assert every.any() or window


def test_the_pairs_of_a_block_of_queries_follow_each_other():
  rows = packed_row(2, trunks=1, trunk=16, lanes=3, cells=16)
  lists = blocks_of(trees.label_lanes(*rows.arrays), 8, parts=3)
  for of_rows in lists:
    for pairs in of_rows:
      queries = [q for q, _, _ in pairs]
      assert queries == sorted(queries)
      assert {*queries} == {*range(8)}
      for i, (_, _, flags) in enumerate(pairs):
        is_first = i == 0 or queries[i - 1] != queries[i]
        is_last = i == len(pairs) - 1 or queries[i + 1] != queries[i]
        assert bool(flags & FIRST) == is_first
        assert bool(flags & LAST) == is_last


def test_parts_of_the_keys_share_the_pairs():
  rows = packed_row(2, trunks=1, trunk=16, lanes=3, cells=16)
  labels = trees.label_lanes(*rows.arrays)
  whole, *parts = blocks_of(labels, 8, parts=3)
  # Eight blocks of keys in parts of three, three and two.
  bounds = [0, 3, 6, 8]
  assert len(parts) == 3
  for row in range(len(whole)):
    for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
      pairs = {(q, k) for q, k, _ in part[row]}
      lonely = {*range(8)} - {q for q, k, _ in whole[row] if start <= k < stop}
      assert pairs == {
        (q, k) for q, k, _ in whole[row] if start <= k < stop
      } | {(q, start) for q in lonely}


def test_padding_sees_nothing_and_is_not_seen():
  nothing = jnp.full((1, 4), -1)
  labels = Labels(
    jnp.concatenate([nothing, jnp.arange(4)[None]], 1),
    jnp.concatenate([nothing, jnp.full((1, 4), 4)], 1),
    jnp.concatenate([nothing, jnp.arange(4)[None]], 1),
  )
  [seen] = seen_by(labels)
  assert not seen[:4].any() and not seen[:, :4].any()
  np.testing.assert_array_equal(seen[4:, 4:], np.tri(4, dtype=bool))


def test_the_example_of_lanes_is_labelled_as_documented():
  labels = trees.label_lanes(
    jnp.array([[[0, 1, 2], [0, 1, -1]]]),
    jnp.array([[[2, 3, 1]]]),
    jnp.array([[[0, 0, 2]]]),
    jnp.array([[0]]),
  )
  table = [
    line.split() for line in trees.label_lanes.__doc__.splitlines() if line
  ]
  documented = {x[0]: x[1:] for x in table if x and x[0] in ("enter", "leave")}
  for name, found in (("enter", labels.enter_NT), ("leave", labels.leave_NT)):
    shown = [str(x) for x in found[0].tolist() if x >= 0]
    assert shown == documented[name]
