# SPDX-License-Identifier: Apache-2.0
"""Adapters have the names under which PEFT looks for them."""

import dataclasses
import json
import re

import jax
import pytest
import safetensors.numpy

from srl_jax.models import LanguageModel, LoraConfig, hf_files, peft
from srl_jax.testing.tiny import random_params, small_mesh
from tests.support import families

LAYER = "layers.0.self_attn.q_proj"
OF_IMAGES = "model.vision_tower.encoder.layers.0.self_attn.q_proj"


def write_base(folder, family, *, sees_images=False):
  families.write(folder, family)
  if sees_images:
    text = json.loads((folder / "config.json").read_text())
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
  return folder


def save(folder, out, base):
  """Writes adapters of a model; returns their config and names."""
  config = hf_files.HfCheckpoint(folder).config
  model = LanguageModel(dataclasses.replace(config, lora=LoraConfig(rank=2)))
  with jax.set_mesh(small_mesh()):
    peft.save_adapters(out, random_params(model), model, base=base)
  names = safetensors.numpy.load_file(out / "adapter_model.safetensors")
  return json.loads((out / "adapter_config.json").read_text()), set(names)


def is_targeted(targets, module):
  """As PEFT decides it: a regular expression, or ends of names."""
  if isinstance(targets, str):
    return bool(re.fullmatch(targets, module))
  return any(module.endswith(f".{target}") for target in targets)


@pytest.mark.parametrize(
  ("family", "sees_images", "module"),
  [
    ("qwen2", False, f"model.{LAYER}"),
    ("gemma3", False, f"model.{LAYER}"),
    ("gemma3", True, f"model.language_model.{LAYER}"),
  ],
)
def test_adapters_lie_where_transformers_has_the_layers(
  tmp_path, family, sees_images, module
):
  base = write_base(tmp_path / "base", family, sees_images=sees_images)
  config, names = save(base, tmp_path / "out", str(base))
  for part in ("lora_A", "lora_B"):
    assert f"base_model.model.{module}.{part}.weight" in names
  targets = config["target_modules"]
  for name in names:
    of_base = name.removeprefix("base_model.model.").rsplit(".", 2)[0]
    assert is_targeted(targets, of_base)
  if sees_images:
    assert not is_targeted(targets, OF_IMAGES)


def test_the_base_is_asked_only_where_its_kind_matters(tmp_path):
  qwen = write_base(tmp_path / "qwen", "qwen2")
  save(qwen, tmp_path / "of_qwen", "nowhere")
  gemma = write_base(tmp_path / "gemma", "gemma3")
  save(gemma, tmp_path / "of_random", "random")
  with pytest.raises(ValueError, match="no checkpoint folder 'nowhere'"):
    save(gemma, tmp_path / "of_gemma", "nowhere")
  assert not (tmp_path / "of_gemma").exists()
