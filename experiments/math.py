# SPDX-License-Identifier: Apache-2.0
"""SRL on step-by-step maths: does it lift a model off problems it cannot solve?

Presets (`--config=experiments/math.py:NAME`):
  embedded        the embedded task: a 0.2M student, minutes on a laptop
  embedded_rlvr   the same student and budget, rewarded for final answers only
"""

from srl_jax import config


def get_config(argument=None):
  preset, overrides = config.parse_argument(
    argument, default="embedded", presets=("embedded", "embedded_rlvr")
  )
  c = config.default_config()
  c.name = f"math:{preset}"
  _embedded(c)
  if preset == "embedded_rlvr":
    c.stages = ("rlvr",)
  config.override(c, overrides)
  return c


def _embedded(c):
  c.weights = "embedded"
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.path = "embedded"
  c.data.format = "embedded"
  c.data.train_size = 1000
  c.data.valid_size = 100
  c.data.test_size = 200
  c.evaluate.max_turns = 4
  c.evaluate.max_turn_tokens = 48
  c.evaluate.max_solve_tokens = 192
  for stage in (c.srl, c.rlvr):
    stage.steps = 100
    stage.groups_per_batch = 32
    stage.trunks_per_round = 16
    stage.trunks_per_micro_batch = 16
    stage.optim.learning_rate = 1e-3
  c.srl.sampling.max_new_tokens = 48
  c.rlvr.sampling.max_new_tokens = 192
