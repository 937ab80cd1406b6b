# SPDX-License-Identifier: Apache-2.0
"""The fields of a config.json: their types and limits, and what to ignore.

hf_config.py says what the fields mean. A field that is neither known there nor
ignored here is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

# Fields that cannot change a number computed here: reason -> names.
# The rotary embedding has no length, and "max_window_layers" means nothing once
# sliding windows are off.
_IGNORED: dict[str, tuple[str, ...]] = {
  "the model's name, or which program wrote the file": (
    *("_name_or_path", "_commit_hash", "architectures", "model_type", "name"),
    *("transformers_version", "unsloth_version", "unsloth_fixed"),
    *("internal_version", "version"),
    *("is_llama_config", "auto_mapping", "tokenizer_class", "license"),
    *("transformers.js_config", "onnx", "task_specific_params", "prefix"),
    *("finetuning_task", "problem_type", "id2label", "label2id"),
    "num_labels",
  ),
  "ids of tokens; srl_jax.tokenizers reads those that matter": (
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"),
    *("sep_token_id", "decoder_start_token_id", "ignore_pad_tokens"),
    *("boi_token_index", "eoi_token_index", "image_token_index"),
    *("image_token_id", "mm_tokens_per_image"),
  ),
  "how to train: initial weights, dropout, memory, noise, losses": (
    *("initializer_range", "attention_dropout", "hidden_dropout"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout"),
    *("gradient_checkpointing", "neftune_noise_alpha"),
    *("output_router_logits", "pretraining_tp", "bf16", "fp16", "fp32"),
    *("use_bfloat16", "loss_type", "use_liger_kernel"),
  ),
  "how to run: caches, kernels, what is returned": (
    *("use_cache", "cache_implementation", "_attn_implementation"),
    *("attn_implementation", "_attn_implementation_autoset"),
    *("_attn_implementation_internal", "use_flash_attn"),
    *("use_flash_attention", "return_dict", "output_attentions"),
    *("output_hidden_states", "torchscript", "chunk_size_feed_forward"),
    *("tf_legacy_loss", "keys_to_ignore_at_inference"),
    "use_cache_quantization",
  ),
  "how to sample, beside the model's shape in older files": (
    *("max_length", "min_length", "max_new_tokens", "do_sample", "num_beams"),
    *("num_beam_groups", "diversity_penalty", "early_stopping"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "bad_words_ids"),
    *("encoder_no_repeat_ngram_size", "num_return_sequences"),
    *("output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "suppress_tokens"),
    *("begin_suppress_tokens", "exponential_decay_length_penalty"),
  ),
  "lengths that a tokenizer or a server keeps to; without meaning here": (
    *("model_max_length", "max_sequence_length", "seq_length"),
    *("max_window_layers", "_sliding_window_pattern"),
  ),
}
IGNORED = frozenset(itertools.chain(*_IGNORED.values()))
# These change nothing with one value. Others are refused.
HARMLESS_VALUES: dict[str, tuple[Any, ...]] = {
  "partial_rotary_factor": (1,),
  "is_causal": (True,),
  "is_decoder": (True, False),
}
# Second names, which transformers leaves out of account.
_SAME = {"sliding_window_size": "sliding_window"}
_QUANTISED = (
  "the weights are quantised: use the checkpoint that they were made from, or "
  "write them out in bfloat16 (transformers: model.dequantize(), then "
  "save_pretrained); if they are bfloat16 already, as after merging adapters, "
  "remove the field"
)
# What to type for fields that are often there and are not supported.
_CURES = {
  "quantization_config": _QUANTISED,
  "quantization": _QUANTISED,
  "compression_config": _QUANTISED,
  "auto_map": "the model has code of its own, which is not run here",
}


def shown(value: Any) -> str:
  """Returns a value for a message, cut if it is long."""
  try:
    text = repr(value)
  except (RecursionError, ValueError):  # int too long for a string
    text = f"a {type(value).__name__} that cannot be shown"
  return text if len(text) <= 80 else text[:80] + ".."


def refuse(field: str, value: Any, allowed: str) -> ValueError:
  """Returns the error for a field's value."""
  return ValueError(
    f"config.json has {field}={shown(value)}, but it must be {allowed}; fetch "
    "the file again, or mend the field there"
  )


