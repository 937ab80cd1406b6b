# SPDX-License-Identifier: Apache-2.0
"""config.json files become the model that they describe, or are refused."""

import dataclasses

import pytest

from srl_jax.models import ModelConfig, RopeScaling
from srl_jax.models.config import differences
from srl_jax.models.hf_config import from_hf_config, to_hf_config
from srl_jax.models.zoo import MODELS
from tests.support.families import CONFIGS

# As published, with the fields that say nothing about the numbers.
QWEN2_5_7B = {
  "architectures": ["Qwen2ForCausalLM"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "hidden_act": "silu",
  "hidden_size": 3584,
  "initializer_range": 0.02,
  "intermediate_size": 18944,
  "max_position_embeddings": 32768,
  "max_window_layers": 28,
  "model_type": "qwen2",
  "num_attention_heads": 28,
  "num_hidden_layers": 28,
  "num_key_value_heads": 4,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 131072,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.43.1",
  "use_cache": True,
  "use_sliding_window": False,
  "vocab_size": 152064,
}
LLAMA3_2_3B = {
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": False,
  "attention_dropout": 0.0,
  "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009],
  "head_dim": 128,
  "hidden_act": "silu",
  "hidden_size": 3072,
  "initializer_range": 0.02,
  "intermediate_size": 8192,
  "max_position_embeddings": 131072,
  "mlp_bias": False,
  "model_type": "llama",
  "num_attention_heads": 24,
  "num_hidden_layers": 28,
  "num_key_value_heads": 8,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
  },
  "rope_theta": 500000.0,
  "tie_word_embeddings": True,
  "torch_dtype": "bfloat16",
  "vocab_size": 128256,
}
# Of the multimodal models only what differs from the defaults is published.
GEMMA3_4B = {
  "architectures": ["Gemma3ForConditionalGeneration"],
  "model_type": "gemma3",
  "text_config": {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "model_type": "gemma3_text",
    "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
  },
  "torch_dtype": "bfloat16",
  "vision_config": {"hidden_size": 1152},
}


@pytest.mark.parametrize(
  ("config", "name"),
  [
    (QWEN2_5_7B, "qwen2_5_7b"),
    (LLAMA3_2_3B, "llama3_2_3b"),
    (GEMMA3_4B, "gemma3_4b"),
  ],
)
def test_published_files_are_the_models_of_the_zoo(config, name):
  assert from_hf_config(config) == MODELS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_zoo_is_written_and_read_again(name):
  assert from_hf_config(to_hf_config(MODELS[name], "bfloat16")) == MODELS[name]


# As transformers 5 writes them, in place of what 4 had.
NEW_FORM = {
  "llama": {
    "rope_theta": None,
    "rope_scaling": None,
    "rope_parameters": {
      **CONFIGS["llama"]["rope_scaling"],
      "rope_theta": 5e5,
    },
    "layer_types": ["full_attention"] * 3,
    "torch_dtype": None,
    "dtype": "float32",
  },
  "qwen2_tied": {
    "rope_theta": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_window": None,
    "layer_types": ["full_attention"] * 3,
  },
  "gemma2": {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
  },
  "gemma3": {
    "rope_theta": None,
    "rope_local_base_freq": None,
    "rope_scaling": None,
    "rope_parameters": {
      "full_attention": {
        "rope_type": "linear",
        "factor": 8.0,
        "rope_theta": 1e6,
      },
      "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
    "sliding_window_pattern": None,
    "_sliding_window_pattern": 6,
    "layer_types": [
      *["sliding_attention"] * 5,
      "full_attention",
      "sliding_attention",
    ],
  },
}


@pytest.mark.parametrize("family", NEW_FORM)
def test_the_newer_spelling_says_the_same(family):
  old = CONFIGS[family]
  assert from_hf_config(old | NEW_FORM[family]) == from_hf_config(old)


LOCAL = {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 3}


@pytest.mark.parametrize("changes", [{}, LOCAL], ids=["all", "local"])
@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_read_can_be_written_again(family, changes):
  is_qwen = family.startswith("qwen")
  read = from_hf_config(CONFIGS[family] | (changes if is_qwen else {}))
  written = to_hf_config(read, "float32")
  assert from_hf_config(written) == read
  kind = CONFIGS[family]["model_type"]
  assert written["model_type"] == kind
  assert written["architectures"][0].lower().startswith(kind.split("_")[0])


def test_fields_are_what_they_should_be():
  found = from_hf_config(CONFIGS["gemma3"])
  assert found.is_local() == (True,) * 5 + (False, True)
  assert found.rope_scaling == RopeScaling("linear", factor=8.0)
  assert (found.rope_theta, found.rope_local_theta) == (1e6, 1e4)
  # Divided by the root of the head width anyway.
  assert found.query_scalar == 0
  found = from_hf_config(CONFIGS["gemma2"])
  assert found.is_local() == (True, False, True)
  assert (found.query_scalar, found.attention_softcap) == (6, 2)
  assert from_hf_config(CONFIGS["qwen2_tied"]).is_local() is None
  config = dict(QWEN2_5_7B)
  del config["torch_dtype"]
  assert from_hf_config(config).dtype == "bfloat16"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
      r"model_type 'mixtral' \(architectures \['MixtralForCausalLM'\]\) is not "
      "supported; there are qwen2, qwen3, llama, mistral, gemma, gemma2, ",
    ),
    ({"hidden_size": None}, "config.json lacks hidden_size"),
    (
      {"attention_bias": True, "quantization_config": {"bits": 4}},
      r"a qwen2 has attention_bias=True, quantization_config={'bits': 4}, ",
    ),
    ({"hidden_act": "relu"}, "hidden_act='relu'"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    (
      {"rope_scaling": {"type": "yarn", "factor": 4.0}},
      "rope_scaling of type 'yarn'; there are 'default', 'linear' and 'llama3'",
    ),
    ({"use_sliding_window": True}, "windows are supported only in all layers"),
  ],
)
def test_what_is_not_supported_is_named(changes, message):
  with pytest.raises(ValueError, match=message):
    from_hf_config(QWEN2_5_7B | changes)


