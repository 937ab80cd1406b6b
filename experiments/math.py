# SPDX-License-Identifier: Apache-2.0
"""SRL on step-by-step maths: does it lift a model off problems it cannot solve?

Presets (`--config=experiments/math.py:NAME`):
  embedded           the embedded task, SRL; minutes on a laptop (the default)
  embedded_rlvr      same student and problems, rewarded for final answers only
  embedded_srl_rlvr  SRL first, RLVR after
  embedded_sft       SFT on the expert's steps, which hold no thoughts

All four start from the student that ships with the package; the README says
which weaknesses were planted in it, and what to expect.
"""

from srl_jax import config

PRESETS = {
  "embedded": ("srl",),
  "embedded_rlvr": ("rlvr",),
  "embedded_srl_rlvr": ("srl", "rlvr"),
  "embedded_sft": ("sft",),
}


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "embedded", PRESETS)
  c = config.default_config()
  c.name = f"math:{preset}"
  c.stages = PRESETS[preset]
  c.weights = "embedded"
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.path = "embedded"
  c.data.format = "embedded"
  c.data.train_size = 1000
  c.data.valid_size = 64
  c.data.test_size = 200
  for stage in (c.srl, c.rlvr):
    stage.groups_per_batch = 32
    stage.validate_every = 10
    stage.optim.learning_rate = 5e-5
  c.srl.steps = 30
  c.srl.trunks_per_round = 8
  c.srl.trunks_per_micro_batch = 8
  c.srl.sampling.max_new_tokens = 48
  # One branch point per problem, so four times the problems per round. The
  # student hardly ever gets a whole problem right: groups are taken as they
  # come, for no number of rounds would fill a batch with ones that differ.
  c.rlvr.steps = 60
  c.rlvr.dynamic_sampling.enabled = False
  c.rlvr.trunks_per_round = 32
  c.rlvr.trunks_per_micro_batch = 32
  c.rlvr.sampling.max_new_tokens = 176
  c.sft.trunks_per_batch = 32
  c.sft.trunks_per_micro_batch = 32
  c.sft.instances.include_thoughts = False
  c.sft.validate_every = 10
  c.sft.optim.learning_rate = 3e-4
  c.evaluate.samples = 4
  c.evaluate.max_turns = 4
  c.evaluate.max_turn_tokens = 48
  c.evaluate.max_solve_tokens = 176
  c.evaluate.rows_per_batch = 100
  c.checkpoint.every_steps = 10
  c.log_every = 2
  config.override(c, overrides)
  return c
