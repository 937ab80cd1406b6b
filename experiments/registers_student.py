# SPDX-License-Identifier: Apache-2.0
"""Pre-trains the small student that ships with the package, from nothing.

It learns easy register programs done right, and hard ones with a planted
habit of stopping the thought early (`PretrainingConfig` in
srl_jax/domains/registers.py says how often). The test table at the end shows
how well it does on hard problems: badly, as it was taught to. 24 minutes on one
core of a laptop class machine; no files.

  srl_jax train --config=experiments/registers_student.py --workdir=W
  cp W/model/* srl_jax/assets/registers_student

Another seed, with the tokenizer of the first (its ids must not move):
  --config=experiments/registers_student.py:seed=1,data.seed=1,\
tokenizer.path=registers_student,tokenizer.train_vocab_size=0
"""

from srl_jax import config


def get_config(argument=None):
  _, overrides = config.parse_argument(argument, "student", ("student",))
  c = config.default_config()
  c.name = "registers_student"
  c.stages = ("sft",)
  c.data.format = "registers_student"
  c.data.train_size = 20_000
  c.data.valid_size = 256
  c.data.test_size = 200
  c.tokenizer.kind = "sentencepiece"
  # More than there are characters, bytes and control tokens: it takes fewer.
  c.tokenizer.train_vocab_size = 512
  c.tokenizer.max_piece_chars = 1
  c.sft.update_steps = 3500
  c.sft.trunks_per_batch = 32
  c.sft.trunks_per_micro_batch = 32
  c.sft.trunks.points_per_trunk = 4
  c.sft.alternate_solve = True
  c.sft.validate_every = 250
  c.sft.validation_trajectories = 128
  c.sft.optim.learning_rate = 3e-3
  c.sft.optim.warmup_ratio = 0.05
  c.log_every = 50
  c.evaluate.max_turns = 4
  c.evaluate.max_turn_tokens = 48
  c.evaluate.max_solve_tokens = 192
  config.override(c, overrides)
  return c
