# SPDX-License-Identifier: Apache-2.0
"""Which groups are kept, and how they wait."""

import jax
import numpy as np
import pytest

from srl_jax.testing.tiny import make_trunk, make_trunks
from srl_jax.types import make_branches
from srl_jax.update.groups import (
  DynamicSamplingConfig,
  Groups,
  Pool,
  is_kept,
  make_groups,
)

G, C = 2, 5
DEFAULT = DynamicSamplingConfig()


@pytest.mark.parametrize(
  ("rewards", "epsilon", "kept"),
  [
    ([0.0, 0.0, 0.0, 0.0], 0.0, False),
    ([0.1, 0.1, 0.1, 0.1], 0.0, False),
    ([-1.0, -1.0, -1.0, -1.0], 1e-3, False),
    ([1.0, 0.0, 0.0, 0.0], 1e-3, True),
    # Population deviation sqrt(3)/4 = 0.433; the sample deviation is 0.5.
    ([1.0, 0.0, 0.0, 0.0], 0.45, False),
    ([1.0, 0.0, 0.0, 0.0], 0.42, True),
    # Deviation is exactly 0.5, and not greater than 0.5.
    ([1.0, 0.0, 0.0, 1.0], 0.5, False),
    ([1.0, 0.0, 0.0, 1.0], 0.499, True),
  ],
)
def test_the_filter_asks_for_more_deviation_than_epsilon(
  rewards, epsilon, kept
):
  reward_PG = np.array([rewards], np.float32)
  config = DynamicSamplingConfig(epsilon=epsilon)
  assert is_kept(reward_PG, config).tolist() == [kept]


def test_for_right_and_wrong_the_filter_is_some_but_not_all():
  # RLVR keeps a group iff 0 < number correct < G.
  reward_PG = np.tri(9, 8, -1, np.float32)
  kept = is_kept(reward_PG, DEFAULT)
  assert kept.tolist() == [0 < correct < 8 for correct in range(9)]


def test_switched_off_the_filter_keeps_everything_but_padding():
  # Equal rewards, rewards that differ, and a padding point.
  reward_PG = np.array([[1, 1], [0, 1], [np.nan, np.nan]], np.float32)
  off = DynamicSamplingConfig(enabled=False)
  assert is_kept(reward_PG, off).tolist() == [True, True, False]
  assert is_kept(reward_PG, DEFAULT).tolist() == [False, True, False]


@pytest.mark.parametrize("fields", [{"epsilon": -0.1}, {"max_rounds": 0}])
def test_an_impossible_filter_is_refused(fields):
  with pytest.raises(ValueError, match=r"; set it to [01] or more"):
    DynamicSamplingConfig(**fields)


def test_an_impossible_age_is_refused():
  with pytest.raises(ValueError, match="max_age=-1; set it to 0 or more"):
    DynamicSamplingConfig(max_age=-1)


def test_one_round_and_any_difference_are_allowed():
  config = DynamicSamplingConfig(epsilon=0.0, max_rounds=1)
  assert is_kept(np.array([0.0, 1e-6], np.float32), config)


def a_round(first_number=1, *, update_step=3, round_index=0):
  """Returns numbered groups of two trunks with three points and one."""
  i = first_number
  trunks = make_trunks(
    [
      make_trunk([1, 2, 3], (1, [5], i), (2, [6, 7], i + 1), (3, [8], i + 2)),
      make_trunk([4], (1, [9], i + 3)),
    ]
  )
  number_NR = (
    np.repeat(trunks.point_id_NK, G, axis=1) * 10 + np.tile([0, 1], (2, 3))
  ).astype(np.int32)
  place_C = np.arange(C)
  branches = make_branches(
    tokens_NRC=number_NR[..., None] * 10 + place_C,
    stem_length_NR=np.repeat(trunks.stem_length_NK, G, axis=1),
    length_NR=np.where(np.repeat(trunks.is_real_NK, G, axis=1), 4, 0),
    sampler_logp_NRC=-number_NR[..., None] - place_C / 10,
    stopped_NR=np.zeros((2, 6), bool),
  )
  groups = make_groups(
    trunks,
    branches,
    number_NR.reshape(2, 3, G) / 100,
    np.array([[0, 1, 2], [0, 0, 0]]),
    trunks.is_real_NK,
    update_step=update_step,
    round_index=round_index,
  )
  return trunks, branches, groups


