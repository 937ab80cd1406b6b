# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of published shapes through the recipes, from first to last."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from srl_jax import config as config_lib
from srl_jax import export, sharding
from srl_jax import run as run_lib
from srl_jax.data import prepare
from srl_jax.models import LanguageModel, hf_files, weights, zoo
from srl_jax.testing import experiment, tiny
from tests.support import checkpoints

RECIPES = pathlib.Path(__file__).parents[1] / "experiments" / "math.py"
SHORT = {
  "model.dtype": "float32",
  "data.valid_size": 2,
  "data.test_size": 2,
  "evaluate.samples": 2,
  "evaluate.max_turns": 2,
  "evaluate.max_turn_tokens": 8,
  "evaluate.max_solve_tokens": 8,
  "evaluate.answers_per_batch": 4,
}
SHORT_STAGE = {
  "update_steps": 1,
  "trunks.max_trunk_tokens": 512,
  "trunks_per_micro_batch": 2,
  "validation_trajectories": 2,
}
SHORT_SFT = SHORT_STAGE | {"trunks_per_batch": 2}
SHORT_RL = SHORT_STAGE | {
  "sampling.trunks_per_round": 2,
  "sampling.max_new_tokens": 8,
  "sampling.samples": 2,
  "groups_per_batch": 2,
  # Random weights write no answer that is better than another.
  "dynamic_sampling.enabled": False,
}


def run_recipe(runs, workdir, preset, stages, **changes):
  """All that was measured in training, by name, and the results."""
  fields = SHORT | {"stages": ",".join(stages)}
  for stage in stages:
    short = SHORT_SFT if stage == "sft" else SHORT_RL
    fields |= {f"{stage}.{name}": value for name, value in short.items()}
  flags = [f"--config.{k}={v}" for k, v in (fields | changes).items()]
  config = config_lib.load(f"{RECIPES}:{preset}", flags)
  with runs.quickly():
    results = run_lib.train_and_evaluate(config, workdir)
  values = {}
  for row in experiment.metric_rows(workdir):
    values |= row
  return values, results


def steps(count):
  """Trajectories as those of s1K-1.1 are written."""
  for i in range(count):
    answer = f"\\boxed{{{2 * i + 1}}}"
    yield {
      "question": f"What is {i} plus {i + 1}?",
      "solution": f"The sum is {answer}.",
      "deepseek_attempt": (
        f"1. **Add** the numbers {i} and {i + 1}.\n"
        f"2. **State** the sum: {answer}"
      ),
      "cot_type": "math",
      "source_type": "made up",
      "metadata": "{}",
    }


