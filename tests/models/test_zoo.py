# SPDX-License-Identifier: Apache-2.0
"""Published models have their published sizes."""

import dataclasses

import jax
import pytest
from flax import linen as nn

from srl_jax import config as config_lib
from srl_jax.models import LanguageModel, LoraConfig, lora
from srl_jax.models.hf_config import from_hf_config
from srl_jax.models.zoo import MODELS
from tests.support import families


@pytest.mark.parametrize(
  ("name", "parameters"),
  [
    # The numbers of elements that the files on the hub add up to; the technical
    # reports round them. Gemma 3's are without the vision tower.
    ("qwen2_5_0_5b", 494_032_768),
    ("qwen2_5_1_5b", 1_543_714_304),
    ("qwen2_5_math_1_5b", 1_543_714_304),
    ("qwen2_5_3b", 3_085_938_688),
    ("qwen2_5_7b", 7_615_616_512),
    ("qwen2_5_math_7b", 7_615_616_512),
    ("qwen2_5_14b", 14_770_033_664),
    ("qwen2_5_32b", 32_763_876_352),
    ("qwen3_0_6b", 596_049_920),
    ("qwen3_1_7b", 1_720_574_976),
    ("qwen3_4b", 4_022_468_096),
    ("qwen3_8b", 8_190_735_360),
    ("llama3_1_8b", 8_030_261_248),
    ("llama3_2_1b", 1_235_814_400),
    ("llama3_2_3b", 3_212_749_824),
    ("gemma2_2b", 2_614_341_888),
    ("gemma2_9b", 9_241_705_984),
    ("gemma2_27b", 27_227_128_320),
    ("gemma3_1b", 999_885_952),
    ("gemma3_4b", 3_880_263_168),
    ("gemma3_12b", 11_766_034_176),
    ("gemma3_27b", 27_009_346_304),
  ],
)
def test_a_model_has_the_published_number_of_parameters(name, parameters):
  model = LanguageModel(MODELS[name])
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == parameters


def test_the_largest_gemmas_divide_queries_by_the_width_per_head():
  for name, config in MODELS.items():
    per_head = config.d_model // config.n_heads
    # All others by the root of what a head has.
    assert config.query_scalar == (per_head if name.endswith("27b") else 0)


def test_adapters_are_beside_the_published_parameters():
  config = dataclasses.replace(MODELS["qwen2_5_7b"], lora=LoraConfig(rank=16))
  params = jax.eval_shape(LanguageModel(config).init, jax.random.key(0))
  adapters, rest = lora.split(nn.unbox(params))
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
  assert count(rest) == 7_615_616_512
  # By hand: 28 layers, rank 16, inputs and outputs of each matrix.
  pairs = [(3584, 3584)] * 2 + [(3584, 512)] * 2 + [(3584, 18_944)] * 3
  assert count(adapters) == 28 * 16 * sum(a + b for a, b in pairs)


def test_a_config_takes_the_shape_of_a_named_model():
  c = config_lib.default_config()
  config_lib.set_model(c, "gemma3_4b")
  assert config_lib.to_config(c).model == MODELS["gemma3_4b"]
  with pytest.raises(ValueError, match=r"no model 'qwen3'; choose one of qwen"):
    config_lib.set_model(c, "qwen3")


def test_a_config_takes_all_it_needs_from_a_checkpoint(tmp_path):
  folder = str(families.write(tmp_path / "x", "llama"))
  c = config_lib.default_config()
  config_lib.use_checkpoint(c, folder)
  config = config_lib.to_config(c)
  assert config.model == from_hf_config(families.CONFIGS["llama"])
  assert config.weights == config.tokenizer.path == folder
  assert config.tokenizer.kind == "huggingface"
