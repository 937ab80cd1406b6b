# SPDX-License-Identifier: Apache-2.0
"""SRL on real text: does it lift a small model beyond its SFT warm start?

A 0.9M-parameter model starts from nothing: SFT on one part of GSM8K (its
thoughts are the calculator annotations, "48/2=24"), then SRL on another part.
What to look at is the similarity of single steps on held-out problems; a
model of this size solves next to none of them.

  srl_jax train --config=experiments/gsm8k.py \
    --config.data.path=PATH/gsm8k_train.jsonl

The hub's folder has a test split of its own: with its path, also give
--config.data.test_size=0.

Presets: small (default; 35 minutes on one core).
"""

from srl_jax import config


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "small", ("small",))
  c = config.default_config()
  c.name = f"gsm8k:{preset}"
  c.stages = ("sft", "srl")
  c.data.format = "gsm8k"
  c.data.calculator_thoughts = True
  c.data.pretrain_size = 4000
  c.data.valid_size = 200
  c.data.test_size = 300
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.train_vocab_size = 1024
  c.model.d_model = 128
  c.model.n_layers = 4
  c.model.head_width = 32
  c.model.d_mlp = 384
  # A few per cent of the problems are longer.
  for stage in (c.sft, c.srl):
    stage.trunks.max_trunk_tokens = 224
    stage.trunks.max_target_tokens = 72
    stage.trunks.points_per_trunk = 4
    stage.trunks_per_micro_batch = 16
    stage.validation_trajectories = 64
  c.sft.split = "pretrain"
  c.sft.update_steps = 500
  c.sft.trunks_per_batch = 16
  c.sft.validate_every = 100
  c.sft.optim.learning_rate = 3e-3
  c.sft.optim.warmup_ratio = 0.05
  c.srl.update_steps = 150
  c.srl.groups_per_batch = 32
  c.srl.sampling.trunks_per_round = 16
  c.srl.validate_every = 25
  c.srl.sampling.max_new_tokens = 72
  c.srl.optim.learning_rate = 3e-4
  c.evaluate.modes = ("turns",)
  c.evaluate.problems = 100
  c.evaluate.max_turns = 8
  c.evaluate.max_turn_tokens = 72
  c.evaluate.step_trajectories = 200
  c.checkpoint.every_update_steps = 50
  c.log_every = 5
  config.override(c, overrides)
  return c
