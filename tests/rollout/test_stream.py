# SPDX-License-Identifier: Apache-2.0
"""Requests that enter and leave while others are sampled."""

import dataclasses

import jax
import numpy as np
import pytest

from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.rollout.completions import complete
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.requests import Request
from srl_jax.rollout.sampler import Sampler
from srl_jax.rollout.stream import Stream
from srl_jax.testing import compilation
from srl_jax.testing.tiny import (
  TINY,
  make_trunk,
  make_trunks,
  random_params,
  small_mesh,
)
from tests.support import scripted
from tests.support.scripted import ScriptedModel

MODEL = LanguageModel(dataclasses.replace(TINY, max_positions=512))
RULES = sharding.ShardingRules()
PROMPTS = ([3, 4, 5], [7, 8], [1, 2, 3, 4, 5, 6], [9], [5, 6, 7, 8, 9, 10, 11])


def make_stream(policy=ScriptedModel(), params=None, **settings):
  settings = {
    "rows": 2,
    "slots": 2,
    "stop_ids": (2,),
    "key": jax.random.key(3),
    "segment_iterations": 4,
  } | settings
  if params is None:
    params = scripted.successor(10)
  mesh = settings.pop("mesh", None) or small_mesh()
  return Stream(policy, params, mesh=mesh, rules=RULES, **settings)


def tiny_requests(**settings):
  return [
    Request(tokens, point_id=i, samples=range(3), **settings)
    for i, tokens in enumerate(PROMPTS)
  ]


def by_name(stream, requests):
  return {
    (done.request.point_id, done.sample): done
    for done in complete(stream, requests)
  }


def test_a_prompt_goes_on_until_a_stop_token_or_the_limit():
  stream = make_stream(stop_ids=(9,))
  requests = [
    Request([1, 7], point_id=0, max_new_tokens=4),
    Request([3], point_id=1, max_new_tokens=4),
  ]
  got = by_name(stream, requests)
  assert got[0, 0].tokens == [8, 9] and got[0, 0].is_stopped
  assert got[1, 0].tokens == [4, 5, 6, 7] and not got[1, 0].is_stopped
  np.testing.assert_allclose(got[0, 0].logps, 0, atol=1e-6)
  assert stream.is_idle


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_and_log_probs_are_those_of_the_batch_sampler(temperature):
  params = random_params(MODEL, seed=1)
  key = jax.random.key(3)
  mesh = small_mesh()
  config = SamplingConfig(samples=3, max_new_tokens=20, temperature=temperature)
  sampler = Sampler(
    MODEL, config, stop_ids=(2,), pad_id=0, mesh=mesh, rules=RULES
  )
  trunks = make_trunks(
    [
      make_trunk(tokens[:-1] or [0], (len(tokens) - 1, tokens[-1:], i))
      for i, tokens in enumerate(PROMPTS)
    ]
  )
  with jax.set_mesh(mesh):
    want = sampler.sample(params, trunks, key)
  stream = make_stream(MODEL, params)
  got = by_name(
    stream, tiny_requests(max_new_tokens=20, temperature=temperature)
  )
  assert len(got) == 15
  for (i, g), done in got.items():
    is_ours = want.is_completion_NRC[i, g]
    assert done.tokens == want.tokens_NRC[i, g][is_ours].tolist()
    assert done.is_stopped == want.stopped_NR[i, g]
    # Float32 rounding of other widths.
    np.testing.assert_allclose(
      done.logps, want.sampler_logp_NRC[i, g][is_ours], atol=2e-5
    )
  lengths = {len(done.tokens) for done in got.values()}
  assert len(lengths) > 2 or temperature == 0


def test_samples_do_not_depend_on_rows_slots_and_turns():
  params = random_params(MODEL, seed=1)
  texts = []
  for rows, slots, turns in ((1, 1, 3), (2, 2, 4), (5, 3, 16)):
    stream = make_stream(
      MODEL, params, rows=rows, slots=slots, segment_iterations=turns
    )
    got = by_name(stream, tiny_requests(max_new_tokens=20))
    texts.append({name: done.tokens for name, done in got.items()})
  assert texts[0] == texts[1] == texts[2]


def test_each_request_is_drawn_by_its_own_settings():
  sharp = np.zeros((10, 10))
  sharp[:, 4], sharp[:, 5] = 3.0, 2.5  # Probabilities 0.499 and 0.303.
  stream = make_stream(params=scripted.after_token(sharp), rows=4, stop_ids=())
  draws = {"max_new_tokens": 50, "samples": range(4)}
  settings = {
    1: {"temperature": 0.0},
    2: {"top_k": 2},
    3: {"top_p": 0.7},
    4: {"temperature": 1e6},
    5: {},
  }
  seen = {name: set() for name in settings}
  requests = [
    Request([1], point_id=name, **draws, **more)
    for name, more in settings.items()
  ]
  for done in complete(stream, requests):
    seen[done.request.point_id] |= set(done.tokens)
    if done.request.point_id == 1:
      # Greedy log-probs are those of temperature 1.
      np.testing.assert_allclose(done.logps, np.log(0.499), atol=0.002)
  assert seen[1] == {4}
  assert seen[2] == seen[3] == {4, 5}
  assert seen[4] == set(range(10))
  assert len(seen[5]) > 2


