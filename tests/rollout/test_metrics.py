# SPDX-License-Identifier: Apache-2.0
"""Metrics of a round, checked by hand."""

import numpy as np

from srl_jax.reductions import reduce_metrics
from srl_jax.rollout import metrics as rollout_metrics
from srl_jax.testing.tiny import make_trunk, make_trunks
from srl_jax.types import Branches, Scores, SlotUse


def test_a_round_of_three_groups_by_hand():
  # Two trunks of 3 and 1 tokens in arrays of 2 x 3. Three points and a padding
  # point have three samples each, of at most 2 + 2 tokens.
  trunks = make_trunks(
    [
      make_trunk([1, 2, 3], (1, [7], 0), (3, [7, 8], 1)),
      make_trunk([4], (1, [7], 2)),
    ]
  )
  length_NR = np.array([[3, 2, 2, 4, 3, 4], [2, 3, 4, 0, 0, 0]], np.int32)
  stem_NR = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0]])
  at_C = np.arange(4)
  is_completion_NRC = (at_C >= stem_NR[..., None]) & (
    at_C < length_NR[..., None]
  )
  branches = Branches(
    np.zeros((2, 6, 4), np.int32),
    length_NR,
    is_completion_NRC,
    np.zeros((2, 6, 4), np.float32),
    length_NR > 0,
  )
  nan = np.nan
  reward_NKG = np.array([[[0.5, 1.0, 0.0], [-1] * 3], [[0.25] * 3, [nan] * 3]])
  broken_NKG = (reward_NKG == -1).astype(np.int32)
  chars_NKG = 1.0 + 8 * broken_NKG  # Broken samples do not count.
  scores = Scores(reward_NKG, reward_NKG, chars_NKG, 3 * chars_NKG, broken_NKG)
  kept_NK = np.array([[True, False], [False, False]])
  differing_NK = np.array([[True, False], [True, False]])
  values = reduce_metrics(
    [
      rollout_metrics.measure(
        trunks,
        branches,
        scores,
        kept_NK,
        differing_NK,
        SlotUse(np.array([8, 3]), np.array([12, 12])),
      )
    ]
  )
  want = {
    "reward": (0.5 + 1 + 0 - 3 * 1 + 3 * 0.25) / 9,
    "reward_well_formed": (0.5 + 1 + 0 + 3 * 0.25) / 6,
    "format_failure": 3 / 9,
    "thought_chars": 1,
    "action_chars": 3,
    "completion_tokens": 15 / 9,
    "kept_share": 1 / 3,
    "differing_share": 2 / 3,
    "groups_sampled": 3,
    "groups_kept": 1,
    "tokens_sampled": (2 + 1 + 1) + (2 + 1 + 2) + (1 + 2 + 3),
    # Trunks of 3 + 1 tokens once, stems of 1 + 2 + 1 three times.
    "prompt_tokens": 4 + 3 * 4,
    # Contexts of 1 + 1, 3 + 2 and 1 + 1 tokens, three times each.
    "flat_prompt_tokens": 3 * (2 + 5 + 2),
    "slot_occupancy": 11 / 24,
    # 4 trunk and 27 branch tokens on 2 x 3 and 2 x 6 x 4 positions.
    "padded_share": 1 - 31 / 54,
  }
  for name, value in want.items():
    np.testing.assert_allclose(values[name], value, rtol=1e-6, err_msg=name)
