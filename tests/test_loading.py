# SPDX-License-Identifier: Apache-2.0
"""The parts of a run are made as its config says."""

import jax
import pytest

from srl_jax import loading
from srl_jax.config import Config
from srl_jax.testing.tiny import small_mesh
from srl_jax.tokenizers import TokenizerConfig
from srl_jax.trajectory import Step


def test_templates_of_a_run_show_as_much_of_an_observation_as_it_says():
  step = Step("ls", observation="x" * 50)

  def shown(tokens):
    config = Config(observation_tokens=tokens)
    run = loading.load_model(config, small_mesh())
    [text] = run.template.step(step, 1)
    return text

  assert "x" * 50 in shown(0)
  assert "xx\n[... 46 characters are left out ...]\nxx" in shown(4)


def test_of_a_tokenizer_file_all_that_is_beside_it_is_kept(families):
  folder = families("qwen2_5")
  configs = [
    TokenizerConfig("huggingface", str(path))
    for path in (folder, folder / "tokenizer.json")
  ]
  of_folder, of_file = map(loading._tokenizer_files, configs)
  assert of_file == of_folder
  names = {path.name for path in of_file}
  assert {"tokenizer.json", "tokenizer_config.json"} <= names


@pytest.mark.parametrize(
  ("dtype", "platform", "precision"),
  [
    ("float32", "tpu", "highest"),
    ("bfloat16", "tpu", None),
    ("float32", "cpu", None),
  ],
)
def test_a_tpu_multiplies_float32_in_float32(dtype, platform, precision):
  try:
    loading.compute_exactly(dtype, platform)
    assert jax.config.jax_default_matmul_precision == precision
  finally:
    jax.config.update("jax_default_matmul_precision", None)
