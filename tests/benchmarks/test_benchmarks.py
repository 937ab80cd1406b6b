# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, compare like with like and count right; never times."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import continued, layouts, measuring, prefix_sharing, slots
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


@pytest.fixture(scope="module")
def results():
  # Compares samples, log-probs and gradients of all layouts, or raises.
  return prefix_sharing.measure(MODEL, WORK, repeats=1)


@pytest.fixture(scope="module")
def bench():
  return prefix_sharing.Bench(MODEL, WORK)


@pytest.mark.slow
def test_prefix_sharing_counts_the_tokens_computed_by_hand(results):
  # Prompts of 3 and 8 tokens. Shared: 2 trunks of 8. Flat: 2 trajectories x
  # 2 samples x (3 + 8). Branches: 2 x 2 x 2 of 2 + 4 tokens, the last not run.
  shared, flat = results["shared"], results["flat"]
  assert shared["prompt tokens, counted"] == 16
  assert flat["prompt tokens, counted"] == 44
  for layout in results.values():
    assert layout["branch tokens, counted"] == 40
  padded = results["flat padded"]
  assert padded["prompt tokens, counted"] == 44
  assert padded["positions, padding too"] == 2 * 2 * 2 * 8 + 40
  assert flat["positions, padding too"] == 44 + 40


@pytest.mark.slow
def test_prefix_sharing_measures_every_layout_alike(results):
  names = {frozenset(quantities) for quantities in results.values()}
  assert len(names) == 1
  lines = measuring.table(results).splitlines()
  [prompt] = [x for x in lines if x.startswith("prompt tokens, counted")]
  assert prompt.split()[-2:] == ["2.75", "2.75"]


def test_the_multiply_adds_of_one_row_are_those_computed_by_hand():
  work = dataclasses.replace(WORK, trajectories=1, steps=1, samples=1)
  rows = layouts.layouts(work)["shared"].updating[0]
  # 3 prompt and 5 branch tokens. Weights per token: q and o 16 x 16, k and v
  # 16 x 8, mlp 3 x 16 x 16. Attention: 9 pairs in the trunk and 5 x 8 of the
  # branch, each 16 for the logit and 16 for the sum. Head: 5 x 40 x 16.
  by_hand = 8 * (2 * 256 + 2 * 128 + 768) + (9 + 40) * 32 + 3200
  assert layouts.multiply_adds(MODEL, work, [rows]) == by_hand


def test_flat_rows_hold_the_prompts_that_are_prefixes_of_the_trunk():
  of_layout = layouts.layouts(WORK)
  [rows] = of_layout["shared"].sampling
  shared = layouts.make_trunks(WORK, MODEL.vocab_size, rows)
  seen = []
  for rows in of_layout["flat"].sampling:
    flat = layouts.make_trunks(WORK, MODEL.vocab_size, rows)
    for row, branch in enumerate(rows.branch_NR[:, 0]):
      n, r = divmod(int(branch), WORK.steps * WORK.samples)
      at = shared.branch_at_NK[n, r]
      assert flat.length_N[row] == at == rows.width
      np.testing.assert_array_equal(
        flat.tokens_NS[row], shared.tokens_NS[n, :at]
      )
      np.testing.assert_array_equal(
        flat.stem_NKC[row, 0], shared.stem_NKC[n, r]
      )
      seen.append(branch)
  assert sorted(seen) == list(range(WORK.branches))


def test_layouts_that_differ_are_noticed(bench, monkeypatch):
  # A flat prompt one token off must not pass for the same prompt.
  bench.set_samples(_random_samples(bench), np.ones(WORK.branches, np.float32))
  _, shared_BC = bench.gradient("shared")
  broken = [
    batch._replace(position_NBW=batch.position_NBW - 1)
    for batch in bench.updating["shared"]
  ]
  monkeypatch.setitem(bench.updating, "shared", broken)
  _, broken_BC = bench.gradient("shared")
  gap = np.abs(shared_BC - broken_BC).max()
  assert gap > 100 * prefix_sharing.MAX_LOGP_DIFFERENCE


def _random_samples(bench):
  """Branches as the sampler returns them, without compiling a sampler."""
  rng = np.random.default_rng(0)
  width = WORK.stem_tokens + WORK.new_tokens
  shape = (WORK.branches, width)
  is_completion = np.arange(width) >= WORK.stem_tokens
  return Branches(
    tokens_NRC=rng.integers(1, MODEL.vocab_size, shape).astype(np.int32),
    length_NR=np.full(WORK.branches, width, np.int32),
    is_completion_NRC=np.broadcast_to(is_completion, shape),
    sampler_logp_NRC=np.full(shape, -3.0, np.float32),
    stopped_NR=np.zeros(WORK.branches, bool),
  )


def test_the_loss_with_given_advantages_is_the_loss_of_the_package(bench):
  reward_NKG = np.array([[[1.0, 0.0], [0.0, 1.0]]] * 2, np.float32)
  # Of rewards 1 and 0 the advantages are 1 and -1.
  advantage_B = 2 * reward_NKG.reshape(-1) - 1
  samples = _random_samples(bench)
  bench.set_samples(samples, advantage_B)
  [given] = bench.updating["shared"]
  rows = bench.layouts["shared"].updating[0]
  trunks = layouts.make_trunks(WORK, MODEL.vocab_size, rows)
  points = lambda x: x[:, :: WORK.samples]  # noqa: E731
  grouped = one_branch_per_lane(
    Experience(
      trunks._replace(branch_at_NK=points(trunks.branch_at_NK)),
      Branches(*(x[rows.branch_NR] for x in samples)),
      reward_NKG=reward_NKG,
    ),
    # Their log-probs are random numbers.
    is_fresh=False,
  )
  config = LossConfig()
  ours = prefix_sharing.given_advantages(bench.policy)
  package = grpo_loss(bench.policy, config, temperature=1.0)
  (mine, _), (theirs, _) = (
    jax.jit(loss)(bench.params, batch, None)
    for loss, batch in ((ours, given), (package, grouped))
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
