# SPDX-License-Identifier: Apache-2.0
"""Scores of a round are the same on host and device, whole or in parts."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax import initial_weights, loading, sharding
from srl_jax.device_rewards.reward import DeviceRewardConfig
from srl_jax.rollout import rounds, scoring
from srl_jax.rollout.sampler import Sampler
from srl_jax.testing import tiny
from srl_jax.train import rl as stage_rl

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def start(runs):
  config = runs.config("srl")
  folder = runs.folder / "rounds"
  folder.mkdir()
  with runs.quickly():
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
      yield loading.load_run(config, mesh, folder), config.srl


def a_round(start, parts=1, reward=None, **device):
  """The stage and its first round; `device` is of the reward on the device."""
  run, config = start
  run = dataclasses.replace(run, device_reward=DeviceRewardConfig(**device))
  sampling = dataclasses.replace(config.sampling, parts_per_round=parts)
  config = dataclasses.replace(
    config, sampling=sampling, reward=reward or config.reward
  )
  stage = stage_rl.RlStage(run, "srl", config)
  params = initial_weights.initial_params(run)
  stage.prepare(params)
  return stage, first_round(stage, params)


def first_round(stage, params):
  setup = stage.updates.setup
  return rounds.sample_and_score(
    setup.sampler,
    params,
    next(stage.data.batches),
    KEY,
    scorer=setup.scorer,
    tokenizer=setup.run.tokenizer,
    device_scorer=setup.device_scorer,
    parts=stage.config.sampling.parts_per_round,
  )


def assert_same(ours, theirs):
  np.testing.assert_array_equal(
    ours.branches.tokens_NRC, theirs.branches.tokens_NRC
  )
  for name in ours.scores._fields:
    np.testing.assert_allclose(
      getattr(ours.scores, name),
      getattr(theirs.scores, name),
      rtol=1e-6,
      err_msg=name,
    )


def test_the_device_gives_the_scores_of_the_host(start):
  _, host = a_round(start, on="host")
  stage, device = a_round(start, on="device")
  assert stage.description.startswith("rewards on the device")
  assert np.nanstd(host.scores.failure_NKG) > 0, "several ways to fail"
  # The host does not report lengths of broken completions.
  assert_same(device, host)


def test_parts_give_the_scores_of_the_whole(start):
  for on in ("host", "device"):
    _, whole = a_round(start, on=on)
    _, parts = a_round(start, on=on, parts=4)
    assert_same(parts, whole)


def test_a_part_is_started_when_the_one_before_the_last_is_done(
  start, monkeypatch
):
  events = []

  def noted(owner, name):
    function = getattr(owner, name)

    def call(*args, **kwargs):
      events.append(name)
      return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)

  noted(Sampler, "start")
  noted(scoring, "score_branches")
  a_round(start, parts=4, on="host")
  in_turns = ["start", "score_branches"] * 3
  assert events == ["start", *in_turns, "score_branches"]


def test_the_time_of_scoring_is_part_of_the_time_of_the_round(
  start, monkeypatch
):
  score = scoring.score_branches

  def slowly(*args):
    time.sleep(0.2)
    return score(*args)

  monkeypatch.setattr(scoring, "score_branches", slowly)
  _, found = a_round(start, parts=2, on="host")
  assert 0.4 <= found.reward_s <= found.rollout_s


def test_what_is_too_long_for_the_device_is_scored_on_the_host(start):
  _, host = a_round(start, on="host")
  # A completion of 8 tokens has up to 8 bytes and more.
  tight = {"sizes": (8,), "max_text_bytes": 6}
  _, device = a_round(start, on="device", **tight)
  assert_same(device, host)


def test_the_device_is_refused_where_it_cannot_score(start):
  reward = dataclasses.replace(start[1].reward, function="answer")
  with pytest.raises(ValueError, match=r"device_reward\.on='device' is not"):
    a_round(start, on="device", reward=reward)
  stage, _ = a_round(start, on="auto", reward=reward)
  assert stage.description.startswith("rewards on the host (reward.function")
  stage, _ = a_round(start, on="auto")
  assert stage.description == "rewards on the host (which is faster on CPUs)"


def on_mesh(runs, mesh, measure, **changes):
  """Returns what `measure` returns for a stage and its parameters on a mesh."""
  runs.forget()
  config = runs.config(
    "srl",
    model__n_kv_heads=2,
    model__vocab_size=284,
    device_reward__on="device",
    srl__passes=1,
    srl__dynamic_sampling__refill=False,
    srl__fuse=True,
    **changes,
  )
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, runs.folder / "rounds")
    stage = stage_rl.RlStage(run, "srl", config.srl)
    params = initial_weights.initial_params(run)
    stage.prepare(params)
    found = jax.device_get(measure(stage, params, mesh))
    stage.close()
    return stage.updates.setup.sampler.batch_devices, found


def completions(stage, params, mesh):
  return first_round(stage, params).branches


def metrics_of_a_fused_update(stage, params, mesh):
  reference = jax.tree.map(jnp.copy, params)
  state = stage.updater.init(params)
  _, dispatched = stage.take_update(state, 0, reference)
  assert stage.compiled_count() == 1
  return dispatched.metrics


@pytest.mark.slow
@pytest.mark.parametrize("measure", [completions, metrics_of_a_fused_update])
def test_a_stage_samples_by_the_rules_of_the_rollout(start, runs, measure):
  one, want = on_mesh(runs, tiny.small_mesh(), measure)
  two, got = on_mesh(
    runs,
    tiny.small_mesh(1, 2, 2),
    measure,
    rules__batch=("data", "fsdp", "tensor"),
    rollout_rules__embed=None,
  )
  # The default rules split the batch over data and fsdp.
  assert (one, two) == (1, 2)
  # Float32 sums are added in another order; token counts are whole numbers.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    got,
    want,
  )
