# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every supported family, as Hugging Face checkpoints.

Weights follow from the names of the tensors, so that the same checkpoint can
be made in any environment, for example one with transformers. Each config has
the features of its family: windows shorter than the inputs, soft caps that
bind, scaled rotary embeddings.
"""

from __future__ import annotations

import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from srl_jax.models import hf_layout
from srl_jax.models.hf_config import from_hf_config

_SIZES = {
  "vocab_size": 64,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 10,
  "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-5,
  "torch_dtype": "float32",
}
_GEMMA = {
  **_SIZES,
  "hidden_activation": "gelu_pytorch_tanh",
  "tie_word_embeddings": True,
  "sliding_window": 7,
}
CONFIGS: dict[str, dict[str, Any]] = {
  "qwen2": {
    **_SIZES,
    "model_type": "qwen2",
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
  },
  "qwen2_tied": {
    **_SIZES,
    "model_type": "qwen2",
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": 7,
    "max_window_layers": 2,
  },
  "qwen3": {
    **_SIZES,
    "model_type": "qwen3",
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "attention_bias": False,
  },
  "llama": {
    **_SIZES,
    "model_type": "llama",
    "rope_theta": 5e5,
    "rope_scaling": {
      "rope_type": "llama3",
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64,
    },
    "tie_word_embeddings": False,
    "mlp_bias": False,
  },
  "mistral": {**_SIZES, "model_type": "mistral", "sliding_window": 7},
  "gemma": {
    **_SIZES,
    "model_type": "gemma",
    "hidden_act": "gelu",
    "tie_word_embeddings": True,
  },
  "gemma2": {
    **_GEMMA,
    "model_type": "gemma2",
    "query_pre_attn_scalar": 6,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
  },
  # Seven layers, so that a global layer lies between local ones.
  "gemma3": {
    **_GEMMA,
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "query_pre_attn_scalar": 10,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "sliding_window_pattern": 6,
  },
}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns uniform float32 values that depend only on a tensor's name.

  They are a hash of index and name (SplitMix64), because numpy does not promise
  the same random numbers in all of its versions.
  """
  x = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64)
  with np.errstate(over="ignore"):
    x += np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
    x *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
      x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
  uniform = (x >> np.uint64(40)).astype(np.float64) / 2.0**24 - 0.5
  # Norm scales and biases too are far from their initial values.
  is_norm = name.endswith("norm.weight")
  scale = 2.0 * shape[-1] ** -0.5 if len(shape) == 2 else 0.6
  values = uniform * 2 * scale + 1.0 * is_norm
  return values.reshape(shape).astype(np.float32)


def tensors(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns all tensors of a checkpoint, by their names in it."""
  places = hf_layout.places(from_hf_config(config))
  return {
    name: tensor(name, place.stored_shape)
    for place in places.values()
    for name in place.names
  }


def write(
  folder: str | os.PathLike, family: str, files: int = 1, **changes: Any
) -> pathlib.Path:
  """Writes a checkpoint folder.

  Args:
    folder: folder to create.
    family: a name in CONFIGS.
    files: number of files over which the tensors are spread.
    **changes: changes to the family's config.

  Returns:
    The folder.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  config = CONFIGS[family] | changes
  (folder / "config.json").write_text(json.dumps(config, indent=2))
  every = tensors(config)
  if files == 1:
    safetensors.numpy.save_file(every, folder / "model.safetensors")
    return folder
  where = {}
  names = list(every)
  for number in range(files):
    name = f"model-{number + 1:05}-of-{files:05}.safetensors"
    part = {x: every[x] for x in names[number::files]}
    safetensors.numpy.save_file(part, folder / name)
    where |= dict.fromkeys(part, name)
  index = {"metadata": {}, "weight_map": where}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder
