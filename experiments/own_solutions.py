# SPDX-License-Identifier: Apache-2.0
"""SRL of Qwen2.5 on solutions of your own, in short update steps.

docs/train_a_model.md goes from a file of solutions to a verdict with it. The
solutions are lines of JSON in data/solutions.jsonl unless told otherwise:

  srl_jax train --config=experiments/own_solutions.py --workdir=W

The presets are those of experiments/math.py for 8 chips (`qwen2_5_0_5b`, the
default, and `qwen2_5_7b_lora`), for 64 (`qwen2_5_7b`), and for any checkpoint
that fits the devices as they are (`checkpoint,weights=PATH`); so is the recipe.
An update step trains on 128 groups instead of the paper's 512, so that the
first results come within the hour.
"""

from srl_jax import config

# Parts that a round is sampled in, so that it fits.
PARTS = {
  "qwen2_5_0_5b": 1,
  "qwen2_5_7b_lora": 2,
  "qwen2_5_7b": 1,
  "checkpoint": 1,
}


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "qwen2_5_0_5b", PARTS)
  base = preset
  if preset == "checkpoint" and "weights" in overrides:
    base += f",weights={overrides.pop('weights')}"
  c = config.base_config(__file__, "math", base)
  c.name = f"own_solutions:{preset}"
  c.data.format = "jsonl"
  c.data.path = "data/solutions.jsonl"
  c.data.valid_size = 60
  c.data.test_size = 200
  c.srl.update_steps = 100
  c.srl.groups_per_batch = 128
  c.srl.sampling.trunks_per_round = 64
  c.srl.sampling.parts_per_round = PARTS[preset]
  c.evaluate.suites = ()
  config.override(c, overrides)
  return c