# transformers leaves these out of account, whatever their author meant.
OF_OTHER_FAMILIES = {
  "llama": {
    "hidden_activation": "silu",
    "rope_local_base_freq": 100.0,
    "use_sliding_window": True,
    "sliding_window": 7,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 6,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 2.0,
  },
  "mistral": {"use_sliding_window": True, "sliding_window_pattern": 2},
  "gemma": {"sliding_window": 7, "query_pre_attn_scalar": 6},
  "qwen2": {"sliding_window_pattern": 2, "attn_logit_softcapping": 2.0},
  "qwen3": {"query_pre_attn_scalar": 6, "final_logit_softcapping": 2.0},
  "gemma2": {"sliding_window_pattern": 3, "rope_local_base_freq": 100.0},
  "gemma3": {"attn_logit_softcapping": 2.0},
}


@pytest.mark.parametrize(
  ("family", "field", "value"),
  [(a, b, c) for a, x in OF_OTHER_FAMILIES.items() for b, c in x.items()],
)
def test_a_field_of_other_families_is_refused_unless_it_is_off(
  family, field, value
):
  config = CONFIGS[family]
  with pytest.raises(ValueError, match=f" has {field}=.*not know how to comp"):
    from_hf_config(config | {field: value})
  assert from_hf_config(config | {field: None}) == from_hf_config(config)


@pytest.mark.parametrize("family", ["llama", "qwen2_tied", "qwen3", "gemma"])
def test_local_layers_without_a_window_are_refused(family):
  kinds = ["full_attention", "sliding_attention", "full_attention"]
  with pytest.raises(ValueError, match=r"layer_types=.* full_attention where"):
    from_hf_config(CONFIGS[family] | {"layer_types": kinds})


def test_which_layers_are_local_is_never_guessed():
  config = CONFIGS["mistral"]
  assert from_hf_config(config).is_local() == (True, True, True)
  assert from_hf_config(config | {"sliding_window": None}).is_local() is None
  # transformers has no such thing in a Mistral, and would not look at it.
  kinds = ["sliding_attention", "full_attention", "sliding_attention"]
  with pytest.raises(ValueError, match=r"layer_types=.* only in all layers"):
    from_hf_config(config | {"layer_types": kinds})
  config = CONFIGS["gemma2"]
  assert "sliding_window_pattern" not in config
  assert from_hf_config(config).is_local() == (True, False, True)
  config = CONFIGS["gemma3"] | {"sliding_window_pattern": None}
  with pytest.raises(ValueError, match="pattern=None, but it must be there if"):
    from_hf_config(config)


def test_the_activation_of_gemma_is_the_one_that_it_has_always_had():
  for family in ("gemma", "gemma2", "gemma3"):
    rest = CONFIGS[family] | {"hidden_activation": None}
    del rest["hidden_activation"]
    for name in ("gelu", "gelu_pytorch_tanh"):
      assert from_hf_config(rest | {"hidden_act": name}).activation == "gelu"
    for field in ("hidden_act", "hidden_activation"):
      with pytest.raises(ValueError, match=f"{field}='silu'"):
        from_hf_config(rest | {field: "silu"})
  with pytest.raises(ValueError, match="hidden_activation='gelu'"):
    from_hf_config(rest | {"hidden_activation": "gelu"})


def test_layers_without_a_period_are_refused():
  kinds = ["full_attention", "sliding_attention", "sliding_attention"]
  with pytest.raises(ValueError, match=r"layer_types=.*, or in all but every"):
    from_hf_config(CONFIGS["gemma2"] | {"layer_types": kinds})


def test_a_shape_of_no_architecture_is_not_written():
  shape = dataclasses.replace(MODELS["qwen3_4b"], qkv_bias=True)
  with pytest.raises(ValueError, match="no supported architecture of Hugging"):
    to_hf_config(shape, "bfloat16")


def test_how_a_model_is_run_makes_no_difference_to_its_weights():
  a = ModelConfig(vocab_size=10)
  b = dataclasses.replace(a, dtype="bfloat16", remat="none", max_positions=9)
  assert not differences(a, b)
  b = dataclasses.replace(a, norm_epsilon=1e-5)
  assert differences(a, b) == ["norm_epsilon is 1e-06 there and 1e-05 here"]
