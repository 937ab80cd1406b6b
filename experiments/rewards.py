# SPDX-License-Identifier: Apache-2.0
"""Which similarity should reward a step? SRL on s1K-1.1, Qwen2.5-0.5B.

Presets (`--config=experiments/rewards.py:NAME`):

  difflib      The paper's ratio of matching blocks, on characters (the
               default).
  autojunk     The same with difflib's own default for long texts, which takes
               nearly every letter of a step of 200 characters for junk: one
               pair of steps scores 0.41 instead of 0.66.
  levenshtein  The ratio of the longest common subsequence. It mostly orders
               samples as difflib does, for a fraction of the work.
  no_penalty   difflib, and 0 instead of -1 where the format is broken.

The step metrics of the table are difflib's in all of them. Each needs what
experiments/math.py:qwen2_5_0_5b needs: 8 TPU v5e chips, 4 hours at their peak
rates, and data/s1K-1.1; autojunk is computed on the host, for which
c.reward_workers.count are set.
"""

from srl_jax import config

PRESETS = ("difflib", "autojunk", "levenshtein", "no_penalty")


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "difflib", PRESETS)
  c = config.base_config(__file__, "math", "qwen2_5_0_5b")
  c.name = f"rewards:{preset}"
  if preset == "autojunk":
    c.srl.reward.autojunk = True
    c.reward_workers.count = 8
  elif preset == "levenshtein":
    c.srl.reward.function = "levenshtein"
  elif preset == "no_penalty":
    c.srl.reward.broken_format_reward = 0.0
  config.override(c, overrides)
  return c
