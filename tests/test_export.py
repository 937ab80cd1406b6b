# SPDX-License-Identifier: Apache-2.0
"""Exported parameters are those of the update step that was asked for."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from srl_jax import config as config_lib
from srl_jax import export, inference, loading, saving, show
from srl_jax.testing import experiment
from srl_jax.tokenizers import SentencePieceTokenizer
from srl_jax.tokenizers import make_tokenizer as read


def embedding_of(folder):
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  return tensors["model.embed_tokens.weight"]


def saved_embedding(outcome, stage, step):
  return outcome.saved[stage, step][0]["params"]["embedding"]


def test_any_saved_step_of_a_finished_run_is_exported(whole, tmp_path):
  for step in (2, 6):
    out = tmp_path / str(step)
    export.export(whole.workdir, out, stage="srl", step=step)
    np.testing.assert_array_equal(
      embedding_of(out), saved_embedding(whole, "srl", step)
    )
  assert (embedding_of(tmp_path / "2") != embedding_of(tmp_path / "6")).any()


def test_a_finished_run_is_loaded_in_the_dtype_it_computes_in(whole, tmp_path):
  workdir = shutil.copytree(whole.workdir, tmp_path / "run")
  path = workdir / "config.json"
  config = json.loads(path.read_text())
  config["model"] |= {"dtype": "bfloat16", "param_dtype": "float32"}
  path.write_text(json.dumps(config))
  assert inference.config_of(str(workdir)).model.param_dtype == "bfloat16"


def test_an_exported_model_is_asked_as_it_was_trained(whole, tmp_path):
  out = tmp_path / "out"
  export.export(whole.workdir, out)
  beside = out / loading.PROMPTS
  trained = {"template": "plain", "observation_tokens": 0, "context_turns": 0}
  assert json.loads(beside.read_text()) == trained
  assert (whole.workdir / "model" / loading.PROMPTS).is_file()
  # The template "plain" ends in </s>, the third token of the run's tokenizer.
  for folder in (out, whole.workdir / "model"):
    for name in ("generation_config.json", "config.json"):
      assert json.loads((folder / name).read_text())["eos_token_id"] == 2
  # As of a run of agents, with the words of ChatML.
  other = {"template": "chatml", "observation_tokens": 7, "context_turns": 2}
  beside.write_text(json.dumps(other))
  config = inference.config_of(str(out))
  assert config.srl.trunks.context_turns == 2
  assert (config.template, config.observation_tokens) == ("chatml", 7)
  experiment_config = config_lib.Config()
  for given, template in (
    ((), "chatml"),
    (("--config.template=plain",), "plain"),
  ):
    mine = inference.with_weights(experiment_config, str(out), given)
    assert mine.template == template
    assert mine.srl.trunks.context_turns == 2


def test_other_software_gets_the_runs_tokens(
  whole, tmp_path, monkeypatch, capsys
):
  out = tmp_path / "out"
  command = [f"--workdir={whole.workdir}", f"--out={out}"]
  export.main(command)
  ours = SentencePieceTokenizer(out / "tokenizer.model")
  theirs = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
  for text in ("12 x\n", "<think> é\n🙂</think>  1"):
    assert theirs.encode(text).ids == ours.encode(text)
  assert json.loads((out / "tokenizer_config.json").read_text()) == {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "</s>",
    "pad_token": "<pad>",
  }
  assert (whole.workdir / "model" / "tokenizer.json").is_file()
  # The models of experiments are Qwen2's unless they say otherwise.
  assert "AutoTokenizer of transformers 5" in capsys.readouterr().out
  # Chat, server and evaluation read these files.
  model = inference.load(inference.config_of(str(out)))
  for i in range(ours.vocab_size):
    assert model.run.tokenizer.token_bytes(i) == ours.token_bytes(i)
  assert model.stop_ids == (2,) and model.run.tokenizer.pad_id == ours.pad_id
  # As if it were a unigram model.
  monkeypatch.setattr(saving, "tokenizer_json", lambda tokenizer: None)
  export.main([*command[:1], f"--out={tmp_path / 'other'}"])
  assert not (tmp_path / "other" / "tokenizer.json").exists()
  assert "warning: there is no tokenizer.json" in capsys.readouterr().out


def test_a_step_of_an_unfinished_run_is_exported(runs, tmp_path):
  outcome = experiment.RunOutcome(tmp_path / "run")

  def cut():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    runs.run(outcome.workdir, "sft", events={("sft", 5): cut}, outcome=outcome)
  export.export(outcome.workdir, tmp_path / "out", step=4)
  np.testing.assert_array_equal(
    embedding_of(tmp_path / "out"), saved_embedding(outcome, "sft", 4)
  )
  with pytest.raises(ValueError, match="no checkpoint 5; there is: 2, 4"):
    export.export(outcome.workdir, tmp_path / "other", step=5)


def test_a_config_of_another_version_is_refused_by_its_path(whole, tmp_path):
  saved = json.loads((whole.workdir / "config.json").read_text())
  saved["data"]["of_an_older_version"] = 1
  (tmp_path / "config.json").write_text(json.dumps(saved))
  with pytest.raises(ValueError) as caught:
    loading.read_run_config(tmp_path)
  for part in (
    str(tmp_path / "config.json"),
    "config.data.of_an_older_version does not exist",
    str(tmp_path / "versions.json"),
  ):
    assert part in str(caught.value)


@pytest.fixture
def moved(runs, whole, tmp_path, monkeypatch):
  """A run with relative paths, all of which lead nowhere by now."""
  there = tmp_path / "there"
  there.mkdir()
  shutil.copytree(whole.workdir / "model", there / "base")
  shutil.copyfile(runs.data, there / "data.jsonl")
  monkeypatch.chdir(there)
  outcome = runs.run(
    tmp_path / "run",
    "srl",
    srl__update_steps=1,
    data__path="data.jsonl",
    weights="base",
    tokenizer__path="base/tokenizer.model",
    tokenizer__train_vocab_size=0,
  )
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  monkeypatch.chdir(elsewhere)
  shutil.rmtree(there)
  return outcome


def test_a_run_is_read_where_data_and_base_weights_are_gone(runs, moved):
  workdir = moved.workdir
  out = pathlib.Path("out")
  export.export(workdir, out)
  assert (embedding_of(out) == saved_embedding(moved, "srl", 1)).all(), (
    "float32 as the model computes"
  )
  assert (out / "tokenizer.model").read_bytes() == (
    workdir / "model" / "tokenizer.model"
  ).read_bytes()
  with pytest.raises(ValueError, match="leave one of them out"):
    export.export(workdir, out.with_name("a"), adapter=True, dtype="float32")
  # Chat, server and evaluation find the tokenizer there, too.
  assert read(inference.config_of(str(workdir)).tokenizer).vocab_size > 0
  with runs.quickly():
    samples = show.draw_samples(workdir, 2)
    assert len(samples) == 2
    with pytest.raises(ValueError, match="base"):
      show.draw_samples(workdir, 2, "before")


def test_a_stage_that_was_not_validated_says_what_can_be_exported(
  runs, tmp_path
):
  def cut():
    raise KeyboardInterrupt

  workdir = tmp_path / "run"
  with pytest.raises(KeyboardInterrupt):
    runs.run(
      workdir, "sft_srl", events={("srl", 3): cut}, srl__validate_every=0
    )
  with pytest.raises(ValueError) as caught:
    export.export(workdir, tmp_path / "out")
  assert str(caught.value) == (
    "the stage 'srl' has no validated parameters yet; give --step=2 for its "
    "latest checkpoint, or --stage=sft for the result of the stage before, or "
    "train past the first validation"
  )
