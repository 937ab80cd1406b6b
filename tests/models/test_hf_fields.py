# SPDX-License-Identifier: Apache-2.0
"""Entries of config.json that are wrong, harmless, or not supported."""

import itertools
import json
import time

import pytest

from srl_jax.models import hf_fields, hf_files
from srl_jax.models.hf_config import from_hf_config
from tests.support.families import CONFIGS

WRONG = (
  *(None, True, False, 0, -1, 1, 3, 7, 0.5, 10**6, 10**12, 10**400),
  *(float("nan"), float("inf"), -1e30, "", "x", "12", [], [1], [[]], [None]),
  *({}, {"a": 1}, {"rope_type": 5}, {"type": "linear"}, {"factor": "8"}),
  *({"rope_type": "llama3", "factor": float("nan")}, {"full_attention": 3}),
  json.loads("[" * 500 + "]" * 500),
)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_wrong_entry_is_one_error_that_names_it(tmp_path, family):
  config = CONFIGS[family]
  path = tmp_path / "config.json"
  fields = sorted({*config, "head_dim", "rope_scaling", "rope_parameters"})
  fields += ["layer_types", "dtype", "sliding_window", "model_type"]
  refused = 0
  start = time.monotonic()
  for field, value in itertools.product(fields, WRONG):
    path.write_text(json.dumps({**config, field: value}))
    try:
      hf_files.read_model_config(tmp_path)
    except ValueError as error:
      refused += 1
      said = str(error)
      assert said.startswith(str(path)) and len(said) < 700
      # Wrong sizes may be named by what they do not fit.
      fits = ("num_attention_heads", "num_hidden_layers", "layer_types")
      assert field in said or any(x in said for x in fits), said
  assert refused > len(fields) * len(WRONG) / 3
  assert time.monotonic() - start < 60


def test_a_second_name_of_the_sliding_window_must_say_the_same():
  # google/gemma-2-9b has both.
  config = CONFIGS["gemma2"] | {"sliding_window": 7}
  again = from_hf_config(config | {"sliding_window_size": 7})
  assert again == from_hf_config(config)
  for family, size in (("gemma2", 8), ("llama", 7)):
    with pytest.raises(ValueError, match=f"sliding_window_size={size}, which"):
      from_hf_config(CONFIGS[family] | {"sliding_window_size": size})


# What the config classes of transformers take where an entry is missing; of
# the type, what this package takes.
_ALL = {"rms_norm_eps": 1e-6, "torch_dtype": "bfloat16", "rope_scaling": None}
_QWEN = _ALL | {
  "max_position_embeddings": 32768,
  "rope_theta": 1e4,
  "tie_word_embeddings": False,
  "use_sliding_window": False,
  "sliding_window": 4096,
  "max_window_layers": 28,
  "attention_bias": False,
}
_GEMMA = _ALL | {
  "head_dim": 256,
  "max_position_embeddings": 8192,
  "hidden_activation": "gelu_pytorch_tanh",
  "tie_word_embeddings": True,
}
_GEMMA2 = _GEMMA | {
  "num_key_value_heads": 4,
  "sliding_window": 4096,
  "query_pre_attn_scalar": 256,
  "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0,
}
# 6 is the hidden size divided by the heads.
DEFAULTS = {
  "qwen2": _QWEN | {"head_dim": 6},
  "qwen2_tied": _QWEN | {"head_dim": 6},
  "qwen3": _QWEN | {"head_dim": 128},
  "llama": _ALL
  | {
    "num_key_value_heads": 4,  # As many as heads.
    "head_dim": 6,
    "max_position_embeddings": 2048,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "mlp_bias": False,
  },
  "mistral": _ALL
  | {
    "head_dim": 6,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
  },
  "gemma": _GEMMA | {"hidden_act": "gelu_pytorch_tanh"},
  "gemma2": _GEMMA2,
  "gemma3": _GEMMA2
  | {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window_pattern": 6,
  },
}


