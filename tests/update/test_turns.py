# SPDX-License-Identifier: Apache-2.0
"""Turns of episodes as branches: shares, shared trunks, gradients."""

import jax
import numpy as np

from srl_jax.models import LanguageModel
from srl_jax.ops.advantages import group_advantages
from srl_jax.testing.tiny import TINY, random_params
from srl_jax.update.grpo import LossConfig, grpo_loss
from srl_jax.update.packing import PackShape, pack
from srl_jax.update.turns import RewardedEpisode, Turn, make_turns, share_trunks

STEM = (3,)
SHAPE = PackShape(rows=2, trunks=2, lanes=3)
WIDTHS = {"trunk_width": 16, "branch_width": 6}


def episode(reward, *actions, head=(5, 6), seen=7):
  """An episode whose context holds all actions, each with an answer."""
  turns, context = [], tuple(head)
  for number, action in enumerate(actions):
    logps = [-0.5 - 0.1 * number] * len(action)
    turns.append(Turn(context, STEM, action, logps))
    context += (*action, seen)
  return RewardedEpisode(tuple(turns), reward)


PROBLEMS = (
  (
    episode(1.0, (8, 9), (10,), (11, 12, 13)),
    episode(0.0, (8, 14)),
    episode(0.0, (15, 9), (8, 8)),
  ),
  (
    episode(0.0, (9,), head=(20, 21, 22)),
    episode(1.0, (9,), (9, 9), head=(20, 21, 22)),
    episode(1.0, (10, 11), head=(20, 21, 22)),
  ),
)


def made(problems=PROBLEMS, **more):
  return make_turns(problems, update_step=4, **WIDTHS, **more)


def test_every_turn_has_the_advantage_of_its_episode():
  turns = made()
  first = group_advantages(np.array([1.0, 0.0, 0.0], np.float32))
  second = group_advantages(np.array([0.0, 1.0, 1.0], np.float32))
  expected = [first[0]] * 3 + [first[1]] + [first[2]] * 2
  expected += [second[0]] + [second[1]] * 2 + [second[2]]
  np.testing.assert_array_equal(turns.advantage_PG[:, 0], expected)
  # The mean is over episodes, so long ones do not move it.
  np.testing.assert_allclose(first, [2**0.5, -(0.5**0.5), -(0.5**0.5)], 1e-6)
  reward_P = turns.groups.batch.reward_NKG[:, 0, 0]
  assert reward_P.tolist() == [1, 1, 1, 0, 0, 0, 0, 1, 1, 1]
  assert turns.groups.step_P.tolist() == [0, 1, 2, 0, 0, 1, 0, 0, 1, 0]
  undivided = made(divide_by_std=False).advantage_PG[0, 0]
  np.testing.assert_allclose(undivided, 2 / 3, rtol=1e-6)


def test_contexts_that_begin_alike_share_a_trunk():
  groups = made().groups
  trunk_P = groups.trunk_id_P
  # The first turns of all episodes of a problem see the same.
  assert len({trunk_P[i] for i in (0, 1, 2, 3, 4)}) == 1
  assert trunk_P[5] != trunk_P[0]
  assert len(set(trunk_P)) == 3
  batch = groups.batch
  for turn, row in zip(
    [t for p in PROBLEMS for e in p for t in e.turns],
    range(groups.count),
    strict=True,
  ):
    at = batch.trunks.branch_at_NK[row, 0]
    assert tuple(batch.trunks.tokens_NS[row, :at]) == tuple(turn.context)
    length = batch.branches.length_NR[row, 0]
    written = batch.branches.tokens_NRC[row, 0, :length]
    assert tuple(written) == (*turn.stem, *turn.tokens)


def test_windows_that_share_no_beginning_have_trunks_of_their_own():
  trunks, trunk_of = share_trunks([(1, 2), (1,), (2, 3), (1, 2, 9), (1, 2)])
  assert trunks == [(1, 2, 9), (2, 3)]
  assert trunk_of == [0, 0, 1, 0, 0]


def gradient(batches):
  policy = LanguageModel(TINY)
  params = random_params(policy)
  loss_fn = grpo_loss(policy, LossConfig(), 1.0)

  def total(params):
    ratios = [loss_fn(params, batch, None)[0] for batch in batches]
    numerator = sum(ratio.numerator for ratio in ratios)
    return numerator / sum(ratio.denominator for ratio in ratios)

  return jax.jit(jax.value_and_grad(total))(params)


def alone(turn):
  """The groups with each turn on a trunk of its own."""
  groups = turn.groups
  own = np.arange(groups.count, dtype=np.int64)
  return turn._replace(groups=groups._replace(trunk_id_P=own))


def test_the_gradient_is_that_of_separate_rows():
  def packed(turns):
    advantage_PG = turns.advantage_PG
    return list(
      pack(turns.groups, SHAPE, update_step=4, advantage_PG=advantage_PG)
    )

  turns = made()
  shared, separate = packed(turns), packed(alone(turns))
  # More rows are needed without sharing.
  assert sum(len(b.trunk_NUS) for b in separate) > sum(
    len(b.trunk_NUS) for b in shared
  )
  loss, grads = gradient(shared)
  expected, wanted = gradient(separate)
  # Float32 sums in another order.
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  sizes = [float(np.abs(x).max()) for x in jax.tree.leaves(wanted)]
  assert max(sizes) > 1e-3
  for one, other in zip(
    jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


def test_without_problems_there_is_an_empty_micro_batch():
  turns = made(())
  [batch] = pack(
    turns.groups, SHAPE, update_step=4, advantage_PG=turns.advantage_PG
  )
  assert batch.branches_N.sum() == 0
