# SPDX-License-Identifier: Apache-2.0
"""How prompts get into the rows of a stream: together, or only what is new."""

import dataclasses

import jax
import numpy as np
import pytest

from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.rollout import filling
from srl_jax.rollout.completions import complete
from srl_jax.rollout.requests import Request
from srl_jax.rollout.stream import Stream
from srl_jax.testing.tiny import TINY, random_params, small_mesh

MODEL = LanguageModel(dataclasses.replace(TINY, max_positions=512))


def make_stream(params, *, mesh=None, model=MODEL, **sizes):
  return Stream(
    model,
    params,
    mesh=mesh or small_mesh(),
    rules=sharding.ShardingRules(),
    stop_ids=(),
    key=jax.random.key(3),
    segment_iterations=4,
    **sizes,
  )


def close_to(done):
  """What completions may be that are the same up to rounding."""
  return {
    name: (tokens, pytest.approx(logps, abs=1e-4))
    for name, (tokens, logps) in done.items()
  }


def by_name(stream, requests):
  return {done.request.point_id: done for done in complete(stream, requests)}


class OfKernel(LanguageModel):
  """Its keys are stored as the kernel of decoding reads them."""

  reads_what_is_seen = True


@pytest.mark.parametrize(
  ("devices", "model"), [(1, MODEL), (8, MODEL), (1, OfKernel(MODEL.config))]
)
def test_of_a_prompt_that_goes_on_only_the_rest_is_run(devices, model):
  mesh = small_mesh(*((2, 2, 2) if devices == 8 else ()))
  params = random_params(MODEL, seed=1)

  def ask(prompts):
    before = stream.work.prompt_tokens
    requests = [
      Request(tokens, point_id=i, max_new_tokens=8, temperature=0)
      for i, tokens in enumerate(prompts)
    ]
    done = {
      x.request.point_id: (list(x.tokens), list(x.logps))
      for x in complete(stream, requests)
    }
    return done, stream.work.prompt_tokens - before

  # Two rows for each of four devices, of which not all have something to run.
  stream = make_stream(params, rows=8, slots=2, mesh=mesh, model=model)
  first = [[i, *range(3, 90 + i)] for i in range(3, 9)]
  # One that goes on, one that leaves its trunk before the end, one that is of
  # another problem.
  then = [[*first[0], *range(3, 50)], [*first[1][:60], 7, 8, 9], [9, *first[2]]]
  then.append([*first[3], *range(3, 40)])
  ask(first)
  got, run = ask(then)
  rows, width = stream._device_rows._rows, MODEL.config.head_width
  for cache in (rows.trunk, rows.cache):
    axis = cache.k[0].shape[2:].index(width)
    assert axis == (1 if model.reads_what_is_seen else 0)
    assert cache.v[0].shape[3] == width
  stream = make_stream(params, rows=8, slots=2, mesh=mesh)
  fresh, run_fresh = ask(then)
  assert got == close_to(fresh)
  assert run_fresh == sum(len(x) - 1 for x in then)
  assert run == 47 + 2 + len(first[2]) + 37


@pytest.mark.parametrize("window", [0, 24])
def test_tails_of_many_lengths_take_few_programs(window):
  config = dataclasses.replace(
    MODEL.config, sliding_window=window, window_period=2 if window else 0
  )
  model = LanguageModel(config)
  params = random_params(model, seed=1)
  rng = np.random.default_rng(0)
  prompt = lambda n: rng.integers(3, 32, size=n).tolist()  # noqa: E731
  first = [prompt(n) for n in (90, 90, 90, 90, 90, 150, 190)]
  tails = (3, 20, 60, 64, 75, 42, 1)
  then = [[*x, *prompt(n)] for x, n in zip(first, tails, strict=True)]

  def ask(stream, prompts):
    requests = [
      Request(tokens, point_id=i, max_new_tokens=4, temperature=0)
      for i, tokens in enumerate(prompts)
    ]
    done = by_name(stream, requests)
    return {name: (list(x.tokens), list(x.logps)) for name, x in done.items()}

  stream = make_stream(params, rows=16, slots=1, max_stem=1, model=model)
  ask(stream, first)
  run = []
  extend = stream._device_rows.extend

  def noted(trunks, room, width):
    run.append((room, width))
    extend(trunks, room, width)

  stream._device_rows.extend = noted
  before = stream.work.prompt_tokens
  got = ask(stream, then)
  fresh = make_stream(params, rows=16, slots=1, max_stem=1, model=model)
  assert got == close_to(ask(fresh, then))
  # The trunks are 192 tokens wide, and a tail is at most half of that.
  assert run == [(1, 96), (4, 64), (1, 64), (1, 64)]
  # Two heads leave no room for 64 tokens: what is too much runs again.
  again = (149 - 128) + (189 - 128)
  assert stream.work.prompt_tokens - before == sum(tails) + again


def test_the_source_of_equal_trunks_is_the_row_that_has_most_of_it():
  params = random_params(MODEL, seed=1)
  stream = make_stream(params, rows=2, slots=1)
  first = list(range(3, 30)) * 2
  [_] = complete(stream, [Request(first, max_new_tokens=2)])
  new = np.array([*first, 5, 6], np.int32)
  before, kept = stream.work.prompt_tokens, len(first) - 1
  with jax.set_mesh(small_mesh()):
    stream._filler.fill({1: new, 0: new}, {1: 0, 0: kept})
  # Half of a trunk of 64 tokens is run.
  assert stream.work.prompt_tokens - before == len(new) - 32


def test_a_row_that_nobody_comes_back_to_is_taken_first():
  params = random_params(MODEL, seed=1)
  stream = make_stream(params, rows=3, slots=1)
  first, second, third = (
    Request([i, *range(3, 40)], max_new_tokens=4) for i in (3, 4, 5)
  )
  for request in (first, second, third):
    list(complete(stream, [request]))
  stream.release(second)
  # The row of the first is longest unused.
  list(complete(stream, [Request([6, 7, 8], max_new_tokens=4)]))
  before = stream.work.prompt_tokens
  list(complete(stream, [Request([*first.tokens, 8, 9], max_new_tokens=4)]))
  assert stream.work.prompt_tokens - before < len(first.tokens) // 2


def test_long_prompts_are_run_few_at_a_time(monkeypatch):
  params = random_params(MODEL, seed=1)
  rng = np.random.default_rng(0)
  requests = [
    Request(rng.integers(3, 32, size=n).tolist(), point_id=n, max_new_tokens=2)
    for n in (*range(4, 12), *range(50, 58))
  ]

  def run(limit):
    admitted = []
    monkeypatch.setattr(filling, "_PROMPT_TOKENS", limit)
    stream = make_stream(params, rows=16, slots=1)
    admit = stream._device_rows.admit

    def noted(part, room, width):
      admitted.append((room, width))
      admit(part, room, width)

    monkeypatch.setattr(stream._device_rows, "admit", noted)
    planned = stream.at_widest(60, 2, goes_on=False).room
    got = {name: d.tokens for name, d in by_name(stream, requests).items()}
    return got, admitted, planned

  got, all_at_once, planned = run(16 * 64)
  assert all_at_once == [(16, 64)] and planned == 16
  few, in_parts, planned = run(4 * 64)
  assert few == got
  assert in_parts == [(4, 16)] * 2 + [(4, 64)] * 2 and planned == 4
