# SPDX-License-Identifier: Apache-2.0
"""Which steps should be learnt, and from what? SRL on s1K-1.1, Qwen2.5-0.5B.

Presets (`--config=experiments/targets.py:NAME`):

  ours        Every step is a target, the last one too (the default).
  paper       The paper's words: "steps 1..N-1". The step with the final answer
              is never a target, so nothing teaches the model to finish, turn
              by turn; expect more solutions to end at c.evaluate.max_turns.
  title_hint  Number and title of the next step are given, and the model writes
              the rest (the paper's footnote 1, which reports that it helps
              more, without numbers). Held-out problems are solved without
              hints, for nobody knows the titles there.
  pairs       An action is two steps of the expert, so there are half as many
              rewards.
  whole_solution  The whole solution is one action, and gets one similarity
              (the paper's ablation: 25.9 where single steps lead to
              27.6). It is solved in one turn, of up to 2,048 tokens.

Steps of the test split are those that the preset trains on, so of the table
compare only whole problems (turns, solve).

Each needs what experiments/math.py:qwen2_5_0_5b needs: 8 TPU v5e chips, 4 hours
at their peak rates, and data/s1K-1.1. Of pairs and whole_solution neither
memory nor time was counted.
"""

from srl_jax import config

PRESETS = ("ours", "paper", "title_hint", "pairs", "whole_solution")


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "ours", PRESETS)
  c = config.base_config(__file__, "math", "qwen2_5_0_5b")
  c.name = f"targets:{preset}"
  if preset == "paper":
    c.srl.trunks.last_step = "exclude"
  elif preset == "title_hint":
    c.srl.trunks.step_title_hint = True
  elif preset == "pairs":
    c.data.steps_per_action = 2
  elif preset == "whole_solution":
    # One branch point of twice the length, where there were two.
    c.data.steps_per_action = 0
    c.srl.trunks.points_per_trunk = 1
    c.srl.sampling.max_new_tokens = 2048
    c.evaluate.max_turns = 1
    c.evaluate.max_turn_tokens = 2048
  config.override(c, overrides)
  return c
