# SPDX-License-Identifier: Apache-2.0
"""The parts of a run are made as its config says."""

from srl_jax import loading
from srl_jax.config import Config
from srl_jax.testing.tiny import small_mesh
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
