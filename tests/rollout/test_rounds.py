# SPDX-License-Identifier: Apache-2.0
"""Scores of a round are the same on host and device, whole or in parts."""

import dataclasses
import time
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srl_jax import loading, sharding
from srl_jax.device_rewards.reward import DeviceRewardConfig
from srl_jax.rollout import rounds
from srl_jax.rollout.sampler import Started
from srl_jax.testing import tiny
from srl_jax.train import rl as stage_rl
from srl_jax.update.updater import Updater

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def session(runs):
  config = runs.config("srl")
  folder = runs.folder / "rounds"
  folder.mkdir()
  with runs.quickly():
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
      yield loading.load_run(config, mesh, folder)


def a_round(session, **changes):
  """Scores of the first batch; `changes` are of the stage's config."""
  config = dataclasses.replace(session.config.srl, **changes)
  stage = stage_rl.RlStage(session, "srl", config)
  params = loading.initial_params(session)
  batch = next(stage._data.batches)
  return stage, stage._rounds.run(params, batch, KEY)


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


def test_the_device_gives_the_scores_of_the_host(session):
  _, host = a_round(session, reward_on="host")
  stage, device = a_round(session, reward_on="device")
  assert stage.description.startswith("rewards on the device")
  assert np.nanstd(host.scores.failure_NKG) > 0, "several ways to fail"
  # Lengths of broken completions are not reported by the host.
  assert_same(device, host)


def test_parts_give_the_scores_of_the_whole(session):
  for reward_on in ("host", "device"):
    _, whole = a_round(session, reward_on=reward_on)
    _, parts = a_round(session, reward_on=reward_on, parts_per_round=4)
    assert_same(parts, whole)


def test_a_part_is_started_when_the_one_before_the_last_is_done(
  session, monkeypatch
):
  events = []

  def noted(name):
    function = getattr(rounds.Rounds, name)

    def call(self, *args):
      result = function(self, *args)
      events.append(name)
      return result

    monkeypatch.setattr(rounds.Rounds, name, call)

  noted("_start")
  noted("_finish")
  a_round(session, parts_per_round=4)
  in_turns = ["_start", "_finish"] * 3
  assert events == ["_start", *in_turns, "_finish"]


def test_a_part_begins_when_the_one_before_it_ends():
  before = futures.Future()
  before.set_result(rounds._Times(1.0, 1.0, time.monotonic() - 10))
  started = Started(np.zeros(1), None, None)
  queued = rounds._Queued(started, None)
  # The round began a hundred seconds ago, the part before it ended ten.
  begin_s = time.monotonic() - 100
  first = rounds._device_times(begin_s, None, queued)
  second = rounds._device_times(begin_s, before, queued)
  assert 100 <= first.prefill_s < 105
  assert 10 <= second.prefill_s < 15
  assert first.decode_s < 5
  assert first.end_s <= second.end_s


def test_what_is_too_long_for_the_device_is_scored_on_the_host(session):
  _, host = a_round(session, reward_on="host")
  # A completion of 8 tokens has up to 8 bytes and more.
  tight = DeviceRewardConfig(sizes=(8,), max_text_bytes=6)
  _, device = a_round(session, reward_on="device", device_reward=tight)
  assert_same(device, host)


def test_the_device_is_refused_where_it_cannot_score(session):
  reward = dataclasses.replace(session.config.srl.reward, function="answer")
  with pytest.raises(ValueError, match="reward_on='device' is not"):
    a_round(session, reward_on="device", reward=reward)
  stage, _ = a_round(session, reward_on="auto", reward=reward)
  assert stage.description.startswith("rewards on the host (reward.function")


def on_mesh(runs, mesh, measure, **changes):
  """What `measure` makes of a stage and its parameters on a mesh."""
  runs.forget()
  config = runs.config(
    "srl",
    model__n_kv_heads=2,
    model__vocab_size=284,
    srl__reward_on="device",
    srl__passes=1,
    srl__dynamic_sampling__refill=False,
    **changes,
  )
  with runs.quickly(), jax.set_mesh(mesh):
    session = loading.load_run(config, mesh, runs.folder / "rounds")
    stage = stage_rl.RlStage(session, "srl", config.srl)
    params = loading.initial_params(session)
    found = jax.device_get(measure(stage, params, mesh))
    stage.close()
    return stage._sampler.batch_devices, found


def completions(stage, params, mesh):
  batch = next(stage._data.batches)
  return stage._rounds.run(params, batch, KEY).branches


def metrics_of_a_fused_step(stage, params, mesh):
  updater = Updater(stage.loss_fn, optax.sgd(1.0), lambda _: 1.0, params, mesh)
  reference = jax.tree.map(jnp.copy, params)
  _, taken = stage.take_step(updater, updater.init(params), 0, reference)
  assert stage.programs() == 1
  return taken.metrics


@pytest.mark.slow
@pytest.mark.parametrize("measure", [completions, metrics_of_a_fused_step])
def test_a_stage_samples_by_the_rules_of_the_rollout(session, runs, measure):
  one, want = on_mesh(runs, tiny.small_mesh(), measure)
  two, got = on_mesh(
    runs,
    tiny.small_mesh(1, 2, 2),
    measure,
    rules__batch=("data", "fsdp", "tensor"),
    rollout_rules__embed=None,
  )
  # Its rules have the default batch, over data and fsdp.
  assert (one, two) == (1, 2)
  # Float32 sums in another order; tokens and lengths are whole numbers.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    got,
    want,
  )