@pytest.mark.parametrize("family", CONFIGS)
def test_a_missing_entry_is_named_or_has_its_default(family):
  config, defaults = CONFIGS[family], DEFAULTS[family]
  refused = set()
  for field in config:
    rest = {k: v for k, v in config.items() if k != field}
    try:
      found = from_hf_config(rest)
    except ValueError as error:
      assert field in str(error) or "head" in str(error), field
      refused.add(field)
    else:
      assert found == from_hf_config(config | {field: defaults[field]}), field
  assert refused == config.keys() - defaults.keys()


@pytest.mark.parametrize(
  "text",
  ["", "{", "[]", "3", "null", "[" * 10**6, '{"a":' * 10**5, "\x00", "{} {}"],
)
def test_a_file_that_is_no_object_is_named(tmp_path, text):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match=r"config\.json: (not JSON|holds no)"):
    hf_files.read_model_config(tmp_path)


def test_each_ignored_field_is_listed_once_and_known_nowhere_else():
  names = [name for group in hf_fields._IGNORED.values() for name in group]
  assert len(names) == len(set(names))
  assert all(len(name) > 3 for name in names)
  assert not hf_fields.IGNORED & hf_fields._LIMITS.keys()
  assert not hf_fields.IGNORED & hf_fields.HARMLESS_VALUES.keys()


HARMLESS = {
  "_name_or_path": "unsloth/Llama-3.2-1B",
  "unsloth_fixed": True,
  "unsloth_version": "2026.3.3",
  "transformers.js_config": {"dtype": "q4"},
  "_attn_implementation_autoset": True,
  "is_llama_config": True,
  "rope_interleaved": False,
  "use_mrope": False,
  "pretraining_tp": 4,
  "use_cache": False,
  "neftune_noise_alpha": 5.0,
  "partial_rotary_factor": 1.0,
  "max_length": 20,
  "temperature": 0.7,
  "id2label": {"0": "LABEL_0"},
  "quantization_config": None,
}


@pytest.mark.parametrize("family", CONFIGS)
def test_fields_that_change_no_number_are_ignored(family):
  config = CONFIGS[family]
  assert from_hf_config(config | HARMLESS) == from_hf_config(config)


@pytest.mark.parametrize(
  ("field", "value", "cure"),
  [
    ("rope_interleaved", True, "use a checkpoint without"),
    ("use_mrope", True, "use a checkpoint without"),
    ("logits_scaling", 8.0, "use a checkpoint without"),
    ("partial_rotary_factor", 0.5, "use a checkpoint without"),
    ("use_bidirectional_attention", True, "use a checkpoint without"),
    ("is_decoder", "yes", "use a checkpoint without"),
    ("auto_map", {"AutoModel": "m.M"}, "code of its own"),
    ("quantization_config", {"quant_method": "gptq"}, "are quantised: use"),
  ],
)
@pytest.mark.parametrize("family", CONFIGS)
def test_fields_that_could_change_a_number_are_refused(
  family, field, value, cure
):
  with pytest.raises(ValueError, match=rf"{field}=.*{cure}"):
    from_hf_config(CONFIGS[family] | {field: value})


def test_a_quantised_multimodal_checkpoint_is_refused_by_its_text_model():
  text = CONFIGS["gemma3"]
  config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
  assert from_hf_config(config) == from_hf_config(text)
  with pytest.raises(ValueError, match="quantization_config="):
    from_hf_config(config | {"quantization_config": {"bits": 4}})
  with pytest.raises(ValueError, match="text_config=5, but it must be an obj"):
    from_hf_config(config | {"text_config": 5})


@pytest.mark.parametrize(
  ("parameters", "message"),
  [
    ({"rope_type": "linear"}, "lacks factor in rope_scaling of type 'linear'"),
    ({"rope_type": "llama3", "factor": 8.0}, "lacks low_freq_factor"),
    ({"rope_type": "linear", "factor": "2"}, "rope_scaling.factor='2'"),
    ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary"),
    ({"rope_type": "default", "mrope_section": [1, 2]}, "mrope_section"),
    ({"rope_type": "longrope", "short_factor": [1.0]}, "of type 'longrope'"),
  ],
)
def test_parameters_of_the_rotary_embedding_are_checked(parameters, message):
  with pytest.raises(ValueError, match=message):
    from_hf_config(CONFIGS["qwen3"] | {"rope_scaling": parameters})
