# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the fused step compares like with like."""

import time

import pytest

from benchmarks import overlap
from srl_jax.testing import experiment


def test_all_variants_sample_one_round_for_one_pass(runs):
  base = runs.config("srl").srl
  assert base.passes == 2
  assert base.loss.kl_coefficient > 0
  found = overlap.variants(base, [1, 2])
  assert [*found] == ["fused", "pieces", "host, 1 part", "host, 2 parts"]
  for _, config in found.values():
    assert config.passes == 1
    assert not config.loss.kl_coefficient
    assert not config.dynamic_sampling.refill
  assert found["fused"][1].fuse and not found["pieces"][1].fuse
  assert found["pieces"][0] == "device"
  reward_on, two_parts = found["host, 2 parts"]
  assert reward_on == "host"
  assert two_parts.sampling.parts_per_round == 2


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
  results = overlap.measure(
    None, {"a": (0.5,), "b": (0.5,)}, steps=2, repeats=1
  )
  for values in results.values():
    assert values["host scoring, s"] == pytest.approx(0.001)
    assert values["host, not waiting, s"] == pytest.approx(0.002)
    wall_s = values["a step, wall s"]
    assert wall_s >= 0.01
    assert values["host, not waiting, share"] == pytest.approx(0.002 / wall_s)
  with pytest.raises(AssertionError, match="b"):
    overlap.measure(None, {"a": (0.5,), "b": (0.6,)}, steps=2, repeats=1)


@pytest.mark.slow
def test_the_variants_of_a_real_stage_find_the_same_rewards(runs, tmp_path):
  data = f"--config={experiment.__file__}:srl,data.path={runs.data}"
  with runs.quickly():
    overlap.main([data, "--parts=2", "--steps=1", "--repeats=1"])
