# SPDX-License-Identifier: Apache-2.0
"""Agents that repair small repositories: what does each way of training teach?

Everything ships with the package: repositories, experts, tokenizer, and a
student of 0.36M parameters that was taught a bad habit (docs/lookup.md). No
preset needs a file or an accelerator. The table at the end says how many
held-out repositories the student repairs, turn by turn, its actions executed.

Presets (`--config=experiments/lookup.py:NAME`):

  srl           SRL: the action's similarity to the expert's (the default).
  exact         The reward is 1 for the expert's action and 0 for any other.
  effect        The reward is 1 for an action that, executed, brings the repair
                as far as the expert's does, and 0 for any other.
  rejection     SFT on the student's own samples whose action is the expert's,
                drawn anew at each update step.
  srl_episodes  SRL as in srl, then RL on outcomes: episodes that repair the
                repository get 1, all others 0, and no expert is asked.
  sft_actions   SFT on the expert's actions. They hold no thoughts.
  sft_thoughts  SFT on the expert's thoughts and actions, which SRL never sees:
                the ceiling.

  srl_jax train --config=experiments/lookup.py --workdir=/tmp/lookup
"""

from srl_jax import config

PRESETS = (
  *("srl", "exact", "effect", "rejection", "srl_episodes"),
  *("sft_actions", "sft_thoughts"),
)
REWARDS = "srl_jax.domains.lookup.rewards"


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "srl", PRESETS)
  c = config.default_config()
  c.name = f"lookup:{preset}"
  c.stages = ("sft",) if preset.startswith("sft") else ("srl",)
  if preset == "srl_episodes":
    c.stages = ("srl", "episodes")
  c.model.n_layers = 4
  c.weights = "lookup_student"
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.path = "lookup_student"
  c.data.format = "lookup"
  c.data.train_size = 1000
  c.data.valid_size = 48
  c.data.test_size = 200
  c.srl.update_steps = 60
  c.srl.groups_per_batch = 32
  c.srl.validate_every = 20
  c.srl.optim.learning_rate = 2e-4
  c.srl.sampling.trunks_per_round = 8
  c.srl.sampling.max_new_tokens = 40
  c.srl.trunks_per_micro_batch = 4
  if preset in ("exact", "rejection"):
    c.srl.reward.function = f"{REWARDS}:same_action"
  elif preset == "effect":
    c.srl.reward.function = f"{REWARDS}:same_effect"
  if preset == "rejection":
    c.srl.loss.surrogate = "imitation"
  c.episodes.turns = 16
  c.episodes.max_context_tokens = 256
  c.episodes.max_new_tokens = 40
  c.episodes.update_steps = 60
  c.episodes.problems_per_round = 16
  c.episodes.validate_every = 10
  c.episodes.optim.learning_rate = 1e-4
  c.sft.update_steps = 240
  c.sft.trunks_per_batch = 32
  c.sft.trunks_per_micro_batch = 8
  c.sft.trunks.include_thoughts = preset == "sft_thoughts"
  c.sft.validate_every = 20
  c.sft.optim.learning_rate = 3e-4
  c.evaluate.modes = ("turns",)
  c.evaluate.samples = 4
  c.evaluate.max_turns = 16
  c.evaluate.max_turn_tokens = 40
  c.evaluate.answers_per_batch = 200
  c.log_every = 5
  config.override(c, overrides)
  return c
