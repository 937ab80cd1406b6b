# SPDX-License-Identifier: Apache-2.0
"""The parts of a run are made as its config says."""

import dataclasses
import json
import shutil

import jax
import pytest

from srl_jax import inference, initial_weights, loading
from srl_jax.config import Config
from srl_jax.data.readers import DataConfig
from srl_jax.storage import hub
from srl_jax.testing.tiny import small_mesh
from srl_jax.tokenizers import TokenizerConfig
from srl_jax.trajectory import Step
from tests.support import checkpoints, small_model


def test_templates_of_a_run_show_as_much_of_an_observation_as_it_says():
  step = Step("ls", observation="x" * 50)

  def shown(tokens):
    config = Config(observation_tokens=tokens)
    run = loading.load_model(config, small_mesh())
    [text] = run.template.step(step, 1)
    return text

  assert "x" * 50 in shown(0)
  assert "xx\n[... 46 characters are left out ...]\nxx" in shown(4)


def test_a_model_whose_prompts_open_the_think_block_is_asked_only(tmp_path):
  small_model.write(
    tmp_path / "model",
    chat_template="{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    "<think>\n",
  )
  config = inference.config_of(str(tmp_path / "model"))
  assert inference.load(config).chat is not None
  data = dataclasses.replace(config.data, train_size=1)
  config = dataclasses.replace(config, data=data)
  with pytest.raises(ValueError, match="opens the think block itself"):
    loading.load_run(config, small_mesh(), tmp_path / "run")


def test_of_a_tokenizer_file_all_that_is_beside_it_is_kept(families):
  folder = families("qwen2_5")
  configs = [
    TokenizerConfig("huggingface", str(path))
    for path in (folder, folder / "tokenizer.json")
  ]
  of_folder, of_file = map(loading._tokenizer_files, configs)
  assert of_file == of_folder
  names = {path.name for path in of_file}
  assert {"tokenizer.json", "tokenizer_config.json"} <= names


def run_of(folder, tokens):
  """A run with a checkpoint's tokenizer, and a model of so many tokens."""
  config = Config(
    template="chat",
    tokenizer=TokenizerConfig("huggingface", str(folder)),
    model=dataclasses.replace(Config().model, vocab_size=tokens),
  )
  return loading.load_model(config, small_mesh())


def test_control_tokens_that_nothing_uses_may_lie_beyond_the_model(
  tmp_path, families
):
  # As <image_soft_token> does in the text-only Gemma 3, and in fine-tunes of
  # Llama 2 a token for padding.
  folder = shutil.copytree(families("gemma3"), tmp_path / "more")
  path = folder / "tokenizer_config.json"
  settings = json.loads(path.read_text("utf-8"))
  tokens = json.loads((folder / "config.json").read_text())["vocab_size"]
  settings["added_tokens_decoder"] |= {
    str(tokens + i): {"content": name, "special": True}
    for i, name in enumerate(("<image_soft_token>", "<more_pad>"))
  }
  settings["pad_token"] = "<more_pad>"
  checkpoints.write_json(path, settings)
  tokenizer = run_of(folder, tokens).tokenizer
  assert tokenizer.vocab_size == tokens
  assert tokenizer.pad_id < tokens
  text = "a<image_soft_token><more_pad>"
  assert max(tokenizer.encode(text)) < tokens
  assert tokenizer.decode(tokenizer.encode(text)) == text
  with pytest.raises(
    ValueError, match=rf"'<more_pad>' is {tokens + 1}, .* only {tokens} "
  ):
    tokenizer.special_id("<more_pad>")
  # Where the model has them, they are what they were.
  tokenizer = run_of(folder, tokens + 2).tokenizer
  assert tokenizer.special_id("<more_pad>") == tokenizer.pad_id == tokens + 1
  with pytest.raises(
    ValueError, match=f"the model only {tokens - 1} .* is {tokens - 1}; "
  ):
    run_of(folder, tokens - 1)


def test_stops_beyond_the_model_are_refused(families):
  folder = families("llama3_1")
  stop = run_of(folder, 0).tokenizer.special_id("<|eot_id|>")
  with pytest.raises(ValueError, match=rf"<\|eot_id\|>' is {stop}, "):
    run_of(folder, stop)


@pytest.mark.parametrize(
  ("dtype", "platform", "precision"),
  [
    ("float32", "tpu", "highest"),
    ("float32", "gpu", "highest"),
    ("bfloat16", "tpu", None),
    ("float32", "cpu", None),
  ],
)
@pytest.mark.parametrize("before", [None, "highest"])
def test_accelerators_multiply_float32_in_float32(
  before, dtype, platform, precision
):
  try:
    # As the model loaded before in this process has left it.
    jax.config.update("jax_default_matmul_precision", before)
    loading.compute_exactly(dtype, platform)
    assert jax.config.jax_default_matmul_precision == precision
  finally:
    jax.config.update("jax_default_matmul_precision", None)


def test_missing_data_are_told_before_weights_are_fetched(
  tmp_path, monkeypatch
):
  fetched = []
  monkeypatch.setattr(hub, "fetch", lambda *names: fetched.append(names))
  config = dataclasses.replace(
    Config(),
    weights="Qwen/Qwen2.5-7B",
    data=DataConfig(format="s1k", path=str(tmp_path / "s1K")),
  )
  with pytest.raises(ValueError, match=r"does not exist.*hf download simples"):
    loading.load_run(config, small_mesh(), tmp_path)
  assert not fetched


def test_weights_are_fetched_when_they_are_read(families, monkeypatch):
  folder, fetched = families("qwen2_5"), []

  def download(name, *, allow_patterns, **_):
    fetched.append((name, "*.safetensors" in allow_patterns))
    return str(folder)

  monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
  tokenizer = TokenizerConfig("huggingface", str(folder))
  config = Config(template="chat", tokenizer=tokenizer, weights="Qwen/tiny")
  run = loading.load_model(config, small_mesh())
  assert fetched == [("Qwen/tiny", False)]
  monkeypatch.setattr(
    initial_weights.weights, "load_params", lambda folder, *_: folder
  )
  assert initial_weights.initial_params(run) == folder
  assert fetched[1:] == [("Qwen/tiny", True)]