def test_groups_of_a_round_are_its_real_points_in_order():
  _, branches, groups = a_round()
  assert groups.count == 4
  trunks_P1, branches_PG = groups.batch.trunks, groups.batch.branches
  assert trunks_P1.branch_at_NK.tolist() == [[1], [2], [3], [1]]
  assert trunks_P1.stem_length_NK.tolist() == [[1], [2], [1], [1]]
  assert groups.step_P.tolist() == [0, 1, 2, 0]
  assert groups.born_P.tolist() == [3] * 4
  assert trunks_P1.length_N.tolist() == [3, 3, 3, 1]
  assert trunks_P1.tokens_NS.tolist() == [[1, 2, 3]] * 3 + [[4, 0, 0]]
  np.testing.assert_array_equal(
    branches_PG.tokens_NRC,
    [*branches.tokens_NRC[0].reshape(3, G, C), branches.tokens_NRC[1, :G]],
  )
  np.testing.assert_array_equal(
    branches_PG.sampler_logp_NRC[3], branches.sampler_logp_NRC[1, :G]
  )
  np.testing.assert_allclose(
    groups.batch.reward_NKG[1], [[0.20, 0.21]], rtol=1e-6
  )
  assert groups.batch.reward_NKG.dtype == np.float32


def test_trunks_are_told_apart_by_row_round_and_step():
  ids = [
    a_round(update_step=step, round_index=round_index)[2].trunk_id_P
    for step in (0, 3, 256, 100_000)
    for round_index in (0, 1, 19)
  ]
  for of_round in ids:
    assert of_round[0] == of_round[1] == of_round[2] != of_round[3]
  assert len(np.unique(ids)) == 12 * 2


def numbers(groups):
  """Returns the numbers that a_round gave to its groups."""
  return [int(x) // 100 for x in groups.batch.branches.tokens_NRC[:, 0, 0]]


def test_the_oldest_groups_go_first_and_the_rest_is_carried_over():
  pool = Pool()
  assert len(pool) == 0
  pool.add(a_round(1)[2])
  pool.add(a_round(5, update_step=4)[2])
  assert len(pool) == 8
  assert numbers(pool.take(3)) == [1, 2, 3]
  assert len(pool) == 5
  pool.add(a_round(9, update_step=5)[2])
  taken = pool.take(6)
  assert numbers(taken) == [4, 5, 6, 7, 8, 9]
  assert taken.born_P.tolist() == [3, 4, 4, 4, 4, 5]
  assert numbers(pool.take(3)) == [10, 11, 12]
  assert len(pool) == 0


def test_rounds_are_copied_once_however_many_there_are(monkeypatch):
  copied, concatenate = [], np.concatenate

  def counting(arrays):
    copied.append(len(arrays))
    return concatenate(arrays)

  rounds = [a_round(x)[2] for x in (1, 5, 9)]
  monkeypatch.setattr(np, "concatenate", counting)
  pool = Pool()
  for of_round in rounds:
    pool.add(of_round)
  assert len(pool) == 12 and not copied, "devices wait between rounds"
  assert numbers(pool.take(12)) == [*range(1, 13)]
  assert set(copied) == {3}


def test_groups_that_waited_too_long_are_dropped():
  pool = Pool()
  assert pool.drop_born_before(9) == 0
  pool.add(a_round(1, update_step=3)[2])
  pool.add(a_round(5, update_step=4)[2])
  assert pool.drop_born_before(3) == 0
  assert pool.drop_born_before(4) == 4
  assert numbers(pool.take(4)) == [5, 6, 7, 8]
  assert pool.drop_born_before(9) == 0


def as_dicts(node):
  """Returns named tuples as dicts, as a checkpoint does."""
  if hasattr(node, "_asdict"):
    return {name: as_dicts(x) for name, x in node._asdict().items()}
  return np.copy(node)


def test_the_state_of_a_pool_goes_on_in_another():
  pool = Pool()
  pool.add(a_round()[2])
  pool.take(1)
  state = pool.get_state()
  other = Pool()
  other.set_state(as_dicts(state))
  ours, theirs = other.take(3), pool.take(3)
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_an_empty_pool_has_an_empty_state():
  pool = Pool()
  assert pool.get_state() == {}
  pool.set_state(Pool().get_state())
  assert len(pool) == 0
  pool.add(a_round()[2])
  assert len(pool) == 4
  # An emptied pool still knows its shapes.
  pool.take(4)
  other = Pool()
  other.set_state(as_dicts(pool.get_state()))
  other.add(a_round()[2])
  assert len(other) == 4


def test_groups_pick_by_mask_index_and_slice():
  groups = a_round()[2]
  for index in (np.array([0, 1, 0, 1], bool), [1, 3], slice(1, 4, 2)):
    picked = groups.pick(np.array(index) if isinstance(index, list) else index)
    assert isinstance(picked, Groups)
    assert numbers(picked) == [2, 4]
