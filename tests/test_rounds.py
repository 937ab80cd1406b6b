# SPDX-License-Identifier: Apache-2.0
"""Scores of a round are the same on host and device, whole or in parts."""

import dataclasses

import jax
import numpy as np
import pytest

from srl_jax import run as run_lib
from srl_jax import sharding, stage_rl
from srl_jax.device_reward import DeviceRewardConfig

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def session(runs):
  config = runs.config("srl")
  folder = runs.folder / "rounds"
  folder.mkdir()
  with runs.quickly():
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
      yield run_lib.start(config, mesh, folder)


def a_round(session, **changes):
  """Scores of the first batch; `changes` are of the stage's config."""
  config = dataclasses.replace(session.config.srl, **changes)
  stage = stage_rl.RlStage(session, "srl", config)
  params = run_lib.initial_params(session)
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
