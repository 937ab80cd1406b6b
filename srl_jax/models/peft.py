# SPDX-License-Identifier: Apache-2.0
"""Adapters as PEFT stores them: adapter_config.json and one file of weights.

PEFT's lora_A is [rank, inputs] and its lora_B is [outputs, rank], under the
name of the projection. Its scaling, alpha / rank, is the same as here.
"""

from __future__ import annotations

import json
import os
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from srl_jax import agreement, storage
from srl_jax.models import hf_layout, lora
from srl_jax.models.hf_config import to_hf_config
from srl_jax.models.transformer import LanguageModel
from srl_jax.models.weights import finished_folder, hf_tensors
from srl_jax.storage import hub

_PREFIX = "base_model.model."


def save_adapters(
  folder: str | os.PathLike, params: Any, model: LanguageModel, base: str
) -> None:
  """Writes a folder that `peft.PeftModel.from_pretrained` loads.

  All processes must call it; the first one writes. The folder gets its name
  when everything in it is written.

  Args:
    folder: where to write; a folder that is there is replaced.
    params: parameters of the model, on its mesh.
    model: the model.
    base: the checkpoint that the adapters belong to; noted in the folder. Of
      Gemma 3 it must be there, as its config.json decides the names.

  Raises:
    ValueError: the model has no adapters, or the base is needed and gone.
  """
  config = model.config.lora
  if not config.rank:
    raise ValueError(
      "the run trained all parameters (c.model.lora.rank=0), so there are no "
      "adapters; export the whole model, without --adapter"
    )
  sees_images = _sees_images(model, base)
  places = hf_layout.places(model.config)
  tensors = {}
  flat = traverse_util.flatten_dict(params, sep="/")
  for path, place in places.items():
    if path + lora.A not in flat:
      continue
    for part, name in ((lora.A, "lora_A"), (lora.B, "lora_B")):
      for tensor, array in hf_tensors(flat[path + part], place):
        module = tensor.removesuffix(".weight")
        if sees_images:
          module = module.replace("model.", "model.language_model.", 1)
        # From [inputs.., rank] to [rank, inputs], and from [rank, outputs..]
        # to [outputs, rank].
        rank_last = part == lora.A
        matrix = (
          array.reshape(-1, config.rank).T
          if rank_last
          else array.reshape(config.rank, -1).T
        )
        tensors[f"{_PREFIX}{module}.{name}.weight"] = np.ascontiguousarray(
          matrix, np.float32
        )
  targets = sorted({name.rsplit(".", 3)[1] for name in tensors})
  name, revision = hub.name_and_revision(base)
  written = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": name,
    "revision": revision,
    "r": config.rank,
    "lora_alpha": config.alpha,
    "lora_dropout": 0.0,
    "bias": "none",
    # The part that sees images has projections of the same names.
    "target_modules": (
      rf"model\.language_model\.layers\..*\.({'|'.join(targets)})"
      if sees_images
      else targets
    ),
  }
  with finished_folder(storage.path(folder)) as unfinished:
    # No other makes the folder again after it has got its name.
    agreement.wait_for_all()
    if jax.process_index() != 0:
      return
    with storage.written(unfinished / "adapter_model.safetensors") as path:
      safetensors.numpy.save_file(tensors, path, {"format": "pt"})
      path.chmod(0o644)
    # Last: in a bucket, it says that the folder is complete.
    text = json.dumps(written, indent=2) + "\n"
    (unfinished / "adapter_config.json").write_text(text)


def _sees_images(model: LanguageModel, base: str) -> bool:
  """Whether transformers loads the base as a Gemma 3 that sees images."""
  kind = to_hf_config(model.config, model.config.dtype)["model_type"]
  if kind != "gemma3_text" or base == "random":
    return False
  folder = hub.fetch(base, ("config.json",))
  config = storage.read_object(folder / "config.json")
  return config.get("model_type") == "gemma3"
