# SPDX-License-Identifier: Apache-2.0
"""A fused update step gives the same numbers as its pieces."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.reductions import reduce_metrics
from srl_jax.rollout import metrics as rollout_metrics
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.testing import tiny
from srl_jax.types import Scores
from srl_jax.update import groups as groups_lib
from srl_jax.update.fused import fused_update, split_rows
from srl_jax.update.groups import DynamicSamplingConfig
from srl_jax.update.grpo import LossConfig, grpo_loss
from srl_jax.update.packing import PackShape, pack
from srl_jax.update.updater import Updater

MODEL = LanguageModel(tiny.TINY)
RULES = sharding.ShardingRules()
SAMPLING = SamplingConfig(samples=4, max_new_tokens=5)
STOPS, PAD = (3, 4, 5), 0
TRUNKS = tiny.make_trunks(
  [
    tiny.make_trunk([5, 6, 7, 8, 9], (2, [3], 10), (5, [1, 4], 11)),
    tiny.make_trunk([9, 8, 7], (3, [2], 12)),
    tiny.make_trunk([1, 2, 3, 4], (1, [6], 13), (4, [7, 8], 14)),
    tiny.make_trunk([4, 4], (2, [9], 15)),
  ]
)


def score(branches, targets, xp=jnp):
  """Scores 1 for the target token in a completion; some lengths are broken.

  The reward means nothing, but some groups get equal rewards and some do not.
  """
  real_NK, target_NK, broken_length_NK, _ = targets
  n, r, _ = branches.tokens_NRC.shape
  points = real_NK.shape[1]
  shape = (n, points, r // points)
  target_NR1 = xp.repeat(target_NK, r // points, axis=1)[..., None]
  hit_NRC = branches.is_completion_NRC & (branches.tokens_NRC % 4 == target_NR1)
  tokens_NKG = branches.is_completion_NRC.sum(-1).reshape(shape)
  is_broken_NKG = tokens_NKG == broken_length_NK[..., None]
  value_NKG = xp.where(is_broken_NKG, xp.nan, hit_NRC.any(-1).reshape(shape))
  reward_NKG = xp.where(is_broken_NKG, -1.0, value_NKG)
  real_NK1 = real_NK[..., None]
  hide = lambda x: xp.where(real_NK1, x, xp.nan).astype(xp.float32)  # noqa: E731
  return Scores(
    reward_NKG=hide(reward_NKG),
    value_NKG=hide(value_NKG),
    thought_chars_NKG=hide(2.0 * tokens_NKG),
    action_chars_NKG=hide(1.0 * tokens_NKG),
    failure_NKG=xp.where(real_NK1, is_broken_NKG, 0).astype(xp.int32),
  )


def score_in_turns(branches, targets):
  """Scores on the device after the turns of work that `targets` ask for."""
  scores = score(branches, targets)
  start = jnp.full((64, 64), scores.failure_NKG.sum() * 1e-9)
  turns = targets.turns_N.max()
  end = jax.lax.fori_loop(0, turns, lambda _, x: jnp.tanh(x @ x), start)
  thought_chars_NKG = scores.thought_chars_NKG + (end - start)[0, 0]
  return scores._replace(thought_chars_NKG=thought_chars_NKG)


class Targets(NamedTuple):
  """What `score` compares with, as arrays: one program for all values."""

  real_NK: np.ndarray
  target_NK: np.ndarray
  broken_length_NK: np.ndarray
  turns_N: np.ndarray


TARGETS = Targets(
  TRUNKS.is_real_NK,
  np.array([[0, 1], [2, 0], [3, 0], [1, 0]], np.int32),
  np.full((4, 2), 5, np.int32),
  np.zeros(4, np.int32),
)
MESH = tiny.small_mesh()
# Also drops groups whose rewards differ only a little.
KEEP_SOME = DynamicSamplingConfig(refill=False, epsilon=0.6)
KEEP_ALL = DynamicSamplingConfig(refill=False, enabled=False)


@functools.cache
def make_updater():
  """Uses gradient descent: unlike Adam, it does not hide a wrong scale."""
  params = sharding.born_sharded(
    lambda key: MODEL.init(key), jax.random.key(0), mesh=MESH, rules=RULES
  )
  return Updater(
    grpo_loss(MODEL, LossConfig(), SAMPLING.temperature),
    optax.sgd(0.5),
    optax.constant_schedule(0.5),
    params,
    MESH,
  )


def first_state():
  """Returns a new state, because every run consumes its state."""
  updater = make_updater()
  values = tiny.random_params(MODEL)
  return updater.init(
    jax.tree.map(jax.device_put, values, updater.shardings.params)
  )


@functools.cache
def make_sampler():
  return Sampler(
    MODEL, SAMPLING, stop_ids=STOPS, pad_id=PAD, mesh=MESH, rules=RULES
  )


@functools.cache
def make_program(dynamic, rows, divide_by_std=True):
  function = fused_update(
    make_sampler().rollout,
    score_in_turns,
    make_updater().functions,
    dynamic_sampling=dynamic,
    trunks_per_micro_batch=rows,
    divide_by_std=divide_by_std,
  )
  return jax.jit(function, donate_argnums=0)


def in_pieces(dynamic, key, divide_by_std):
  updater, state = make_updater(), first_state()
  branches, slot_use = jax.device_get(
    make_sampler().start(state.params, TRUNKS, key)
  )
  scores = score(branches, TARGETS, np)
  kept_NK = groups_lib.is_kept(scores.reward_NKG, dynamic)
  groups = groups_lib.make_groups(
    TRUNKS,
    branches,
    scores.reward_NKG,
    np.zeros_like(TRUNKS.branch_at_NK),
    kept_NK,
    update_step=0,
    round_index=0,
  )
  batches = pack(
    groups,
    PackShape(rows=1, trunks=2, lanes=3),
    update_step=0,
    divide_by_std=divide_by_std,
  )
  batches = [sharding.put_batch(batch, MESH, RULES) for batch in batches]
  state, of_batches, of_update = updater.update(state, batches, 0)
  differing_NK = groups_lib.is_differing(scores.reward_NKG, dynamic)
  measured = rollout_metrics.measure(
    TRUNKS, branches, scores, kept_NK, differing_NK, slot_use
  )
  values = reduce_metrics([measured])
  values |= reduce_metrics(of_batches) | reduce_metrics([of_update])
  return state.params, values, scores.reward_NKG


def fused(dynamic, key, *, rows=2, targets=TARGETS, divide_by_std=True):
  state, metrics = make_program(dynamic, rows, divide_by_std)(
    first_state(), TRUNKS, targets, key, 0, None
  )
  values = {}
  for part in metrics:
    values |= reduce_metrics([part])
  return state.params, values


def assert_same(ours, theirs):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4),
    ours[0],
    theirs[0],
  )
  assert ours[1].keys() == theirs[1].keys()
  # The layouts differ: only one of them is packed.
  ours[1].pop("positions_used")
  for name, value in ours[1].items():
    np.testing.assert_allclose(
      value, theirs[1][name], rtol=1e-4, atol=1e-5, err_msg=name
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
  ("dynamic", "divide_by_std"),
  [(KEEP_SOME, True), (KEEP_ALL, False)],
  ids=["some", "all, centred"],
)
def test_the_fused_step_is_the_step_in_pieces(dynamic, divide_by_std, seed):
  key = jax.random.key(seed)
  *pieces, reward_NKG = in_pieces(dynamic, key, divide_by_std)
  std_NK = reward_NKG.std(-1)[TRUNKS.is_real_NK]
  # The example has groups of equal, nearly equal and different rewards.
  assert set(np.digitize(std_NK, [1e-6, KEEP_SOME.epsilon])) == {0, 1, 2}
  assert_same(fused(dynamic, key, divide_by_std=divide_by_std), pieces)


def test_micro_batches_of_the_fused_step_add_up():
  whole, cut = (
    fused(KEEP_SOME, jax.random.key(0), rows=rows) for rows in (4, 2)
  )
  assert_same(whole, cut)


def test_every_micro_batch_has_a_row_of_each_part_of_the_batch():
  # Devices hold rows 0 to 2 and 3 to 5. Cut in order, the first micro-batch
  # would be rows 0 and 1, both of the first device.
  assert split_rows(np.arange(6), 2).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_nothing_kept_changes_nothing():
  # No token is -1 and no completion is that long: all rewards are 0.
  targets = TARGETS._replace(
    target_NK=np.full((4, 2), -1, np.int32),
    broken_length_NK=np.full((4, 2), 99, np.int32),
  )
  params, values = fused(KEEP_SOME, jax.random.key(0), targets=targets)
  jax.tree.map(np.testing.assert_array_equal, params, tiny.random_params(MODEL))
  assert values["reward"] == 0
  assert values["groups_kept"] == 0
  assert values["grad_norm"] == 0
  assert values["skipped_updates"] == 1


@pytest.mark.skipif(
  jax.__version_info__ < (0, 9),
  reason="on a CPU, JAX before 0.9 runs this program before it returns",
)
def test_steps_are_queued_without_waiting_for_the_ones_before():
  # The reward takes some tenths of a second; queueing takes milliseconds.
  targets = TARGETS._replace(turns_N=np.full(4, 10_000, np.int32))
  state, metrics = first_state(), []
  for number in range(3):
    key = jax.random.key(number)
    state, of_update = make_program(KEEP_SOME, 2)(
      state, TRUNKS, targets, key, number, None
    )
    metrics.append(of_update.update.grad_norm)
  # If the third call had waited for its input state, this would be ready.
  assert not metrics[1].is_ready()
  assert all(float(x) > 0 for x in metrics)
