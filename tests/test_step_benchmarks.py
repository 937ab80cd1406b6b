# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of seeds and of the fused step divide and compare right."""

import time

import pytest

from benchmarks import overlap, seeds
from srl_jax.testing import experiment


def cell(start, compilation, training, reward):
  return {
    "start and data": start,
    "compilation": compilation,
    "training": training,
    "reward": reward,
  }


def test_what_seeds_cost_is_divided_by_their_number():
  cells = {
    1: cell([2.0, 3.0], [10.0, 8.0], [6.0, 4.0], [0.1, 0.2]),
    4: cell([4.0, 6.0], [12.0, 8.0], [20.0, 12.0], [0.1, 0.2000001]),
  }
  one, four = seeds.per_seed(cells, steps=2).values()
  assert one["all, CPU s per seed"] == 18
  assert one["a step, CPU s per seed"] == 3
  assert four["compilation, CPU s per seed"] == 3
  # (4 + 12 + 20) / 4, and 20 / 4 seeds / 2 steps.
  assert four["all, CPU s per seed"] == 9
  assert four["a step, CPU s per seed"] == 2.5
  assert four["a step, wall s per seed"] == 1.5


def test_a_seed_that_learns_otherwise_in_company_is_noticed():
  spent = ([1.0, 1.0],) * 3
  cells = {1: cell(*spent, [0.1, 0.2]), 2: cell(*spent, [0.1, 0.21])}
  with pytest.raises(AssertionError):
    seeds.per_seed(cells, steps=2)


def test_all_variants_sample_one_round_for_one_pass(runs):
  base = runs.config("srl").srl
  assert base.passes == 2
  assert base.loss.kl_coefficient > 0
  found = overlap.variants(base, [1, 2])
  assert [*found] == ["fused", "pieces", "host, 1 part", "host, 2 parts"]
  for config in found.values():
    assert config.passes == 1
    assert not config.loss.kl_coefficient
    assert not config.dynamic_sampling.refill
  assert found["fused"].fuse and not found["pieces"].fuse
  assert found["pieces"].reward_on == "device"
  assert found["host, 2 parts"].reward_on == "host"
  assert found["host, 2 parts"].parts_per_round == 2


class FakeVariant:
  """Takes steps of a hundredth of a second."""

  def __init__(self, run, config):
    del run
    self.reward = config

  def steps(self, count):
    time.sleep(0.01 * count)
    values = {"reward": self.reward, "host_s": 0.002, "reward_s": 0.001}
    return [values] * count

  def close(self):
    pass


def test_variants_are_compared_and_their_steps_divided(monkeypatch):
  monkeypatch.setattr(overlap, "Variant", FakeVariant)
  results = overlap.measure(None, {"a": 0.5, "b": 0.5}, steps=2, repeats=1)
  for values in results.values():
    assert values["host scoring, s"] == pytest.approx(0.001)
    assert values["host, not waiting, s"] == pytest.approx(0.002)
    wall_s = values["a step, wall s"]
    assert wall_s >= 0.01
    assert values["host, not waiting, share"] == pytest.approx(0.002 / wall_s)
  with pytest.raises(AssertionError, match="b"):
    overlap.measure(None, {"a": 0.5, "b": 0.6}, steps=2, repeats=1)


@pytest.mark.slow
def test_the_variants_of_a_real_stage_find_the_same_rewards(runs, tmp_path):
  data = f"--config={experiment.__file__}:srl,data.path={runs.data}"
  with runs.quickly():
    overlap.main([data, "--parts=2", "--steps=1", "--repeats=1"])