def test_prompts_that_differ_in_their_last_tokens_share_a_trunk():
  params = random_params(MODEL, seed=1)
  shared = [5, 6, 7, 8, 9, 10]
  prompts = [[*shared, 1], [*shared, 3, 4], [*shared[:4], 11, 12]]
  requests = [
    Request(tokens, point_id=i, max_new_tokens=12)
    for i, tokens in enumerate(prompts)
  ]
  together = make_stream(MODEL, params, max_stem=3, rows=1, slots=3)
  apart = make_stream(MODEL, params, max_stem=1, rows=3, slots=3)
  got, want = by_name(together, requests), by_name(apart, requests)
  assert together.work.prompt_tokens == 6
  assert apart.work.prompt_tokens == 6 + 7 + 5
  assert {name: d.tokens for name, d in got.items()} == {
    name: d.tokens for name, d in want.items()
  }


def test_a_trunk_whose_slots_are_busy_is_copied_to_a_free_row():
  long = {"max_new_tokens": 1000}
  requests = [Request([5, 6, 7, t], point_id=t, **long) for t in range(1, 6)]
  stream = make_stream(rows=3, slots=2, max_stem=2, stop_ids=())
  for request in requests:
    stream.submit(request)
  # Two prompts in each row: three rows have the same trunk of 3 tokens.
  assert len({piece.ticket for piece in stream.advance()}) == 5
  assert stream.work.prompt_tokens == 3
  assert stream.waiting == 0


@pytest.mark.parametrize("devices", [1, 8])
def test_a_copied_trunk_gives_what_it_gives_where_it_was_run(devices):
  params = random_params(MODEL, seed=1)
  mesh = small_mesh() if devices == 1 else small_mesh(2, 2, 2)
  # The samples of a prompt are requests of their own, in rows of one slot. Some
  # begin together, and others while the trunk's row is busy.
  requests = [
    Request(tokens, point_id=i, samples=(g,), max_new_tokens=4 + 9 * g)
    for i, tokens in enumerate(PROMPTS)
    for g in range(3)
  ]
  alone, want = make_stream(MODEL, params, rows=1, slots=1), {}
  for request in requests:
    # Another trunk in between leaves none to copy.
    between = dataclasses.replace(request, tokens=[20, 21, 22])
    for asked in (between, request):
      [done] = complete(alone, [asked])
    want[request.point_id, done.sample] = done.tokens
  stream = make_stream(MODEL, params, mesh=mesh, rows=4, slots=1, max_stem=1)
  got = by_name(stream, requests)
  assert {name: done.tokens for name, done in got.items()} == want
  assert stream.work.prompt_tokens == sum(len(p) - 1 for p in PROMPTS)


def test_a_prompt_is_no_stem_if_it_has_little_in_common_with_a_trunk():
  stream = make_stream(rows=2, slots=2, max_stem=4, stop_ids=())
  for tokens in ([5, 6, 7, 8], [5, 1, 2, 3]):
    stream.submit(Request(tokens, max_new_tokens=4))
  stream.advance()
  assert stream.work.prompt_tokens == 3 + 3


def test_trunks_and_cache_grow_when_they_must():
  params = random_params(MODEL, seed=1)
  rng = np.random.default_rng(0)
  prompts = [rng.integers(3, 32, size=n).tolist() for n in (100, 20, 70)]
  requests = [
    Request(tokens, point_id=i, max_new_tokens=90)
    for i, tokens in enumerate(prompts)
  ]
  small = make_stream(MODEL, params, stop_ids=())
  large = make_stream(
    MODEL, params, segment_iterations=100, trunk_width=128, stop_ids=()
  )
  got, want = by_name(small, requests), by_name(large, requests)
  assert {name: d.tokens for name, d in got.items()} == {
    name: d.tokens for name, d in want.items()
  }
  # A plan of the memory says so before.
  widest = make_stream(MODEL, params).at_widest(99, 90, goes_on=False)
  sizes = widest.device_rows.sizes
  assert sizes["trunk_width"] == small._device_rows.trunk_width == 128
  assert sizes["cache_width"] == small._device_rows.cache_width == 128


@pytest.mark.parametrize(("limit", "width"), [(128, 128), (129, 192)])
def test_a_ring_is_as_wide_as_the_longest_branch_needs_it(limit, width):
  # The last token of a branch is not run, so 128 new ones fit into 128 columns.
  # The last segment could run turns beyond it: 5 does not divide 128.
  params = random_params(MODEL, seed=1)
  stream = make_stream(MODEL, params, segment_iterations=5, stop_ids=())
  stream.submit(Request([3, 4], max_new_tokens=limit))
  widths = set()
  while not stream.is_idle:
    stream.advance()
    widths.add(stream._device_rows.cache_width)
  assert max(widths) == width


