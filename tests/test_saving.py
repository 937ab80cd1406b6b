# SPDX-License-Identifier: Apache-2.0
"""Other software asks an exported model as it was trained, and stops it."""

import dataclasses
import json

import jax
import pytest

from srl_jax import inference, initial_weights, saving
from srl_jax.data.chat import ChatFormat
from srl_jax.data.templates import CHATML
from srl_jax.tokenizers.folder import read_tokenizer_folder
from tests.support import checkpoints, small_model


def write(folder, family, tokenizer, *, generation=None, **changes):
  """A random model whose generation_config.json is as it is given, or absent.

  Names stand for the ids of tokens.
  """
  small_model.write(folder, family, tokenizer, **changes)
  path = folder / "generation_config.json"
  path.unlink()
  if generation is not None:
    stop = inference.load(inference.config_of(str(folder))).run.tokenizer
    eos = stop.special_id(generation["eos_token_id"])
    checkpoints.write_json(path, generation | {"eos_token_id": eos})
  return folder


def exported(folder, out, **changes):
  """Loads a model, writes it as a run does, and returns it."""
  config = dataclasses.replace(inference.config_of(str(folder)), **changes)
  model = inference.load(config)
  with jax.set_mesh(model.run.mesh):
    params = initial_weights.initial_params(model.run)
    saving.save_model(out, params, model.run, config, "float32")
  return model


def ids_in(path):
  found = json.loads(path.read_text())
  return {
    k.removesuffix("_token_id"): v for k, v in found.items() if "_id" in k
  }


def test_a_base_model_that_learnt_chatml_stops_at_the_end_of_its_turn(tmp_path):
  base = write(
    tmp_path / "base",
    "qwen2",
    "qwen2_5",
    generation={"eos_token_id": "<|endoftext|>", "temperature": 0.7},
    chat_template=None,
    eos_token="<|endoftext|>",
  )
  out = tmp_path / "out"
  model = exported(base, out, template="chatml")
  tokenizer = model.run.tokenizer
  turn, text = map(tokenizer.special_id, ("<|im_end|>", "<|endoftext|>"))
  want = {"bos": text, "eos": [turn, text], "pad": text}
  assert ids_in(out / "generation_config.json") == want
  assert ids_in(out / "config.json") == want
  generation = json.loads((out / "generation_config.json").read_text())
  assert generation["temperature"] == 0.7
  again = inference.load(inference.config_of(str(out)))
  assert again.stop_ids == model.stop_ids == (turn, text)


def test_stops_that_only_config_json_names_are_not_lost(tmp_path):
  base = write(tmp_path / "base", "llama", "llama3_1")
  path = base / "config.json"
  config = json.loads(path.read_text())
  names = "<|eot_id|>", "<|end_of_text|>"
  tokenizer = inference.load(inference.config_of(str(base))).run.tokenizer
  eos = [tokenizer.special_id(name) for name in names]
  checkpoints.write_json(path, config | {"eos_token_id": eos})
  out = tmp_path / "out"
  model = exported(base, out)
  want = {
    "bos": tokenizer.special_id("<|begin_of_text|>"),
    "eos": list(model.stop_ids),
    "pad": tokenizer.special_id("<|finetune_right_pad_id|>"),
  }
  assert set(model.stop_ids) == set(eos)
  assert ids_in(out / "generation_config.json") == want
  assert ids_in(out / "config.json") == want
  # A run keeps its tokenizer's files, from which it is loaded again.
  assert "config.json" in {path.name for path in model.run.files}


def test_a_model_without_bos_is_not_given_its_familys(tmp_path):
  # transformers gives a Llama whose config.json has no bos_token_id the id 1.
  base = write(tmp_path / "base", "llama", "smollm2")
  path = base / "config.json"
  config = json.loads(path.read_text())
  del config["bos_token_id"]
  checkpoints.write_json(path, config)
  exported(base, tmp_path / "out")
  assert ids_in(tmp_path / "out" / "config.json")["bos"] is None


@pytest.mark.parametrize(
  ("source", "template"),
  [
    (checkpoints.QWEN3, "chatml"),
    # Of this one, prompts end in a closed think block unless it is told to
    # let the model think.
    (
      checkpoints.QWEN3.replace(
        "enable_thinking is defined and enable_thinking is false",
        "enable_thinking is not defined or not enable_thinking",
      ),
      "chat",
    ),
    (checkpoints.QWEN3, "chat"),
  ],
)
@pytest.mark.filterwarnings("ignore:.*enable_thinking=True")
def test_the_chat_template_that_is_exported_is_the_one_trained_with(
  tmp_path, source, template
):
  base = write(tmp_path / "base", "qwen3", "qwen3", chat_template=source)
  checkpoints.write_json(base / "chat_template.json", {"chat_template": source})
  out = tmp_path / "out"
  model = exported(base, out, template=template)
  # transformers takes chat_template.jinja before tokenizer_config.json.
  folder = read_tokenizer_folder(str(out))
  alone = ChatFormat(folder.chat_template, folder.special_tokens, "out")
  assert alone.prompt("Be short.", "Why?") == (
    model.chat.prompt("Be short.", "Why?")
  )
  is_changed = folder.chat_template != source
  assert is_changed == (template == "chatml" or source != checkpoints.QWEN3)
  settings = json.loads((out / "tokenizer_config.json").read_text())
  assert ("chat_template" in settings) != is_changed
  assert (out / "chat_template.json").exists() != is_changed
  assert (out / "chat_template.jinja").exists() == is_changed
  assert settings["eos_token"] == "<|im_end|>"
  if template == "chatml":
    assert folder.chat_template == CHATML
