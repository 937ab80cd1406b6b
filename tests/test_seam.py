# SPDX-License-Identifier: Apache-2.0
"""Sampler against trainer, and shared trunks against separate prompts.

With the tiny transformer, because here the scripted model could not go wrong:
caches, positions, padding and temperature have to agree on both sides.
"""

import functools

import jax
import numpy as np
import pytest

from srl_jax.models import LanguageModel
from srl_jax.rollout import decode as rollout
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.testing.compilation import full_compilation, quick_compilation
from srl_jax.testing.lanes import branch_logps
from srl_jax.testing.tiny import (
  TINY,
  make_trunk,
  make_trunks,
  random_params,
  separate_batch,
  separate_prompts,
  separate_rows,
)
from srl_jax.update.batch import Experience, one_branch_per_lane
from srl_jax.update.grpo import LossConfig, grpo_loss

MODEL = LanguageModel(TINY)
PARAMS = random_params(MODEL)
# Trunks, stems and completions of different lengths, and a padding point.
TRUNKS_ON_HOST = [
  make_trunk(range(1, 10), (3, [10], 1), (9, [11, 12], 2)),
  make_trunk(range(5, 11), (4, [13, 10], 3)),
]
TRUNKS = make_trunks(TRUNKS_ON_HOST)
STOPS = (0, 10, 20)
G = 4
# Float32 through two layers; log-probs are of size one. What they would show
# is far larger: another temperature or position, 0.1 and more.
LOGP = {"rtol": 1e-4, "atol": 3e-5}


@functools.partial(jax.jit, static_argnames="config")
def run(trunks, key, config):
  return rollout.rollout(
    MODEL, PARAMS, trunks, key, config=config, stop_ids=STOPS, pad_id=0
  )


def sample(trunks, **changes):
  config = SamplingConfig(samples=G, max_new_tokens=5, **changes)
  return jax.device_get(run(trunks, jax.random.key(1), config))[0]


@functools.partial(jax.jit, static_argnames="temperature")
def logps(trunks, branches, temperature):
  return branch_logps(
    MODEL, PARAMS, trunks, branches, temperature=temperature, max_logits=0
  )


@pytest.fixture(scope="module")
def branches():
  sampled = sample(TRUNKS)
  # Some rows end early and some at the limit: both ends are covered.
  lengths = sampled.is_completion_NRC.sum(-1)[TRUNKS.is_real_NK.repeat(G, 1)]
  assert {2, 5} <= set(lengths) and sampled.stopped_NR.any()
  return sampled


@pytest.fixture(params=["quick", "full"])
def compilation(request):
  """Programs as tests compile them, and as training does: see conftest.py."""
  programs = (run, logps)
  with {"quick": quick_compilation, "full": full_compilation}[request.param]():
    # JAX does not compile anew for another setting.
    for program in programs:
      program.clear_cache()
    yield
  for program in programs:
    program.clear_cache()


