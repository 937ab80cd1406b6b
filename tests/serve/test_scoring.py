# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given texts, equal to those that the sampler tells."""

import dataclasses

import jax
import numpy as np
import pytest

from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.rollout.requests import Request
from srl_jax.rollout.stream import Stream
from srl_jax.serve import scoring
from srl_jax.testing.tiny import TINY, random_params, small_mesh

MODEL = LanguageModel(dataclasses.replace(TINY, max_positions=512))
RULES = sharding.ShardingRules()
PARAMS = random_params(MODEL, seed=1)
CONTEXT = [5, 6, 7, 8, 9, 10, 11, 12]
TEXTS = [
  [*CONTEXT, 1],
  [*CONTEXT, 3, 4],
  [*CONTEXT, 1, 5, 6, 7],
  [20, 21],
  [30],
  [*CONTEXT, 3, 4],
  list(range(1, 31)) * 4,
]


def make_scorer(mesh=None):
  return scoring.TextScorer(MODEL, PARAMS, mesh or small_mesh(), RULES)


@jax.jit
def run_flat(tokens_NRT):
  width = tokens_NRT.shape[-1]
  none_N1 = np.full((1, 1), -1, np.int32)
  nothing = MODEL.trunk(PARAMS, none_N1 + 1, none_N1)
  place_NRT = np.arange(width, dtype=np.int32)[None, None]
  hidden, _ = MODEL.branch(PARAMS, tokens_NRT, place_NRT, none_N1 + 1, nothing)
  return jax.nn.log_softmax(MODEL.logits(PARAMS, hidden))[0, 0]


def flat(text):
  """Log-probs [T, V] by one pass over the whole text."""
  with jax.set_mesh(small_mesh()):
    return np.asarray(run_flat(np.array([[text]], np.int32)))


@pytest.mark.parametrize("logits", [scoring._LOGITS, 200])
def test_scores_are_those_of_each_text_run_alone(monkeypatch, logits):
  monkeypatch.setattr(scoring, "_LOGITS", logits)
  scored = make_scorer().score(TEXTS, likely=4)
  for text, scores in zip(TEXTS, scored, strict=True):
    want = flat(text)
    chosen = want[np.arange(len(text) - 1), text[1:]]
    # Float32 rounding of other widths.
    np.testing.assert_allclose(scores.logps, chosen, atol=2e-5)
    assert scores.likely.shape == (len(text), 5)
    np.testing.assert_array_equal(scores.likely[:, 0], want.argmax(-1))
    best = -np.sort(-want, axis=-1)[:, :5]
    np.testing.assert_allclose(scores.likely_logps, best, atol=2e-5)


def test_scores_are_those_that_the_sampler_tells():
  stream = Stream(
    MODEL,
    PARAMS,
    rows=1,
    slots=1,
    stop_ids=(),
    mesh=small_mesh(),
    rules=RULES,
    key=jax.random.key(0),
  )
  stream.submit(Request(CONTEXT, max_new_tokens=12))
  [piece] = stream.advance()
  [scores] = make_scorer().score([[*CONTEXT, *piece.tokens]])
  told = scores.logps[len(CONTEXT) - 1 :]
  # Float32 rounding of other widths.
  np.testing.assert_allclose(told, piece.logps, atol=2e-5)


def test_a_common_beginning_is_run_once():
  scorer = make_scorer()
  context = list(range(1, 31)) * 8  # 240 tokens, padded to 256.
  scorer.score([[*context, t] for t in range(8)])
  together = scorer.positions
  # The last token of the context is run again; 2 are padded to 8.
  assert together == 256 + 8 * 8


def test_one_device_equals_eight():
  one = make_scorer().score(TEXTS)
  eight = make_scorer(small_mesh(2, 2, 2)).score(TEXTS)
  for a, b in zip(one, eight, strict=True):
    # Sums in another order.
    np.testing.assert_allclose(a.logps, b.logps, atol=2e-5)
