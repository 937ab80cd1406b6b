# SPDX-License-Identifier: Apache-2.0
"""Published models have their published sizes."""

import jax
import pytest

from srl_jax import config as config_lib
from srl_jax.models import LanguageModel
from srl_jax.models.zoo import MODELS


@pytest.mark.parametrize(
  ("name", "parameters"),
  [
    # The safetensors metadata of Qwen/Qwen2.5-*B-Instruct; the technical
    # report (arXiv 2412.15115) rounds to 0.49, 1.54, 3.09 and 7.61 billion.
    ("qwen2_5_0_5b", 494_032_768),
    ("qwen2_5_1_5b", 1_543_714_304),
    ("qwen2_5_3b", 3_085_938_688),
    ("qwen2_5_7b", 7_615_616_512),
  ],
)
def test_a_model_has_the_published_number_of_parameters(name, parameters):
  model = LanguageModel(MODELS[name])
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == parameters


def test_a_config_takes_the_shape_of_a_named_model():
  c = config_lib.default_config()
  config_lib.set_model(c, "qwen2_5_1_5b")
  assert config_lib.to_config(c).model == MODELS["qwen2_5_1_5b"]
  with pytest.raises(ValueError, match=r"no model 'qwen3'; choose one of qwen"):
    config_lib.set_model(c, "qwen3")
