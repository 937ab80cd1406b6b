# SPDX-License-Identifier: Apache-2.0
"""Branches of given lengths, as experience and as groups, to test packing."""

from __future__ import annotations

from typing import Any

import numpy as np

from srl_jax.types import Trunks, make_branches
from srl_jax.update.batch import Experience
from srl_jax.update.groups import Groups, make_groups


def experience_of(
  trunks: Trunks,
  tokens_NRC: np.ndarray,
  cells_NR: np.ndarray,
  reward_NKG: np.ndarray,
) -> Experience:
  """Returns branches that take `cells_NR` cells of a lane, stems included.

  Sampler log-probs are -0.1 times the token; branches of no cells are empty.
  """
  stem_NR = np.repeat(trunks.stem_length_NK, reward_NKG.shape[-1], axis=1)
  length_NR = np.where(cells_NR > 0, cells_NR + 1, 0)
  is_token_NRC = np.arange(tokens_NRC.shape[-1]) < length_NR[..., None]
  logp_NRC = -tokens_NRC / 10
  branches = make_branches(
    tokens_NRC=np.where(is_token_NRC, tokens_NRC, 0).astype(np.int32),
    stem_length_NR=stem_NR,
    length_NR=length_NR.astype(np.int32),
    sampler_logp_NRC=logp_NRC.astype(np.float32),
    stopped_NR=np.zeros(length_NR.shape, bool),
  )
  counted = branches.is_completion_NRC
  return Experience(
    trunks,
    branches._replace(
      sampler_logp_NRC=np.where(counted, branches.sampler_logp_NRC, 0)
    ),
    reward_NKG.astype(np.float32),
  )


def groups_of(
  experience: Experience, kept_NK: np.ndarray | None = None, **when: Any
) -> Groups:
  """Returns the kept groups (all by default), born in update step 3."""
  trunks, branches, reward_NKG = experience
  kept_NK = trunks.is_real_NK if kept_NK is None else kept_NK
  return make_groups(
    trunks,
    branches,
    reward_NKG,
    np.zeros(kept_NK.shape, np.int32),
    kept_NK,
    **({"update_step": 3, "round_index": 0} | when),
  )
