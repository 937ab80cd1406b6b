# SPDX-License-Identifier: Apache-2.0
"""Scores of branches by the trainer's own functions, branch by branch."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from srl_jax.ops import logprobs
from srl_jax.policy import Policy
from srl_jax.types import Branches, Trunks
from srl_jax.update.batch import Experience, one_branch_per_lane
from srl_jax.update.grpo import lane_logps


def branch_logps(
  policy: Policy,
  params: Any,
  trunks: Trunks,
  branches: Branches,
  *,
  temperature: float,
  max_logits: int,
) -> logprobs.TokenScores:
  """Returns the log-prob of every branch token [N, R, C], and the entropy.

  The arguments are those of `grpo.lane_logps`. Scores of the first token,
  which is given and not predicted, are zero and False.
  """
  points = trunks.branch_at_NK.shape
  samples = branches.tokens_NRC.shape[1] // points[1]
  batch = one_branch_per_lane(
    Experience(
      trunks,
      branches,
      reward_NKG=np.zeros((*points, samples), np.float32),
    )
  )
  scores = lane_logps(
    policy, params, batch, temperature=temperature, max_logits=max_logits
  )
  first = ((0, 0), (0, 0), (1, 0))
  return logprobs.TokenScores(*(jnp.pad(x, first) for x in scores))
