# SPDX-License-Identifier: Apache-2.0
"""config.json of a Hugging Face checkpoint, to a ModelConfig and back.

Every field of the file is either understood, known to change nothing here, or
refused by name: a field that is skipped silently could be a model that is
computed wrongly. Both spellings are read, that of transformers 4 and that of
5 (`rope_parameters`, `layer_types`, `dtype`); the older one, which both
understand, is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from srl_jax.models import hf_fields, hf_rope
from srl_jax.models.config import ModelConfig, differences

# The fields that all families understand, with the values that transformers
# takes for those that a file does not have.
_COMMON: dict[str, Any] = {
  "head_dim": None,
  "num_key_value_heads": None,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-6,
  "rope_theta": 10_000.0,
  "rope_scaling": None,
  "rope_parameters": None,
  "tie_word_embeddings": False,
  "max_position_embeddings": 32_768,
  "layer_types": None,
  "torch_dtype": None,
  "dtype": None,
}
# Fields that only some families understand, with what stands for their absence.
# In a file of another family, transformers would leave them out of account.
_OFF: dict[str, Any] = {
  "hidden_activation": None,
  "rope_local_base_freq": None,
  "use_sliding_window": False,
  "sliding_window": None,
  "sliding_window_pattern": None,
  "query_pre_attn_scalar": 0,
  "attn_logit_softcapping": None,
  "final_logit_softcapping": None,
}
_REQUIRED = (
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
)


@dataclasses.dataclass(frozen=True)
class _Family:
  """What a model_type means.

  Attributes:
    architecture: the class of transformers.
    fixed: the fields of ModelConfig that it fixes.
    fields: the further fields of its files, and where it takes another default
      than `_COMMON`.
    period: of so many layers the last is global, if a file does not say which
      are; None for its sliding_window_pattern.
  """

  architecture: str
  fixed: Mapping[str, Any]
  fields: Mapping[str, Any]
  period: int | None = None


_QWEN = {
  "num_key_value_heads": 32,
  "use_sliding_window": False,
  "sliding_window": 4096,
}
_GEMMA_FIXED = {
  "activation": "gelu",
  "norm_plus_one": True,
  "qkv_bias": False,
  "scale_embeddings": True,
}
_GEMMA = {
  "head_dim": 256,
  "hidden_act": "gelu_pytorch_tanh",
  "hidden_activation": None,
  "tie_word_embeddings": True,
}
_FAMILIES = {
  "qwen2": _Family("Qwen2ForCausalLM", {"qkv_bias": True}, _QWEN),
  "qwen3": _Family(
    "Qwen3ForCausalLM",
    {"qkv_bias": False, "qk_norm": True},
    {**_QWEN, "head_dim": 128},
  ),
  "llama": _Family(
    "LlamaForCausalLM", {"qkv_bias": False}, {"max_position_embeddings": 2048}
  ),
  "mistral": _Family(
    "MistralForCausalLM",
    {"qkv_bias": False},
    {
      "num_key_value_heads": 8,
      "sliding_window": 4096,
      "max_position_embeddings": 131_072,
    },
    period=0,
  ),
  "gemma": _Family(
    "GemmaForCausalLM",
    _GEMMA_FIXED,
    {**_GEMMA, "num_key_value_heads": 16, "max_position_embeddings": 8192},
  ),
  "gemma2": _Family(
    "Gemma2ForCausalLM",
    {**_GEMMA_FIXED, "sandwich_norms": True},
    {
      **_GEMMA,
      "num_key_value_heads": 4,
      "query_pre_attn_scalar": 256,
      "attn_logit_softcapping": 50.0,
      "final_logit_softcapping": 30.0,
      "sliding_window": 4096,
      "max_position_embeddings": 8192,
    },
    period=2,
  ),
  "gemma3_text": _Family(
    "Gemma3ForCausalLM",
    {**_GEMMA_FIXED, "sandwich_norms": True, "qk_norm": True},
    {
      **_GEMMA,
      "vocab_size": 262_208,
      "num_attention_heads": 8,
      "num_key_value_heads": 4,
      "query_pre_attn_scalar": 256,
      "final_logit_softcapping": None,
      "sliding_window": 4096,
      "sliding_window_pattern": 6,
      "max_position_embeddings": 131_072,
      "rope_theta": 1_000_000.0,
      "rope_local_base_freq": 10_000.0,
    },
  ),
}
# Fields of a multimodal file that stand beside its text model's.
_OF_ALL_PARTS = ("torch_dtype", "dtype", "quantization_config", "auto_map")
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu"}


def from_hf_config(config: Mapping[str, Any]) -> ModelConfig:
  """Returns the model that a config.json describes.

  The compute dtype is bfloat16 unless the file says that the weights are
  float32. All other fields that say how a model is run have their defaults.

  Args:
    config: the parsed file. For a multimodal Gemma 3, its text model is taken.

  Raises:
    ValueError: an architecture or a field that is not supported, or a field
      that is missing; the message names it.
  """
  if config.get("model_type") == "gemma3":
    inherited = {k: config[k] for k in _OF_ALL_PARTS if k in config}
    text = config.get("text_config", {})
    if not isinstance(text, dict):
      raise hf_fields.refuse("text_config", text, "an object")
    config = {"model_type": "gemma3_text", **inherited, **text}
  kind = config.get("model_type")
  if not isinstance(kind, str) or kind not in _FAMILIES:
    classes = hf_fields.shown(config.get("architectures"))
    raise ValueError(
      f"model_type {hf_fields.shown(kind)} (architectures {classes}) is not "
      f"supported; there are {', '.join(_FAMILIES)}"
    )
  given = _checked(config, kind)
  windows = _windows(given, kind)
  has_local = "rope_local_base_freq" in _FAMILIES[kind].fields
  rope = hf_rope.read(given, config, has_local)
  if "rope_local_theta" in rope and not windows:
    # No layer is local, or local layers see everything.
    if given["sliding_window"]:
      del rope["rope_local_theta"]
    else:
      raise hf_fields.refuse(
        "sliding_window", given["sliding_window"], "there for local layers"
      )
  heads, width = given["num_attention_heads"], given["head_dim"]
  width = width or given["hidden_size"] // heads
  scalar = int(given["query_pre_attn_scalar"])
  dtype = str(given["torch_dtype"] or given["dtype"] or "bfloat16")
  return ModelConfig(
    vocab_size=given["vocab_size"],
    d_model=given["hidden_size"],
    n_layers=given["num_hidden_layers"],
    n_heads=heads,
    n_kv_heads=given["num_key_value_heads"] or heads,
    head_width=width,
    d_mlp=given["intermediate_size"],
    norm_epsilon=float(given["rms_norm_eps"]),
    query_scalar=0 if scalar == width else scalar,
    attention_softcap=float(given["attn_logit_softcapping"] or 0),
    logit_softcap=float(given["final_logit_softcapping"] or 0),
    tie_embeddings=given["tie_word_embeddings"],
    max_positions=given["max_position_embeddings"],
    dtype="float32" if dtype.endswith("float32") else "bfloat16",
    **_FAMILIES[kind].fixed,
    **windows,
    **rope,
  )


def _checked(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
  """Returns the fields that are understood, with defaults; refuses others."""
  own = {**_COMMON, **_FAMILIES[kind].fields}
  given = {**_OFF, **own} | {
    k: v for k, v in config.items() if v is not None or k in own
  }
  missing = [name for name in _REQUIRED if given.get(name) is None]
  if missing:
    raise ValueError(f"config.json lacks {', '.join(missing)}")
  hf_fields.check(given, _OFF | _COMMON)
  unknown = hf_fields.unknown(given, dict.fromkeys((*own, *_REQUIRED)))
  name = "hidden_activation" if given["hidden_activation"] else "hidden_act"
  activation = given[name]
  if kind.startswith("gemma") and (name, activation) == ("hidden_act", "gelu"):
    # Old files name a wrong activation; the code has always used this one.
    activation = "gelu_pytorch_tanh"
  wanted = _FAMILIES[kind].fixed.get("activation", "silu")
  if _ACTIVATIONS.get(activation) != wanted and name not in unknown:
    unknown.append(name)
  if unknown:
    raise ValueError(
      f"config.json of a {kind} has "
      + ", ".join(f"{name}={hf_fields.shown(given[name])}" for name in unknown)
      + ", which this program does not know how to compute; "
      + hf_fields.cures(unknown)
    )
  return given


def _windows(given: Mapping[str, Any], kind: str) -> dict[str, int]:
  """Sliding window and period of the global layers."""
  is_on = given["use_sliding_window"] or not kind.startswith("qwen")
  window, kinds = given["sliding_window"], given["layer_types"]
  if not (is_on and window):
    if kinds and set(kinds) != {"full_attention"}:
      raise hf_fields.refuse(
        "layer_types", kinds, "full_attention where there is no sliding window"
      )
    return {}
  period = _FAMILIES[kind].period
  if period is None:
    period = given["sliding_window_pattern"]
  if kinds and kind != "mistral":
    is_full = [x == "full_attention" for x in kinds]
    period = is_full.index(True) + 1 if any(is_full) else 0
  elif kind.startswith("qwen"):
    kinds = ["full_attention until max_window_layers"]
  elif period is None:
    raise hf_fields.refuse(
      "sliding_window_pattern", period, "there if layer_types is not"
    )
  expected = _layer_types(given["num_hidden_layers"], period)
  if kinds and list(kinds) != expected:
    raise ValueError(
      f"config.json has layer_types={hf_fields.shown(kinds)}; sliding "
      "windows are supported only in all layers, or in all but every n-th"
    )
  # With period 1 all layers are global, and none has the window.
  return (
    {} if period == 1 else {"sliding_window": window, "window_period": period}
  )


def _layer_types(layers: int, period: int) -> list[str]:
  return [
    "sliding_attention" if not period or i % period else "full_attention"
    for i in range(1, layers + 1)
  ]


def to_hf_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
  """Returns the config.json of a model, for weights of this dtype.

  Raises:
    ValueError: no supported architecture has this shape.
  """
  for kind, family in _FAMILIES.items():
    written = _write(config, kind, dtype)
    if all(getattr(config, k) == v for k, v in family.fixed.items()):
      left = differences(from_hf_config(written), config)
      if not left:
        return written
  raise ValueError(
    "no supported architecture of Hugging Face has this shape: "
    f"{config}; train a model of the zoo, or one like it"
  )


def _write(config: ModelConfig, kind: str, dtype: str) -> dict[str, Any]:
  is_gemma = kind.startswith("gemma")
  activation = "gelu_pytorch_tanh" if is_gemma else "silu"
  local = config.window_period if config.sliding_window else 1
  of_some = {
    "hidden_activation": activation,
    "query_pre_attn_scalar": config.query_scalar or config.head_width,
    "attn_logit_softcapping": config.attention_softcap or None,
    "final_logit_softcapping": config.logit_softcap or None,
    "rope_local_base_freq": config.rope_local_theta or config.rope_theta,
    "use_sliding_window": bool(config.sliding_window),
    "sliding_window": config.sliding_window or None,
    "sliding_window_pattern": local or config.n_layers + 1,
  }
  written = {
    "architectures": [_FAMILIES[kind].architecture],
    "model_type": kind,
    "vocab_size": config.vocab_size,
    "hidden_size": config.d_model,
    "num_hidden_layers": config.n_layers,
    "num_attention_heads": config.n_heads,
    "num_key_value_heads": config.n_kv_heads,
    "head_dim": config.head_width,
    "intermediate_size": config.d_mlp,
    "hidden_act": activation,
    "rms_norm_eps": config.norm_epsilon,
    "rope_theta": config.rope_theta,
    "rope_scaling": hf_rope.write_scaling(config.rope_scaling),
    "tie_word_embeddings": config.tie_embeddings,
    "max_position_embeddings": config.max_positions,
    "attention_bias": False,
    "torch_dtype": dtype,
    **{k: v for k, v in of_some.items() if k in _FAMILIES[kind].fields},
  }
  if kind == "llama":
    written["mlp_bias"] = False
  # A Mistral has one kind of layers.
  if "sliding_window" in written and kind != "mistral":
    written["layer_types"] = _layer_types(config.n_layers, local)
  return written