def write_lines(path, records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_smallest_qwen_takes_a_step_of_every_stage(runs, tmp_path, capsys):
  # Of its 24 layers one, of its vocabulary what this tokenizer has, rounded.
  shape = zoo.MODELS["qwen2_5_0_5b"]
  shape = dataclasses.replace(shape, n_layers=1, vocab_size=1024)
  files = checkpoints.write(tmp_path / "files", "qwen2_5")
  folder = tmp_path / "checkpoint"
  policy, mesh = LanguageModel(shape), tiny.small_mesh()
  with jax.set_mesh(mesh):
    params = sharding.born_sharded(
      policy.init, jax.random.key(0), mesh=mesh, rules=policy.rules
    )
    beside = [x for x in files.iterdir() if x.name != "config.json"]
    weights.save_params(folder, params, policy, dtype="bfloat16", files=beside)
  found, results = run_recipe(
    runs,
    tmp_path / "run",
    "qwen2_5_0_5b",
    ["sft", "srl", "rlvr"],
    **{
      "model.n_layers": 1,
      "model.vocab_size": 1024,
      "weights": folder,
      "tokenizer.path": folder,
      "data.path": write_lines(tmp_path / "s1k.jsonl", steps(8)),
      "srl.sampling.parts_per_round": 2,
      "evaluate.suites": write_lines(
        tmp_path / "exam.jsonl",
        ({"problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(3)),
      ),
      "evaluate.suite_samples": 2,
      "evaluate.suite_tokens": 8,
      "evaluate.suites_every_update_steps": 1,
      "evaluate.suites_problems": 2,
    },
  )
  assert 0 <= found["srl/suite_exam"] <= 1
  # 2 trunks x 2 points x 2 samples to their limit, of which 2 groups train.
  assert found["srl/tokens_sampled"] == 64
  assert found["srl/tokens_trained"] == 32
  # Of solutions by random weights some stop before the limit.
  assert 16 < found["rlvr/tokens_trained"] <= 32
  assert found["sft/grad_norm"] > 0
  # It ends in a table, in which every number was measured.
  assert list(results) == ["before", "after sft", "after srl", "after rlvr"]
  for of_moment in results.values():
    assert {
      "step similarity, greedy",
      "turns accuracy, greedy",
      "turns avg@2",
      "solve pass@2",
      "exam greedy",
      "exam avg@2",
    } <= of_moment.keys()
    assert np.isfinite(list(of_moment.values())).all()
  assert "\nturns avg@2 " in capsys.readouterr().out.split("held-out test")[1]
  # What it learnt is as large as it was.
  saved = hf_files.HfCheckpoint(tmp_path / "run" / "model").config
  assert dataclasses.replace(saved, dtype="bfloat16") == shape


def gsm8k(count):
  for i in range(count):
    yield {
      "question": f"Ann has {i} pens and buys {i + 1} more. How many has she?",
      "answer": (
        f"Ann buys {i + 1} pens.\nShe has {i}+{i + 1}=<<{i}+{i + 1}="
        f"{2 * i + 1}>>{2 * i + 1} pens.\n#### {2 * i + 1}"
      ),
    }


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_from_transformers_to_transformers(runs, tmp_path, capsys):
  transformers = pytest.importorskip("transformers")
  folder = checkpoints.write(tmp_path / "checkpoint", "qwen2_5")
  vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
  transformers.Qwen2ForCausalLM(
    transformers.Qwen2Config(
      vocab_size=vocabulary,
      hidden_size=56,
      intermediate_size=96,
      num_hidden_layers=3,
      num_attention_heads=7,
      num_key_value_heads=1,
    )
  ).save_pretrained(folder)
  data = write_lines(tmp_path / "gsm8k.jsonl", gsm8k(12))
  common = [f"--data.path={data}", "--template=chat"]
  prepare.main(
    [
      *common,
      "--data.format=gsm8k",
      "--tokenizer.kind=huggingface",
      f"--tokenizer.path={folder}",
    ]
  )
  report = capsys.readouterr().out
  of_whole = "prompts with the ids of their whole text"
  [line] = [x for x in report.splitlines() if of_whole in x]
  assert line.split()[-1] == "24", report
  found, results = run_recipe(
    runs,
    tmp_path / "run",
    f"checkpoint,weights={folder}",
    ["sft", "srl"],
    **{"data.format": "gsm8k", "data.path": data, "evaluate.suites": "()"},
  )
  assert results["after srl"]
  assert found["sft/tokens_trained"] > 0
  assert found["srl/tokens_trained"] == 32

  export.export(tmp_path / "run", tmp_path / "out", dtype="float32")
  tokens_NS = np.arange(40).reshape(2, 20) + 7
  before, after = (
    logits_of_transformers(transformers, path, tokens_NS)
    for path in (folder, tmp_path / "out")
  )
  assert np.abs(after - before).max() > 1e-4, "it was trained"
  policy = LanguageModel(hf_files.HfCheckpoint(tmp_path / "out").config)
  with jax.set_mesh(mesh := tiny.small_mesh()):
    params = weights.load_params(
      tmp_path / "run" / "model", policy, mesh, jax.random.key(0)
    )
    ours = our_logits(policy, params, tokens_NS)
  np.testing.assert_allclose(ours, after[:, 1:], rtol=0, atol=2e-5)


def logits_of_transformers(transformers, folder, tokens_NS):
  import torch

  model = transformers.AutoModelForCausalLM.from_pretrained(folder)
  with torch.no_grad():
    return model(torch.from_numpy(tokens_NS)).logits.numpy()


def our_logits(policy, params, tokens_NS):
  """Of all tokens but the first, which is the trunk."""
  position_NS = np.broadcast_to(np.arange(tokens_NS.shape[1]), tokens_NS.shape)
  trunk = policy.trunk(params, tokens_NS[:, :1], position_NS[:, :1])
  hidden, _ = policy.branch(
    params,
    tokens_NS[:, None, 1:],
    position_NS[:, None, 1:],
    position_NS[:, :1] + 1,
    trunk,
  )
  return policy.logits(params, hidden)[:, 0]
