# SPDX-License-Identifier: Apache-2.0
"""Pre-trains the small student of experiments/lookup.py, from nothing.

It learns to repair easy issues, and on hard ones a planted habit of ending its
trace early (`PretrainingConfig` in srl_jax/domains/lookup/experts.py says how
often). The table at the end is of easy issues that it has not seen: how fluent
it is. About half an hour on one core; no files.

  python -m srl_jax.main --config=experiments/lookup_student.py --workdir=W
  cp W/model/* srl_jax/assets/embedded_lookup

Another seed, with the tokenizer of the first (its ids must not move):
  --config=experiments/lookup_student.py:seed=1,data.seed=1,\
tokenizer.path=embedded_lookup,tokenizer.train_vocab_size=0

How fluent the student that ships is:
  --config=experiments/lookup_student.py:weights=embedded_lookup,\
tokenizer.path=embedded_lookup,tokenizer.train_vocab_size=0 --config.stages='()'
"""

from srl_jax import config


def get_config(argument=None):
  _, overrides = config.parse_argument(argument, "student", ("student",))
  c = config.default_config()
  c.name = "lookup_student"
  c.stages = ("sft",)
  c.data.format = "lookup_student"
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
  c.sft.validation_trunks = 128
  c.sft.optim.learning_rate = 3e-3
  c.sft.optim.warmup_ratio = 0.05
  c.log_every = 50
  c.evaluate.modes = ("turns",)
  c.evaluate.rows_per_batch = 200
  c.evaluate.max_turns = 14
  c.evaluate.max_turn_tokens = 32
  c.evaluate.max_solve_tokens = 192
  config.override(c, overrides)
  return c