def _whole(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
  return (
    lambda x: type(x) is int and low <= x <= high,
    f"a whole number from {low:,} to {high:,}",
  )


def _number(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
  return (
    lambda x: type(x) in (int, float) and low < x <= high and math.isfinite(x),
    f"a number over {low:g}, up to {high:g}",
  )


_FLAG = (lambda x: isinstance(x, bool), "true or false")
_TEXT = (lambda x: isinstance(x, str), "a string")
_TEXTS = (
  lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
  "a list of strings",
)
_OBJECT = (lambda x: isinstance(x, dict), "an object")
_THETA = _number(0, 1e12)
# Far beyond every published model, and small enough that a wrong entry costs
# neither time nor memory.
_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
  "vocab_size": _whole(1, 1 << 24),
  "hidden_size": _whole(1, 1 << 18),
  "intermediate_size": _whole(1, 1 << 20),
  "num_hidden_layers": _whole(1, 1 << 10),
  "num_attention_heads": _whole(1, 1 << 12),
  "num_key_value_heads": _whole(1, 1 << 12),
  "head_dim": _whole(2, 1 << 12),
  "max_position_embeddings": _whole(1, 1 << 30),
  "sliding_window": _whole(0, 1 << 30),
  "sliding_window_pattern": _whole(0, 1 << 10),
  "query_pre_attn_scalar": (
    lambda x: type(x) in (int, float) and 0 <= x <= 1 << 20 and x == int(x),
    "a whole number",
  ),
  "rms_norm_eps": (
    lambda x: type(x) in (int, float) and 0 < x < 1,
    "a number above 0, below 1",
  ),
  "rope_theta": _THETA,
  "rope_local_base_freq": _THETA,
  "attn_logit_softcapping": _number(0, 1e6),
  "final_logit_softcapping": _number(0, 1e6),
  "tie_word_embeddings": _FLAG,
  "use_sliding_window": _FLAG,
  "hidden_act": _TEXT,
  "hidden_activation": _TEXT,
  "torch_dtype": _TEXT,
  "dtype": _TEXT,
  "layer_types": _TEXTS,
  "rope_scaling": _OBJECT,
  "rope_parameters": _OBJECT,
}
# transformers 5 writes null where rope_parameters and layer_types say it.
_NULLABLE = ("rope_theta", "sliding_window_pattern")
_ROPE_LIMITS = {
  "factor": _number(0, 1e6),
  "low_freq_factor": _number(0, 1e6),
  "high_freq_factor": _number(0, 1e6),
  "original_max_position_embeddings": _whole(1, 1 << 30),
  "rope_theta": _THETA,
  "rope_type": _TEXT,
  "type": _TEXT,
}


def check(given: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
  """Checks the types and limits of the known fields.

  Args:
    given: the fields with their defaults.
    optional: the defaults; null is allowed where the default is null.

  Raises:
    ValueError: names the first field with a wrong value, and what is allowed.
  """
  for field, (is_right, allowed) in _LIMITS.items():
    value = given.get(field)
    if value is None and (field in _NULLABLE or optional.get(field, 0) is None):
      continue
    # Some files have 0 for off.
    if value == 0 and type(value) in (int, float) and "softcap" in field:
      continue
    if not is_right(value):
      raise refuse(field, value, allowed)
  heads, groups = given["num_attention_heads"], given["num_key_value_heads"]
  if groups is not None and heads % groups:
    raise refuse(
      "num_key_value_heads", groups, f"a divisor of num_attention_heads={heads}"
    )
  if given["head_dim"] is None and given["hidden_size"] % (2 * heads):
    raise refuse(
      "hidden_size",
      given["hidden_size"],
      f"a multiple of twice num_attention_heads={heads}, or head_dim be there",
    )
  if (given["head_dim"] or 2) % 2:
    raise refuse("head_dim", given["head_dim"], "an even number")
  kinds, layers = given["layer_types"], given["num_hidden_layers"]
  if kinds and len(kinds) != layers:
    raise refuse(
      "layer_types", kinds, f"a list of num_hidden_layers={layers} strings"
    )
  for field in ("rope_scaling", "rope_parameters"):
    check_rope(field, given[field] or {})


def check_rope(field: str, parameters: Mapping[str, Any]) -> None:
  """Checks the parameters of a rotary embedding, also by kind of layer."""
  for name, value in parameters.items():
    where = f"{field}.{name}"
    if name in ("full_attention", "sliding_attention"):
      if value is not None and not isinstance(value, dict):
        raise refuse(where, value, "an object")
      check_rope(where, value or {})
    elif name in _ROPE_LIMITS:
      is_right, allowed = _ROPE_LIMITS[name]
      if value is not None and not is_right(value):
        raise refuse(where, value, allowed)
    elif not _is_harmless(name, value):
      kind = parameters.get("rope_type", parameters.get("type", "default"))
      if kind in ("default", "linear", "llama3"):
        raise refuse(where, value, "absent: it is not supported")


def unknown(given: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
  """Returns the fields that could change a number and are not understood.

  A field that is off (null, false, 0) changes nothing, whatever it is for.
  Neither does what a known field says too.
  """
  return [
    field
    for field, value in given.items()
    if field not in known
    and field not in IGNORED
    and not _is_harmless(field, value)
    and not (field in _SAME and value == given[_SAME[field]])
  ]


def _is_harmless(field: str, value: Any) -> bool:
  if value is None:
    return True
  return (
    value in HARMLESS_VALUES[field] if field in HARMLESS_VALUES else not value
  )


def cures(fields: list[str]) -> str:
  """Returns what to do about fields that are not supported."""
  found = dict.fromkeys(_CURES[field] for field in fields if field in _CURES)
  return "; ".join(
    found
    or ["use a checkpoint without, or remove the field if it changes nothing"]
  )
