# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmark counts right, notices what is wrong, and runs on CPU."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from flax import linen as nn

from benchmarks import floor, gpu, gpu_checks, gpu_parts, one_device
from benchmarks.workload import Workload
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.types import Branches

# Two layers; queries 2 x 8 = 16 wide, keys and values 8.
MODEL = ModelConfig(
  vocab_size=40,
  d_model=16,
  n_layers=2,
  n_heads=2,
  n_kv_heads=1,
  head_width=8,
  d_mlp=32,
)
# Prompts of 3 and 8 tokens; branches of 2 + 3, of which 4 are run.
WORK = Workload(
  trajectories=2,
  steps=2,
  samples=3,
  problem_tokens=3,
  step_tokens=5,
  stem_tokens=2,
  new_tokens=3,
)
# Per layer q and o 16 x 16, k and v 16 x 8, three matrices of 16 x 32.
WEIGHTS = 2 * (2 * 256 + 2 * 128 + 3 * 512)


def test_the_parameters_of_qwen_are_as_many_as_published():
  # In millions, by the model cards: 494, 1,544 and 7,616.
  found = {name: floor.parameters(x) for name, x in gpu.MODELS.items()}
  assert found["0.5b"] == 494_032_768
  assert found["1.5b"] == 1_543_714_304
  assert found["7b"] == 7_615_616_512
  for name, model in gpu.MODELS.items():
    abstract = nn.unbox(
      jax.eval_shape(LanguageModel(model).init, jax.random.key(0))
    )
    sizes = [x.size for x in jax.tree.leaves(abstract)]
    assert found[name] == sum(sizes), name


def test_the_bytes_of_a_turn_are_those_computed_by_hand():
  found = floor.turn_bytes(MODEL, WORK)
  # Beside the matrices: biases 16 + 8 + 8 and two norms of 16 per layer, the
  # last norm, the embedding of 40 x 16, which is the head too. Float32.
  assert found.weights == 4 * (WEIGHTS + 2 * (32 + 32) + 16 + 640)
  # A token's keys and values in two layers: 2 x 2 x 8 numbers. Two trunks of 8.
  assert found.trunk_kv == 2 * 8 * 4 * 32
  # 12 branches; the turns find 0, 1, 2 and 3 tokens in the cache, 1.5 mean.
  assert found.branch_kv == 12 * 1.5 * 4 * 32
  assert found.logits == 12 * 40 * 4
  assert found.total == found.weights + found.trunk_kv + found.branch_kv


def test_an_embedding_that_is_not_the_head_is_not_read():
  tied = ModelConfig(vocab_size=40, d_model=16)
  untied = ModelConfig(vocab_size=40, d_model=16, tie_embeddings=False)
  assert floor.parameters(untied) - floor.parameters(tied) == 640
  assert floor.turn_bytes(untied, WORK) == floor.turn_bytes(tied, WORK)


def test_the_operations_of_a_pass_are_those_computed_by_hand():
  one = dataclasses.replace(WORK, trajectories=1)
  found = floor.forward_flops(MODEL, one)
  # One trunk of 8 and 6 branches of 4 tokens.
  assert found.layers == 2 * WEIGHTS * (8 + 6 * 4)
  # Pairs: 8 * 9 / 2 in the trunk; a branch has 4 * 5 / 2 of its own and sees
  # 3 or 8 trunk tokens from each of 4. A pair costs 2 x 16 multiply-adds.
  pairs = 36 + 3 * (10 + 12) + 3 * (10 + 32)
  assert found.attention == 2 * pairs * 2 * 32
  # A branch predicts its 3 new tokens.
  assert found.head == 2 * 18 * 40 * 16
  assert sum(floor.forward_flops(MODEL, WORK)) == 2 * sum(found)
  prefill = floor.prefill_flops(MODEL, one)
  assert prefill == (2 * WEIGHTS * 8, 2 * 36 * 2 * 32, 0)


@pytest.mark.parametrize(
  ("remat", "again"),
  [
    ("none", ("head",)),
    ("dots", ("attention", "head")),
    ("full", ("layers", "attention", "head")),
  ],
)
def test_what_is_computed_again_is_counted_apart(remat, again):
  model = ModelConfig(vocab_size=40, remat=remat)
  forward = floor.forward_flops(model, WORK)
  needed, executed = floor.update_flops(model, WORK)
  assert needed == 3 * sum(forward)
  assert executed - needed == sum(getattr(forward, name) for name in again)


def test_the_optimizers_that_fit_are_those_computed_by_hand():
  # 7.62e9 parameters of 2 bytes, copies of 4, sums of 4, and 8, 6 or 0 for the
  # moments: 137, 122 or 76 GB.
  fitting = {
    gb: gpu_parts.fitting_optimizers(gpu.MODELS["7b"], gb * 1e9)
    for gb in (140, 130, 100, 74)
  }
  assert fitting == {140: [0, 1, 2], 130: [1, 2], 100: [2], 74: []}


def greedy_samples(tokens, logp):
  tokens_NRC = np.array([tokens])
  return Branches(
    tokens_NRC=tokens_NRC,
    length_NR=np.full(tokens_NRC.shape[:2], tokens_NRC.shape[2]),
    is_completion_NRC=np.ones(tokens_NRC.shape, bool),
    sampler_logp_NRC=np.array([logp]),
    stopped_NR=np.zeros(tokens_NRC.shape[:2], bool),
  )


