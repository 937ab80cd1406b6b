# SPDX-License-Identifier: Apache-2.0
"""Register programs: does SRL lift a model off problems that it cannot solve?

Everything ships with the package: expert trajectories, tokenizer, and a
student of 0.28M parameters with planted weaknesses (docs/registers.md). No
preset needs a file or an accelerator; one CPU core and 1.2 GB of memory do.

Presets (`--config=experiments/registers.py:NAME`), with what to expect on the
200 held-out problems of the table at the end:

  srl       SRL (the default). 2 minutes on two cores. Problems solved turn by
            turn go from 0.5% to 98.5%; in one go hardly any (1.5%).
  rlvr      The same student and problems, rewarded for final answers only.
            Nothing changes: it never gets a whole problem right.
  r3        RLVR that also begins after each of the expert's steps (Xi et al.
            2024), with as many samples. Nothing changes either: hardly any
            sample (0.8%) is right, also near the end.
  srl_rlvr  SRL first, RLVR after: 51% in one go, and turn by turn, which RLVR
            does not train, back to 1%.
  sft       SFT on the expert's steps, which hold no thoughts. The student
            unlearns to think, and solves nothing at all.

  srl_jax train --config=experiments/registers.py --workdir=/tmp/srl
"""

from srl_jax import config

# The stages of each preset.
PRESETS = {
  "srl": ("srl",),
  "rlvr": ("rlvr",),
  "r3": ("rlvr",),
  "srl_rlvr": ("srl", "rlvr"),
  "sft": ("sft",),
}


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "srl", PRESETS)
  c = config.default_config()
  c.name = f"registers:{preset}"
  c.stages = PRESETS[preset]
  c.weights = "registers_student"
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.path = "registers_student"
  c.data.format = "registers"
  c.data.train_size = 1000
  c.data.valid_size = 64
  c.data.test_size = 200
  for stage in (c.srl, c.rlvr):
    stage.groups_per_batch = 32
    stage.validate_every = 10
    stage.optim.learning_rate = 5e-5
  c.srl.update_steps = 30
  c.srl.sampling.trunks_per_round = 8
  c.srl.trunks_per_micro_batch = 4
  c.srl.sampling.max_new_tokens = 48
  # One branch point per problem, so four times the problems per round. The
  # student hardly ever gets a whole problem right: groups are taken as they
  # come, for no number of rounds would fill a batch with ones that differ.
  c.rlvr.update_steps = 60
  c.rlvr.dynamic_sampling.enabled = False
  c.rlvr.sampling.trunks_per_round = 32
  c.rlvr.trunks_per_micro_batch = 32
  c.rlvr.sampling.max_new_tokens = 176
  if preset == "r3":
    c.rlvr.trunks.starts = "every_step"
    c.rlvr.sampling.trunks_per_round = 8
    c.rlvr.trunks_per_micro_batch = 8
  c.sft.trunks_per_batch = 32
  c.sft.trunks_per_micro_batch = 32
  c.sft.trunks.include_thoughts = False
  c.sft.validate_every = 10
  c.sft.optim.learning_rate = 3e-4
  c.evaluate.samples = 4
  c.evaluate.max_turns = 4
  c.evaluate.max_turn_tokens = 48
  c.evaluate.max_solve_tokens = 176
  c.evaluate.answers_per_batch = 100
  c.checkpoint.every_update_steps = 10
  c.log_every = 2
  config.override(c, overrides)
  return c
