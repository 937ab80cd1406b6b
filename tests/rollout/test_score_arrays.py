# SPDX-License-Identifier: Apache-2.0
"""From sampled tokens to arrays of scores, by hand."""

import dataclasses

import numpy as np
import pytest

from srl_jax.data.batching import TrunkBatch
from srl_jax.rewards import FAILURES, Completion
from srl_jax.rewards.reward import Scored
from srl_jax.rollout.scoring import completion_texts, score_branches
from srl_jax.testing.tiny import make_trunk, make_trunks
from srl_jax.types import make_branches

STOP = 9
NAN = np.nan


class Digits:
  """A tokenizer whose tokens are digits; `texts` counts what it decodes."""

  texts = 0

  def decode(self, ids):
    self.texts += 1
    return "".join(map(str, ids))


class Lengths:
  """A scorer whose numbers tell which text and target they are of."""

  wants_context = False

  def __init__(self):
    self.asked = []

  def score(self, completions, targets, contexts):
    assert contexts == [None] * len(completions)
    self.asked = list(zip(completions, targets, strict=True))
    return [
      Scored(
        reward=float(c.text),
        value=float(target),
        failure="" if c.stopped else FAILURES[3],
        thought_chars=len(c.text),
        action_chars=len(c.text) + 10,
      )
      for c, target in self.asked
    ]


def aimed(trunk, *targets):
  points = zip(trunk.points, targets, strict=True)
  return dataclasses.replace(
    trunk,
    points=tuple(dataclasses.replace(p, target=t) for p, t in points),
  )


def a_batch():
  """Two trunks: two points, and one with padding; three samples of each."""
  sources = (
    aimed(make_trunk([5], (1, [7], 0), (1, [7, 7], 1)), "100", "200"),
    aimed(make_trunk([5], (1, [7], 2)), "300"),
  )
  rows = [
    # After stems of one token and of two. The fifth has no stop token.
    [
      *([7, 1, STOP], [7, 1, 2, STOP], [7, 3, STOP]),
      *([7, 7, 4, STOP], [7, 7, 5], [7, 7, 6, STOP]),
    ],
    [[7, 8, STOP], [7, 8, 1, STOP], [7, 8, 2, STOP], [], [], []],
  ]
  branches = make_branches(
    tokens_NRC=np.array([[x + [0] * (4 - len(x)) for x in r] for r in rows]),
    stem_length_NR=np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 1]]),
    length_NR=np.array([[len(x) for x in r] for r in rows]),
    sampler_logp_NRC=np.zeros((2, 6, 4), np.float32),
    stopped_NR=np.array([[STOP in x for x in r] for r in rows]),
  )
  return TrunkBatch(make_trunks(sources), sources), branches


def test_a_text_has_neither_stem_nor_stop_token_nor_padding():
  _, branches = a_batch()
  texts = completion_texts(branches, Digits())
  assert texts[0][1] == Completion("12", stopped=True, tokens=3)
  # Its last token is no stop token and stays.
  assert texts[0][4] == Completion("5", stopped=False, tokens=1)
  assert texts[1][3] == Completion("", stopped=False)


def test_scores_lie_where_their_branch_and_point_are():
  batch, branches = a_batch()
  scores = score_branches(batch, branches, Digits(), Lengths())
  want = {
    # The last point is padding.
    "reward_NKG": [[[1, 12, 3], [4, 5, 6]], [[8, 81, 82], [NAN] * 3]],
    "value_NKG": [[[100] * 3, [200] * 3], [[300] * 3, [NAN] * 3]],
    "thought_chars_NKG": [[[1, 2, 1], [1, 1, 1]], [[1, 2, 2], [NAN] * 3]],
    "action_chars_NKG": [[[11, 12, 11], [11] * 3], [[11, 12, 12], [NAN] * 3]],
    # The index in FAILURES; 0 is a format that is whole.
    "failure_NKG": [[[0, 0, 0], [0, 3, 0]], [[0, 0, 0], [0, 0, 0]]],
  }
  for name, value in want.items():
    np.testing.assert_array_equal(getattr(scores, name), value, err_msg=name)
  dtypes = [x.dtype for x in scores]
  assert dtypes == [np.dtype(np.float32)] * 4 + [np.dtype(np.int32)]


@pytest.mark.parametrize("place", [(0, 0, 1), (0, 1, 2), (1, 0, 0)])
def test_only_what_is_asked_for_is_decoded_and_scored(place):
  batch, branches = a_batch()
  whole = score_branches(batch, branches, Digits(), Lengths())
  only_NKG = np.zeros((2, 2, 3), bool)
  only_NKG[place] = True
  tokenizer, scorer = Digits(), Lengths()
  scores = score_branches(batch, branches, tokenizer, scorer, only_NKG)
  assert len(scorer.asked) == tokenizer.texts == 1
  assert scores.reward_NKG[place] == whole.reward_NKG[place]
  assert np.isfinite(scores.reward_NKG).sum() == 1