def test_where_width_costs_no_time_the_ring_has_its_full_width_at_once(
  monkeypatch,
):
  monkeypatch.setattr(ScriptedModel, "reads_what_is_seen", True)
  stream = make_stream(stop_ids=())
  widths = []
  for limit in (129, 30, 400, 9):
    stream.submit(Request([3, 4], max_new_tokens=limit))
    while not stream.is_idle:
      stream.advance()
      widths.append(stream._device_rows.cache_width)
  assert list(dict.fromkeys(widths)) == [192, 512]


def test_a_cancelled_request_says_no_more_and_frees_its_slots():
  stream = make_stream(rows=1, slots=2, stop_ids=())
  long = {"samples": range(6), "max_new_tokens": 1000}
  first = stream.submit(Request([1], point_id=0, **long))
  second = stream.submit(Request([2, 3], point_id=1, max_new_tokens=6))
  assert {piece.ticket for piece in stream.advance()} == {first}
  stream.cancel(first)
  pieces = []
  while not stream.is_idle:
    pieces += stream.advance()
  assert {piece.ticket for piece in pieces} == {second}
  assert [t for p in pieces for t in p.tokens] == [4, 5, 6, 7, 8, 9]
  third = stream.submit(Request([5], point_id=2, max_new_tokens=2))
  stream.cancel(third)
  assert stream.is_idle and not stream.advance()


def test_the_most_likely_tokens_are_reported():
  stream = make_stream(likely=3, stop_ids=())
  stream.submit(Request([4], max_new_tokens=2, temperature=0.0))
  [piece] = stream.advance()
  assert piece.tokens == [5, 6] and piece.ending == "limit"
  assert piece.likely[:, 0].tolist() == [5, 6]
  np.testing.assert_allclose(piece.likely_logps[:, 0], piece.logps, atol=1e-6)
  assert (np.diff(piece.likely_logps) <= 0).all()


def test_log_probs_of_the_policy_do_not_depend_on_the_temperature():
  sharp = np.zeros((10, 10))
  sharp[:, 4] = 3.0  # Probability 0.69.
  stream = make_stream(params=scripted.after_token(sharp), stop_ids=())
  stream.submit(Request([1], max_new_tokens=4, temperature=0.1))
  [piece] = stream.advance()
  assert piece.tokens == [4] * 4
  assert piece.policy_logps == [] and piece.likely.shape == (4, 0)
  np.testing.assert_allclose(piece.logps, 0, atol=1e-6)
  stream.likely = 1
  stream.submit(Request([1], max_new_tokens=4, temperature=0.1))
  [piece] = stream.advance()
  want = 3 - np.log(np.exp(3) + 9)
  np.testing.assert_allclose(piece.policy_logps, want, rtol=1e-5)
  np.testing.assert_allclose(piece.likely_logps[:, 0], want, rtol=1e-5)


def test_a_second_stream_of_equal_shapes_traces_and_compiles_nothing():
  # No other test has this model, so the first stream compiles everything.
  config = dataclasses.replace(MODEL.config, d_mlp=40)
  params = random_params(LanguageModel(config), seed=1)

  def texts(key):
    # As callers do: a model of its own for each stream.
    stream = make_stream(LanguageModel(config), params, key=jax.random.key(key))
    rng = np.random.default_rng(0)
    requests = [
      Request(rng.integers(3, 32, size=n).tolist(), point_id=n, **long)
      for n in (40, 5, 12)
    ]
    return {name: x.tokens for name, x in by_name(stream, requests).items()}

  # Trunks and the ring grow on the way.
  long = {"max_new_tokens": 90}
  before = compilation.counts()
  first = texts(0)
  between = compilation.counts()
  # Two make the state; the others run trunks and segments of some widths.
  assert between.programs - before.programs > 4
  assert texts(1) != first
  assert texts(0) == first
  assert compilation.counts() == between


def test_one_device_equals_eight():
  params = random_params(MODEL, seed=1)
  requests = tiny_requests(max_new_tokens=12)
  meshes = [small_mesh(), small_mesh(2, 2, 2)]
  got = [
    {
      name: done.tokens
      for name, done in by_name(
        make_stream(MODEL, params, mesh=mesh), requests
      ).items()
    }
    for mesh in meshes
  ]
  assert got[0] == got[1]


@pytest.mark.parametrize(
  "change",
  [
    {"tokens": []},
    {"samples": ()},
    {"max_new_tokens": 0},
    {"temperature": -1.0},
    {"top_k": -1},
    {"top_p": 0.0},
  ],
)
def test_settings_that_cannot_be_are_refused_by_name(change):
  request = Request([1])
  with pytest.raises(ValueError, match=next(iter(change))):
    dataclasses.replace(request, **change)