def test_samples_that_part_at_a_tie_are_equal_and_others_are_not():
  theirs = greedy_samples([[1, 2, 3], [4, 5, 6]], [[-1, -2, -1], [-1, -1, -1]])
  # Another token as likely; what follows it may be anything.
  tie = greedy_samples([[1, 7, 8], [4, 5, 6]], [[-1, -2, -3], [-1, -1, -1]])
  found = gpu_checks.compare_greedy(tie, theirs)
  assert found["branches that part at a tie"] == 1
  assert found["greedy tokens compared"] == 6
  less_likely = greedy_samples(
    [[1, 7, 8], [4, 5, 6]], [[-1, -2.01, -3], [-1, -1, -1]]
  )
  with pytest.raises(RuntimeError, match="1 of 2 branches have other tokens"):
    gpu_checks.compare_greedy(less_likely, theirs)


@pytest.mark.parametrize("wrong", [1.001, np.nan])
def test_an_update_that_differs_is_noticed(wrong):
  counted = np.array([True, True, False])
  theirs = (np.array([-1.0, -2.0, 0.0]), {"a": np.array([3.0, 4.0])})
  # What is not counted may differ.
  ours = (np.array([-1.0, -2.0, 9.0]), {"a": np.array([3.0, 4.0])})
  found = gpu_checks.compare_update(ours, theirs, counted)
  assert set(found.values()) == {0.0}
  for logp, gradient in ((wrong, 1.0), (1.0, wrong)):
    bad = (ours[0] * logp, {"a": ours[1]["a"] * gradient})
    with pytest.raises(RuntimeError, match="differs from that of the CPU"):
      gpu_checks.compare_update(bad, theirs, counted)


def test_a_reward_that_differs_is_noticed(monkeypatch):
  found = gpu_checks.check_reward(jax.devices()[-1], 4, (20,))
  assert found["of them bit for bit"] == 4
  assert 0 < found["mean similarity"] < 1
  ratios = gpu_checks.device_ratios
  monkeypatch.setattr(
    gpu_checks, "device_ratios", lambda *args: ratios(*args) * 1.00001
  )
  with pytest.raises(RuntimeError, match="by difflib"):
    gpu_checks.check_reward(jax.devices()[-1], 4, (20,))


def test_a_part_that_fails_does_not_end_the_others(tmp_path, capsys):
  def fails():
    raise RuntimeError("RESOURCE_EXHAUSTED: no room for 3 bytes\nand more")

  report = gpu.Report({"machine": "a"}, tmp_path)
  assert report.part("one", lambda: {"x": 2.0}) == {"x": 2.0}
  assert not report.has_failed
  assert not report.part("two", fails)
  report.part("three", lambda: {"y": 0.0})
  assert report.has_failed
  written = json.loads((tmp_path / "gpu.json").read_text())
  assert written["parts"]["one"] == {"x": 2.0}
  assert written["parts"]["three"] == {"y": 0.0}
  error = "out of memory: RESOURCE_EXHAUSTED: no room for 3 bytes"
  assert written["parts"]["two"] == {"error": error}
  assert f"FAILED: {error}" in capsys.readouterr().out


def test_without_a_gpu_it_says_what_to_do(capsys):
  assert gpu.main([]) == 2
  said = capsys.readouterr().err
  assert "finds no NVIDIA GPU" in said
  assert "--on=cpu --models=tiny" in said


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--models=0.5b,3b", r"\['3b'\]; give some of \['0.5b'"),
    ("--remat=some", r"\['some'\]"),
    ("--trunks_per_micro_batch=9", "there are 8 trajectories"),
  ],
)
def test_a_wrong_flag_says_what_to_type(flag, message, capsys):
  with pytest.raises(SystemExit):
    gpu.parse([flag])
  assert re.search(message, capsys.readouterr().err)


def test_the_random_work_is_what_was_asked_for():
  trunks = one_device.make_trunks(WORK, 40)
  assert trunks.tokens_NS.shape == (2, 8)
  np.testing.assert_array_equal(trunks.branch_at_NK, [[3, 8], [3, 8]])
  branches = one_device.random_branches(WORK, 40)
  # Each branch begins with the stem of its step.
  np.testing.assert_array_equal(
    branches.tokens_NRC[1, 3, :2], trunks.stem_NKC[1, 1]
  )
  assert branches.is_completion_NRC.sum() == 2 * 6 * 3
  batch = one_device.make_batch(WORK, 40, branches, 1)
  assert batch.reward_NKG.shape == (1, 2, 3)


@pytest.mark.slow
def test_it_runs_on_cpu(tmp_path, capsys):
  flags = ["--on=cpu", "--models=tiny", "--remat=full", "--repeats=1"]
  status = gpu.main([*flags, f"--out={tmp_path}"])
  assert status == 0, capsys.readouterr().out
  parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
  assert parts["check: model against CPU"]["greedy tokens compared"] == 48
  rollout, gradient = (
    parts["tiny: rollout"],
    parts["tiny: gradient, remat full"],
  )
  assert rollout["decode, share of copy"] > 0
  # 24 trunk tokens and 4 branches of 7.
  assert gradient["tokens"] == 24 + 28
  # In bfloat16 log-probs of 6 nats are some hundredths off, not tenths.
  assert gradient["sampler - trainer log-prob, largest"] < 0.1
  assert "tiny: AdamW, float32 moments" in parts
