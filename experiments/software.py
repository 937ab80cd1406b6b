# SPDX-License-Identifier: Apache-2.0
"""SRL on software agents, the paper's second field: Qwen2.5-Coder-7B-Instruct.

Do rewards for single actions teach more than imitating them? The paper reports
14.8% of SWE-bench Verified by oracle file edits after SRL, 8.4% after SFT on
SWE-Gym, and 5.8% for the model itself.

Presets (`--config=experiments/software.py:NAME`), all of the same trajectories:

  srl           The next action, from the issue and the last two actions with
                their observations (the default).
                64 TPU v5e chips: up to 14.0 of their 15.75 GiB, and at peak
                rates 57 s for an update step, so 4.1 hours for all 262.
  srl_history   SRL from the issue and all earlier actions, in contexts of up to
                12,288 tokens: longer ones are left out. All actions of a
                trajectory share its trunk, and each row of the update is split
                over 4 of the 64 chips: up to 11.7 GiB, 47 s, 3.4 hours.
  srl_lora      srl by adapters of rank 32. 8 chips: up to 14.3 GiB, 384 s,
                28 hours.
  sft_actions   SFT on the same actions in the same contexts, by SWE-smith's
                recipe: 5e-5, three epochs. It writes no thoughts, and the table
                counts that as a broken format: its similarity and its share of
                equal actions are 0 by construction.
  sft_thoughts  The same, with the expert's thoughts before the actions. Both
                take 8.8 GiB of each of 64 TPU v5e chips.
  checkpoint    srl from any checkpoint that fits the devices as they are:
                checkpoint,weights=PATH.

Each reads SWE-smith's trajectories from c.data.path, data/swe-smith unless told
otherwise (docs/agents.md says how to fetch them): those that are resolved, at
most three of a task, drawn with seed 24. Of these 30 are held out for
validation, as in the paper, and 30 more for the table. The table is of single
actions: solving issues takes an environment. SRL takes as many kept groups as
one epoch has actions, and SFT three epochs.

The model is laid out over TPU v5e chips as in experiments/math.py. Memory and
time are by the TPU compiler and by counts, not measured:
`srl_jax compile --config=experiments/software.py --topology=v5e:8x8
--config.srl.trunks.points_per_trunk=1`, which makes as many contexts, one to a
trunk.
"""

from srl_jax import config

MODEL = "Qwen/Qwen2.5-Coder-7B-Instruct"
PRESETS = (
  *("srl", "srl_history", "srl_lora"),
  *("sft_actions", "sft_thoughts", "checkpoint"),
)


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "srl", PRESETS)
  c = laid_out_model(preset, overrides)
  c.name = f"software:{preset}"
  c.data.format = "agents"
  c.data.path = "data/swe-smith"
  c.data.resolved_only = True
  c.data.per_task = 3
  c.data.seed = 24
  c.data.valid_size = 30
  c.data.test_size = 30
  # Nearly all contexts have fewer than 4,096 tokens then.
  c.observation_tokens = 1000
  for stage in (c.srl, c.sft):
    stage.trunks.task = "step"
    stage.trunks.context_turns = 2
    stage.trunks.max_trunk_tokens = 4096
    stage.trunks.max_target_tokens = 1024
  c.srl.trunks.points_per_trunk = 0
  # Each context has a trunk of its own: rows of two have 8 lanes for their 16
  # branches.
  c.srl.lanes_per_branch = 0.5
  if preset == "srl_history":
    set_history(c)
  # As many kept groups as the paper has actions, 134,000; more are sampled.
  c.srl.update_steps = 262
  if preset.startswith("sft"):
    c.stages = ("sft",)
    c.sft.trunks.include_thoughts = preset == "sft_thoughts"
    # Three epochs, 64 actions per update step.
    c.sft.update_steps = 6281
    c.sft.optim.learning_rate = 5e-5
    c.sft.trunks_per_batch = 64
    c.sft.trunks_per_micro_batch = 64
    c.sft.validate_every = 500
  c.evaluate.modes = ()
  c.evaluate.suites = ()
  config.override(c, overrides)
  return c


def set_history(c):
  """The whole history on one trunk, which 24 actions at a visit share."""
  c.srl.trunks.context_turns = 0
  c.srl.trunks.max_trunk_tokens = 12_288
  c.srl.trunks.points_per_trunk = 24
  c.srl.lanes_per_branch = 0
  c.srl.sampling.trunks_per_round = 32
  c.srl.sampling.parts_per_round = 2
  # One row to the chips of a `tensor` group, which share its tokens.
  c.srl.trunks_per_micro_batch = 16
  c.rules.batch = ("data", "fsdp")
  c.rules.tokens = "tensor"


def laid_out_model(preset, overrides):
  """The model and its layout, as in experiments/math.py."""
  if preset == "checkpoint":
    if "weights" in overrides:
      preset += f",weights={overrides.pop('weights')}"
    return config.base_config(__file__, "math", preset)
  layout = "qwen2_5_7b_lora" if preset == "srl_lora" else "qwen2_5_7b"
  c = config.base_config(__file__, "math", layout)
  c.weights = c.tokenizer.path = MODEL
  return c
