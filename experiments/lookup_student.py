# SPDX-License-Identifier: Apache-2.0
"""Pre-trains the small student of experiments/lookup.py, from nothing.

It learns to repair easy issues, and on hard ones a planted habit of ending its
trace early (`PretrainingConfig` in srl_jax/domains/lookup/experts.py says how
often). The table at the end is of easy issues that it has not seen: how fluent
it is. It took 47 and 23 minutes, in two parts, on two cores that did other work
too; no files.

  srl_jax train --config=experiments/lookup_student.py --workdir=V
  srl_jax train --workdir=W --config=experiments/lookup_student.py:\
second,weights=V/model,tokenizer.path=V/model
  cp W/model/* srl_jax/assets/lookup_student

Presets: `first` begins, and `second` goes on from its model with other
examples, at a lower rate.

How fluent the student that ships is:
  --config=experiments/lookup_student.py:second,weights=lookup_student,\
tokenizer.path=lookup_student --config.stages='()'
"""

from srl_jax import config


def get_config(argument=None):
  presets = ("first", "second")
  preset, overrides = config.parse_argument(argument, "first", presets)
  c = config.default_config()
  c.name = f"lookup_student:{preset}"
  c.stages = ("sft",)
  c.data.format = "lookup_student"
  c.data.train_size = 20_000
  c.data.valid_size = 256
  c.data.test_size = 200
  c.tokenizer.kind = "sentencepiece"
  # More than there are characters, bytes and control tokens: it takes fewer.
  c.tokenizer.train_vocab_size = 512
  c.tokenizer.max_piece_chars = 1
  c.model.n_layers = 4
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
  if preset == "second":
    c.data.seed = 1
    c.tokenizer.train_vocab_size = 0
    c.sft.update_steps = 2500
    c.sft.optim.learning_rate = 2e-3
  c.evaluate.modes = ("turns",)
  c.evaluate.answers_per_batch = 200
  c.evaluate.max_turns = 16
  c.evaluate.max_turn_tokens = 40
  c.evaluate.max_solve_tokens = 256
  config.override(c, overrides)
  return c
