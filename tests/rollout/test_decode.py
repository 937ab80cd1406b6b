# SPDX-License-Identifier: Apache-2.0
"""The sampling loop, with scripted answers."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from srl_jax.policy import trunk_positions
from srl_jax.rollout import decode as rollout_lib
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.testing.tiny import make_trunk, make_trunks
from tests.support import scripted
from tests.support.scripted import ScriptedModel


@functools.partial(
  jax.jit, static_argnames=("policy", "config", "stop_ids", "pad_id")
)
def run(params, trunks, key, *, policy, config, stop_ids, pad_id):
  return rollout_lib.rollout(
    policy, params, trunks, key, config=config, stop_ids=stop_ids, pad_id=pad_id
  )


MODEL = ScriptedModel()
GREEDY = SamplingConfig(samples=1, max_new_tokens=4, temperature=0.0)


def sample_and_measure(
  script, trunks, config=GREEDY, *, seed=0, stops=(9,), pad=0, policy=MODEL
):
  found = run(
    script,
    trunks,
    jax.random.key(seed),
    policy=policy,
    config=config,
    stop_ids=stops,
    pad_id=pad,
  )
  return jax.device_get(found)


def sample(*args, **kwargs):
  return sample_and_measure(*args, **kwargs)[0]


def test_the_example_of_the_docstring():
  trunks = make_trunks([make_trunk([5, 6, 7], (2, [3], 0), (3, [1, 7], 1))])
  got = sample(scripted.successor(10), trunks)
  assert got.tokens_NRC.tolist() == [[[3, 4, 5, 6, 7, 0], [1, 7, 8, 9, 0, 0]]]
  assert got.length_NR.tolist() == [[5, 4]]
  assert got.stopped_NR.tolist() == [[False, True]]
  assert got.is_completion_NRC.tolist() == [
    [
      [False, True, True, True, True, False],
      [False, False, True, True, False, False],
    ]
  ]
  assert got.sampler_logp_NRC.shape == (1, 2, 6)
  assert not got.sampler_logp_NRC[~got.is_completion_NRC].any()
  for slots, busy, slot_iterations in ((0, 7, 8), (1, 7, 7)):
    config = dataclasses.replace(GREEDY, slots=slots)
    again, slot_use = sample_and_measure(scripted.successor(10), trunks, config)
    jax.tree.map(np.testing.assert_array_equal, again, got)
    assert slot_use.busy_N.tolist() == [busy]
    assert slot_use.slot_iterations_N.tolist() == [slot_iterations]


def test_positions_go_on_from_the_branch_point():
  # The script continues each token with the number of its position.
  script = scripted.at_position(30 * np.eye(12))
  trunks = make_trunks(
    [
      make_trunk(range(7), (2, [9], 0), (7, [9, 9], 1)),
      make_trunk([1], (1, [9], 2)),
    ]
  )
  got = sample(script, trunks, stops=())
  # The second stem ends at position 8.
  assert got.tokens_NRC[0].tolist() == [
    [9, 2, 3, 4, 5, 0],
    [9, 9, 8, 9, 10, 11],
  ]
  assert got.tokens_NRC[1, 0].tolist() == [9, 1, 2, 3, 4, 0]


def test_a_stop_token_ends_its_own_row_only_and_padding_follows():
  trunks = make_trunks(
    [make_trunk([1], (1, [8], 0), (1, [3], 1), (1, [4], 2), (1, [2], 3))]
  )
  got = sample(scripted.successor(10), trunks, stops=(7, 5), pad=11)
  # The first branch draws no stop token; in the others the first one counts.
  assert got.tokens_NRC[0].tolist() == [
    [8, 9, 0, 1, 2],
    [3, 4, 5, 11, 11],
    [4, 5, 11, 11, 11],
    [2, 3, 4, 5, 11],
  ]
  assert got.length_NR.tolist() == [[5, 3, 2, 4]]
  assert got.stopped_NR.tolist() == [[False, True, True, True]]


def test_a_stop_token_in_the_stem_ends_nothing_and_at_the_limit_it_counts():
  trunks = make_trunks([make_trunk([1], (1, [8, 9, 1], 0), (1, [5], 1))])
  got = sample(scripted.successor(10), trunks)
  assert got.tokens_NRC[0].tolist() == [
    [8, 9, 1, 2, 3, 4, 5],
    [5, 6, 7, 8, 9, 0, 0],
  ]
  # The fourth token, the last that is allowed, is a stop token.
  assert got.stopped_NR.tolist() == [[False, True]]


def test_points_that_fill_up_the_row_stay_empty():
  trunks = make_trunks([make_trunk([1], (1, [3], 0))], points=3)
  got = sample(scripted.successor(10), trunks, pad=11)
  assert got.length_NR.tolist() == [[5, 0, 0]]
  assert (got.tokens_NRC[0, 1:] == 11).all()
  assert not got.is_completion_NRC[0, 1:].any()
  assert not got.stopped_NR[0, 1:].any()
  assert not got.sampler_logp_NRC[0, 1:].any()


class CountingModel(ScriptedModel):
  """Counts the turns of the decoding loop."""

  def __init__(self):
    self.turns = 0

  def branch(self, *args):
    jax.debug.callback(self._count)
    return super().branch(*args)

  def _count(self):
    self.turns += 1


def test_the_loop_ends_with_the_last_branch():
  policy = CountingModel()
  config = SamplingConfig(samples=1, max_new_tokens=40, temperature=0.0)
  trunks = make_trunks([make_trunk([1], (1, [3], 0), (1, [6, 7], 1))])
  got = sample(scripted.successor(10), trunks, config, policy=policy)
  jax.effects_barrier()
  # Six tokens up to the stop token follow 3. The padding points of a row and
  # the limit of 40 tokens cost no turn.
  assert got.length_NR.tolist() == [[7, 4]]
  assert policy.turns == 6


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


VOCAB = 5
RANDOM = scripted.after_token(
  np.random.default_rng(0).standard_normal((VOCAB, VOCAB))
)
MANY = make_trunks(
  [
    make_trunk([1, 2, 3], (1, [1], 10), (3, [2, 3], 11)),
    make_trunk([4], (1, [0], 12)),
  ]
)


def rows_of(script, tokens_NRC, temperature):
  """Returns log-probs [N, R, C - 1, V] of the token after each token."""
  table_VV = np.asarray(script.after_token_VV)
  return log_softmax(table_VV[tokens_NRC[..., :-1]] / temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_stored_log_prob_is_of_the_distribution_drawn_from(temperature):
  config = SamplingConfig(samples=6, max_new_tokens=4, temperature=temperature)
  got = sample(RANDOM, MANY, config, stops=(0,))
  rows = rows_of(RANDOM, got.tokens_NRC, temperature)
  want = np.take_along_axis(rows, got.tokens_NRC[..., 1:, None], -1)[..., 0]
  want = np.where(got.is_completion_NRC[..., 1:], want, 0.0)
  assert not got.sampler_logp_NRC[..., 0].any()
  # The tolerance is that of float32 logarithms.
  np.testing.assert_allclose(
    got.sampler_logp_NRC[..., 1:], want, rtol=1e-5, atol=1e-6
  )


def test_a_greedy_token_has_the_policy_s_log_prob():
  greedy = sample(RANDOM, MANY, stops=(0,))
  rows = rows_of(RANDOM, greedy.tokens_NRC, 1.0).max(-1)
  want = np.where(greedy.is_completion_NRC[..., 1:], rows, 0.0)
  np.testing.assert_allclose(
    greedy.sampler_logp_NRC[..., 1:], want, rtol=1e-5, atol=1e-6
  )


def test_ten_thousand_samples_follow_the_softmax_and_are_independent():
  config = SamplingConfig(samples=100, max_new_tokens=2)
  trunks = make_trunks([make_trunk([1], (1, [2], n)) for n in range(100)])
  got = sample(RANDOM, trunks, config, stops=()).tokens_NRC.reshape(-1, 3)
  after = np.exp(log_softmax(RANDOM.after_token_VV))
  # Pairs of tokens are counted: the second must not depend on the random number
  # that drew the first.
  expected = 1e4 * after[2][:, None] * after
  observed = np.zeros((VOCAB, VOCAB))
  np.add.at(observed, (got[:, 1], got[:, 2]), 1)
  # 24 degrees of freedom: one run in a thousand exceeds 51.2.
  assert ((observed - expected) ** 2 / expected).sum() < 51.2


RANDOMLY = SamplingConfig(samples=4, max_new_tokens=6)


def test_the_same_key_gives_the_same_tokens_and_another_key_others():
  trunks = make_trunks(
    [make_trunk([1], (1, [2], 7), (1, [2], 8)), make_trunk([1], (1, [2], 9))]
  )
  one, again, other = (
    sample(RANDOM, trunks, RANDOMLY, seed=seed, stops=()).tokens_NRC
    for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(one, again)
  # Trunks, points, samples and keys have random numbers of their own: no two
  # of the 3 x 4 x 2 rows of six tokens are equal.
  rows = [tuple(row) for x in (one, other) for row in x.reshape(-1, 7).tolist()]
  assert len(set(rows)) == 24 + 1, "twice four samples of the empty point"


A = make_trunk([1, 2, 3], (1, [1], 10), (3, [2, 3], 11))
B = make_trunk([4], (1, [0], 12))
C = make_trunk([1] * 6, (6, [3], 13), (2, [0, 0, 0], 14))
# Where each layout has the points of A and B: (row, point).
LAYOUTS = {
  "order of rows": ([B, A], {}, [(1, 0), (1, 1), (0, 0)]),
  "other rows": ([C, A, C, B], {}, [(1, 0), (1, 1), (3, 0)]),
  "order of points": (
    [make_trunk([1, 2, 3], (3, [2, 3], 11), (1, [1], 10)), B],
    {},
    [(0, 1), (0, 0), (1, 0)],
  ),
  "separate prompts": (
    [make_trunk([1], (1, [1], 10)), make_trunk([1, 2, 3], (3, [2, 3], 11)), B],
    {},
    [(0, 0), (1, 0), (2, 0)],
  ),
  "wider": (
    [A, B],
    {"trunk_width": 9, "points": 3, "stem_width": 5},
    [(0, 0), (0, 1), (1, 0)],
  ),
}


def completions(trunks, points, samples=4):
  """Returns completion tokens and log-probs of points, by sample."""
  config = SamplingConfig(samples=samples, max_new_tokens=6)
  got = sample(RANDOM, trunks, config, stops=(0,))
  rows = [
    (n, k * samples + g) for n, k in points for g in range(min(samples, 4))
  ]
  return [
    (
      got.tokens_NRC[row][got.is_completion_NRC[row]].tolist(),
      got.sampler_logp_NRC[row][got.is_completion_NRC[row]].tolist(),
    )
    for row in rows
  ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_do_not_depend_on_the_layout_of_the_batch(layout):
  trunks, widths, points = LAYOUTS[layout]
  want = completions(make_trunks([A, B]), [(0, 0), (0, 1), (1, 0)])
  assert completions(make_trunks(trunks, **widths), points) == want


QUEUE = make_trunks(
  [
    make_trunk([1, 2, 3], (1, [1], 10), (3, [2, 3], 11), (2, [0, 1, 4], 15)),
    make_trunk([4], (1, [0], 12)),
  ],
)


@pytest.mark.parametrize("slots", [1, 5, 11])
def test_samples_do_not_depend_on_the_number_of_slots(slots):
  config = SamplingConfig(samples=4, max_new_tokens=6)
  want, _ = sample_and_measure(RANDOM, QUEUE, config, stops=(0,))
  config = dataclasses.replace(config, slots=slots)
  got, slot_use = sample_and_measure(RANDOM, QUEUE, config, stops=(0,))
  jax.tree.map(np.testing.assert_array_equal, got, want)
  # Every token of a branch but the last is run once, in some slot.
  runs_N = np.maximum(want.length_NR - 1, 0).sum(1)
  np.testing.assert_array_equal(slot_use.busy_N, runs_N)
  # A slot is idle only after its trunk's queue is empty, for at most the turns
  # of the longest branch.
  idle_N = slot_use.slot_iterations_N[0] - runs_N[0]
  assert 0 <= idle_N <= slots * (want.length_NR[0].max() - 1)


def test_one_slot_runs_one_branch_after_the_other():
  config = dataclasses.replace(GREEDY, slots=1, max_new_tokens=40)
  policy = CountingModel()
  trunks = make_trunks(
    [make_trunk([1], (1, [3], 0), (1, [6, 7], 1), (1, [1], 2))]
  )
  got = sample(scripted.successor(10), trunks, config, policy=policy)
  jax.effects_barrier()
  assert got.length_NR.tolist() == [[7, 4, 9]]
  assert policy.turns == 6 + 3 + 8


def test_where_width_costs_no_time_there_is_one_loop_of_the_full_width():
  class Wide(ScriptedModel):
    reads_what_is_seen = True
    widths = ()

    def init_cache(self, trunk, branches, width):
      self.widths += (width,)
      return super().init_cache(trunk, branches, width)

  config = dataclasses.replace(GREEDY, max_new_tokens=12, cache_start=3)
  trunks, policy = make_trunks([make_trunk([1], (1, [3], 0))]), Wide()
  got = sample(scripted.successor(16), trunks, config, policy=policy, stops=())
  assert policy.widths == (12,)
  want = sample(scripted.successor(16), trunks, config, stops=())
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_more_samples_begin_with_the_same_ones():
  trunks, points = make_trunks([A, B]), [(0, 0), (0, 1), (1, 0)]
  assert completions(trunks, points, 7) == completions(trunks, points)


@jax.jit
def drawn(key, instance, sample, place, logp_V):
  """Draws a token with keys derived here again: runs must be repeatable."""
  for number in (instance, sample, place):
    key = jax.random.fold_in(key, number)
  return rollout_lib.sampling.draw(key[None], logp_V[None])[0]


def test_the_key_is_that_of_instance_sample_and_position():
  trunks = make_trunks([make_trunk([1], (1, [2, 2], 77))])
  got = sample(RANDOM, trunks, RANDOMLY, seed=5, stops=()).tokens_NRC[0]
  logp_VV = log_softmax(RANDOM.after_token_VV).astype(np.float32)
  for g in (0, 3):
    for place in range(6):
      logp_V = logp_VV[got[g, 1 + place]]
      want = drawn(jax.random.key(5), 77, g, place, logp_V)
      assert got[g, 2 + place] == want


def test_trunk_positions_mark_padding():
  trunks = make_trunks([A, B])
  np.testing.assert_array_equal(
    trunk_positions(trunks.length_N, trunks.tokens_NS.shape[1]),
    [[0, 1, 2], [0, -1, -1]],
  )


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"samples": 0}, "samples=0; set it to 1 or more"),
    ({"max_new_tokens": 0}, "max_new_tokens=0; set it to 1 or more"),
    ({"temperature": -1.0}, "temperature=-1.0; set it to 0 or more"),
    ({"temperature": math.inf}, "temperature=inf; set it to 0 or more"),
    ({"slots": -1}, "slots=-1; set it to 0 or more"),
    ({"cache_start": -2}, "cache_start=-2; set it to -1 or more"),
  ],
)
def test_an_impossible_sampling_config_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    SamplingConfig(**fields)