@pytest.mark.parametrize(
  "temperature", [0.6, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_the_sampler_stores_the_log_probs_that_the_trainer_computes(
  temperature, compilation
):
  sampled = sample(TRUNKS, temperature=temperature)
  logp_NRC, entropy_NRC, _ = logps(TRUNKS, sampled, temperature)
  is_drawn = sampled.is_completion_NRC
  np.testing.assert_allclose(
    np.asarray(logp_NRC)[is_drawn], sampled.sampler_logp_NRC[is_drawn], **LOGP
  )
  assert (np.asarray(entropy_NRC)[is_drawn] > 0).all()
  assert not np.any(logp_NRC[..., 0])


def test_samples_on_a_shared_trunk_are_those_of_separate_prompts(branches):
  flat = sample(separate_prompts(TRUNKS))
  for name in ("tokens_NRC", "length_NR", "stopped_NR", "is_completion_NRC"):
    want = separate_rows(getattr(branches, name), TRUNKS)
    np.testing.assert_array_equal(getattr(flat, name), want, name)
  want = separate_rows(branches.sampler_logp_NRC, TRUNKS)
  np.testing.assert_allclose(flat.sampler_logp_NRC, want, **LOGP)


# Slots take over from one another, and the ring goes round, grows (from 2 by
# way of 3 to all 6), or both.
@pytest.mark.parametrize(("slots", "cache_start"), [(3, 0), (0, 2), (2, 3)])
def test_slots_and_a_growing_cache_change_nothing(branches, slots, cache_start):
  got = sample(TRUNKS, slots=slots, cache_start=cache_start)
  for name in ("tokens_NRC", "length_NR", "stopped_NR", "is_completion_NRC"):
    want = getattr(branches, name)
    np.testing.assert_array_equal(getattr(got, name), want, name)
  np.testing.assert_allclose(
    got.sampler_logp_NRC, branches.sampler_logp_NRC, **LOGP
  )


def test_samples_do_not_depend_on_padding_and_on_other_rows(branches):
  wider = make_trunks(
    [make_trunk(range(20, 32), (12, [7], 9)), *TRUNKS_ON_HOST[::-1]],
    trunk_width=14,
    points=3,
    stem_width=4,
  )
  got = sample(wider)
  for n, k, row, point in ((0, 0, 2, 0), (0, 1, 2, 1), (1, 0, 1, 0)):
    for g in range(G):
      a, b = (n, k * G + g), (row, point * G + g)
      np.testing.assert_array_equal(
        branches.tokens_NRC[a][branches.is_completion_NRC[a]],
        got.tokens_NRC[b][got.is_completion_NRC[b]],
      )


@pytest.fixture(scope="module")
def batch(branches):
  rewards = np.random.default_rng(0).random((2, 2, G))
  return Experience(
    trunks=TRUNKS,
    branches=branches,
    reward_NKG=rewards.astype(np.float32),
  )


def gradient_of(loss_fn):
  """Gradient of the loss numerator, with (denominator, metrics)."""

  def numerator(params, experience):
    batch = one_branch_per_lane(experience)
    loss, metrics = loss_fn(params, batch, None)
    return loss.numerator, (loss.denominator, metrics)

  return jax.jit(jax.grad(numerator, has_aux=True))


gradient = gradient_of(grpo_loss(MODEL, LossConfig(), 1.0))


def assert_trees_close(got, want, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want
  )


def test_gradients_on_a_shared_trunk_are_those_of_separate_prompts(batch):
  shared, (shared_count, shared_metrics) = gradient(PARAMS, batch)
  flat, (flat_count, flat_metrics) = gradient(PARAMS, separate_batch(batch))
  assert shared_count == flat_count == 3 * G
  assert min(np.abs(x).max() for x in jax.tree.leaves(shared)) > 0.01
  # Sums over tokens and layers in float32, in another order; entries are of
  # size 0.01 to 10.
  assert_trees_close(shared, flat, rtol=1e-3, atol=1e-4)
  # Of flat rows more is prompts, so more positions hold tokens or fewer.
  flat_metrics = flat_metrics.replace(
    positions_used=shared_metrics.positions_used
  )
  assert_trees_close(shared_metrics, flat_metrics, rtol=1e-4, atol=1e-5)


def test_the_first_update_has_ratio_one_and_the_gradient_of_reinforce(batch):
  got, (_, metrics) = gradient(PARAMS, batch)
  # Float32 rounding of log-probs of size one; a clipped ratio is 0.2 away.
  np.testing.assert_allclose(metrics.ratio_max, 1.0, atol=1e-4)
  assert metrics.clipped_share.numerator == 0
  assert metrics.logp_gap_max < 1e-4

  rewards = batch.reward_NKG
  centred = rewards - rewards.mean(-1, keepdims=True)
  advantage_NR = (centred / rewards.std(-1, keepdims=True)).reshape(2, -1)
  counted = batch.branches.is_completion_NRC
  length_NR = np.maximum(counted.sum(-1), 1)
  weight_NRC = np.where(counted, (advantage_NR / length_NR)[..., None], 0)

  def reinforce(params):
    logp_NRC, *_ = branch_logps(
      MODEL,
      params,
      batch.trunks,
      batch.branches,
      temperature=1.0,
      max_logits=0,
    )
    return -(weight_NRC * logp_NRC).sum()

  want = jax.jit(jax.grad(reinforce))(PARAMS)
  assert_trees_close(got, want, rtol=1e-3, atol=1e-4)


def test_equal_rewards_give_exactly_no_gradient(batch):
  equal = batch._replace(reward_NKG=np.full((2, 2, G), 0.1, np.float32))
  got, _ = gradient(PARAMS, equal)
  for leaf in jax.tree.leaves(got):
    np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_a_batch_of_padding_gives_no_loss_and_a_finite_gradient(batch):
  empty = jax.tree.map(np.zeros_like, batch)
  got, (denominator, metrics) = gradient(PARAMS, empty)
  assert denominator == 0
  assert metrics.loss.numerator == 0
  for leaf in jax.tree.leaves(got):
    np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_rows_of_padding_change_nothing(batch):
  first = jax.tree.map(np.copy, batch)
  for x in jax.tree.leaves(first):
    x[1] = 0
  alone, (count, _) = gradient(PARAMS, first)
  assert count == 2 * G
  second = jax.tree.map(np.copy, batch)
  for x in jax.tree.leaves(second):
    x[0] = 0
  rest, _ = gradient(PARAMS, second)
  whole, _ = gradient(PARAMS, batch)
  assert_trees_close(
    jax.tree.map(np.add, alone, rest), whole, rtol=1e-3, atol=1e-4
  )
