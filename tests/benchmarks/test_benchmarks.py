# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, compare like with like and count right; never times."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import continued, measuring, ours, slots
from benchmarks.workload import Workload
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.types import Branches
from srl_jax.update.batch import Experience, one_branch_per_lane
from srl_jax.update.grpo import LossConfig, grpo_loss

MODEL = ModelConfig(
  vocab_size=40,
  d_model=16,
  n_layers=1,
  n_heads=2,
  n_kv_heads=1,
  head_width=8,
  d_mlp=16,
)
WORK = Workload(
  trajectories=2,
  steps=2,
  samples=2,
  problem_tokens=3,
  step_tokens=5,
  stem_tokens=2,
  new_tokens=4,
)


def test_tables_have_ratios_to_the_first_variant():
  shared, flat = {"tokens": 16, "peak": 0}, {"tokens": 44, "peak": 2}
  text = measuring.table({"shared": shared, "flat": flat})
  head, tokens, peak = text.splitlines()
  assert head.split() == ["shared", "flat", "flat", "/", "shared"]
  assert tokens.split() == ["tokens", "16", "44", "2.75"]
  # Nobody knows the ratio to what is not known.
  assert peak.split() == ["peak", "-", "2", "-"]


def test_the_loss_with_given_advantages_is_the_loss_of_the_package():
  policy = LanguageModel(MODEL)
  [batch] = ours.trunk_batches(WORK, MODEL.vocab_size, "shared")
  rng = np.random.default_rng(0)
  width = WORK.stem_tokens + WORK.new_tokens
  shape = (WORK.trajectories, WORK.steps * WORK.samples, width)
  branches = Branches(
    tokens_NRC=rng.integers(1, MODEL.vocab_size, shape).astype(np.int32),
    length_NR=np.full(shape[:2], width, np.int32),
    is_completion_NRC=np.broadcast_to(
      np.arange(width) >= WORK.stem_tokens, shape
    ),
    sampler_logp_NRC=np.full(shape, -3.0, np.float32),
    stopped_NR=np.zeros(shape[:2], bool),
  )
  reward_NKG = np.array([[[1.0, 0.0], [0.0, 1.0]]] * 2, np.float32)
  # Of rewards 1 and 0 the advantages are 1 and -1.
  given = ours.lanes_of(
    batch.trunks, branches, 2 * reward_NKG.reshape(shape[:2]) - 1
  )
  grouped = one_branch_per_lane(
    Experience(batch.trunks, branches, reward_NKG),
    # Their log-probs are random numbers.
    is_fresh=False,
  )
  config = LossConfig()
  params = policy.init(jax.random.key(0))
  (mine, _), (theirs, _) = (
    jax.jit(loss)(params, lanes, None)
    for loss, lanes in (
      (ours.given_advantages(policy, config), given),
      (grpo_loss(policy, config, temperature=1.0), grouped),
    )
  )
  assert float(theirs.denominator) == WORK.branches
  # The same operations, fused differently.
  np.testing.assert_allclose(mine.numerator, theirs.numerator, rtol=1e-5)


def measure_slots(**changes):
  sizes = {"stops": 8, "slots": [0, 1], "caches": [0, 2], "repeats": 1}
  return slots.measure(MODEL, WORK, **(sizes | changes))


@pytest.mark.slow
def test_slots_are_compared_on_the_same_completions():
  found = measure_slots()
  assert list(found) == ["cache 0", "cache 2"]
  for of_cache in found.values():
    all_at_once, one = of_cache
    assert all_at_once.startswith("slots 0 (")
    # One slot always has something to do until its trunk is done.
    assert one.startswith("slots 1 (")
    assert all(rate > 0 for rate in of_cache.values())


@pytest.mark.slow
def test_slots_that_change_completions_are_noticed(monkeypatch):
  sample = slots.Variant.sample

  def other(self):
    branches, decoding = sample(self)
    tokens_NRC = branches.tokens_NRC + (self.slots == 1)
    return branches._replace(tokens_NRC=tokens_NRC), decoding

  monkeypatch.setattr(slots.Variant, "sample", other)
  with pytest.raises(AssertionError):
    measure_slots(caches=[0])


def test_conversations_that_go_on_run_fewer_tokens_and_draw_the_same():
  model = LanguageModel(dataclasses.replace(MODEL, max_positions=1000))
  found = continued.compare(model, conversations=2, turns=2, repeats=1)
  anew, after = found["anew"], found["continued"]
  assert after["tokens drawn"] == anew["tokens drawn"]
  # Of the second turn about what the first has drawn, and an observation.
  most = 2 * (continued.PROBLEM_TOKENS + 60 + 250)
  assert after["prompt tokens run"] < most < anew["prompt tokens run"]
