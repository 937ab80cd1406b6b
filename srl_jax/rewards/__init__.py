# SPDX-License-Identifier: Apache-2.0
"""Rewards on the host: format, similarity, answers. Never imports JAX."""

from srl_jax.rewards.answers import answer_reward, extract_answers, same_answer
from srl_jax.rewards.format import FAILURES, Parsed, split, split_lenient
from srl_jax.rewards.reward import (
  Completion,
  RewardConfig,
  RewardContext,
  RewardError,
  Scored,
  WorkersConfig,
)
from srl_jax.rewards.scorer import Scorer
from srl_jax.rewards.similarity import (
  difflib_ratio,
  levenshtein_ratio,
  matching_blocks,
)

__all__ = [
  "FAILURES",
  "Completion",
  "Parsed",
  "RewardConfig",
  "RewardContext",
  "RewardError",
  "Scored",
  "Scorer",
  "WorkersConfig",
  "answer_reward",
  "difflib_ratio",
  "extract_answers",
  "levenshtein_ratio",
  "matching_blocks",
  "same_answer",
  "split",
  "split_lenient",
]
