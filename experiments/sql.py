# SPDX-License-Identifier: Apache-2.0
"""Questions over tables: does SRL lift a model that has seen a few experts?

The domain is one module, srl_jax/domains/sql.py, which docs/own_domain.md
goes through. A model of 0.3M parameters starts from nothing: SFT on a few
questions with the experts' thoughts, then SRL on others without. No preset
needs a file or an accelerator. The table at the end says how many held-out
questions the model answers, query by query, executed by SQLite.

Presets (`--config=experiments/sql.py:NAME`), each 3 to 6 minutes of CPU time,
with the greedy answers that are right: 57% after SFT in all of them.

  srl           SRL: the query's similarity to the expert's (the default): 20%.
  exact         The reward is 1 for the expert's query and 0 for any other: 21%.
  effect        The reward is 1 for a query that gives the rows that the
                expert's gives, and 0 for any other: 20%.
  srl_episodes  SRL as in srl, then RL on outcomes: episodes whose answer is
                right get 1, all others 0, and no expert is asked: 90%.

  srl_jax train --config=experiments/sql.py --workdir=/tmp/sql
"""

from srl_jax import config

# The reward of SRL in each preset.
PRESETS = {
  "srl": "domain",
  "exact": "srl_jax.domains.lookup.rewards:same_action",
  "effect": "srl_jax.domains.sql:same_effect",
  "srl_episodes": "domain",
}


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "srl", PRESETS)
  c = config.default_config()
  c.name = f"sql:{preset}"
  c.stages = ("sft", "srl")
  if preset == "srl_episodes":
    c.stages = ("sft", "srl", "episodes")
  c.data.format = "drawn"
  c.data.domain = "sql"
  c.data.pretrain_size = 100
  c.data.train_size = 1000
  c.data.valid_size = 48
  c.data.test_size = 100
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.train_vocab_size = 512
  c.model.d_model = 96
  c.model.n_layers = 3
  c.model.n_heads = 4
  c.model.n_kv_heads = 2
  c.model.head_width = 24
  c.model.d_mlp = 192
  c.sft.split = "pretrain"
  c.sft.update_steps = 60
  c.sft.trunks_per_batch = 32
  c.sft.trunks_per_micro_batch = 32
  c.sft.validate_every = 20
  c.sft.optim.learning_rate = 3e-3
  c.sft.optim.warmup_ratio = 0.05
  c.srl.reward.function = PRESETS[preset]
  c.srl.update_steps = 40
  c.srl.groups_per_batch = 32
  c.srl.validate_every = 10
  c.srl.sampling.trunks_per_round = 16
  c.srl.sampling.max_new_tokens = 48
  c.srl.trunks_per_micro_batch = 8
  c.srl.optim.learning_rate = 2e-4
  c.episodes.turns = 4
  c.episodes.max_context_tokens = 112
  c.episodes.max_new_tokens = 48
  c.episodes.update_steps = 30
  c.episodes.problems_per_round = 16
  c.episodes.validate_every = 10
  c.episodes.optim.learning_rate = 2e-4
  c.evaluate.modes = ("turns",)
  c.evaluate.samples = 2
  c.evaluate.max_turns = 4
  c.evaluate.max_turn_tokens = 48
  c.evaluate.answers_per_batch = 100
  c.log_every = 5
  config.override(c, overrides)
  return c
