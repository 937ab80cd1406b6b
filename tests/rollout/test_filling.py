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


def make_stream(params, *, mesh=None, **sizes):
  return Stream(
    MODEL,
    params,
    mesh=mesh or small_mesh(),
    rules=sharding.ShardingRules(),
    stop_ids=(),
    key=jax.random.key(3),
    segment_iterations=4,
    **sizes,
  )


def by_name(stream, requests):
  return {done.request.point_id: done for done in complete(stream, requests)}


@pytest.mark.parametrize("devices", [1, 8])
def test_of_a_prompt_that_goes_on_only_the_rest_is_run(devices):
  mesh = small_mesh(*((2, 2, 2) if devices == 8 else ()))
  params = random_params(MODEL, seed=1)
  stream = make_stream(params, rows=4, slots=2, mesh=mesh)

  def ask(prompts):
    before = stream.work.prompt_tokens
    requests = [
      Request(tokens, point_id=i, max_new_tokens=8, temperature=0)
      for i, tokens in enumerate(prompts)
    ]
    done = {
      x.request.point_id: (x.tokens, np.round(x.logps, 4).tolist())
      for x in complete(stream, requests)
    }
    return done, stream.work.prompt_tokens - before

  first = [[i, *range(3, 90)] for i in (3, 4, 5)]
  ask(first)
  # One that goes on, one that leaves its trunk before the end, one that is of
  # another problem.
  then = [[*first[0], *range(3, 50)], [*first[1][:60], 7, 8, 9], [9, *first[2]]]
  got, run = ask(then)
  stream = make_stream(params, rows=4, slots=2, mesh=mesh)
  fresh, run_fresh = ask(then)
  assert got == fresh
  assert run_fresh == sum(len(x) - 1 for x in then)
  assert run == 47 + 2 + 88


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
    admit = stream._programs.admit

    def noted(part, room, width):
      admitted.append((room, width))
      admit(part, room, width)

    monkeypatch.setattr(stream._programs, "admit", noted)
    *_, planned = stream.at_widest(60, 2)
    got = {name: d.tokens for name, d in by_name(stream, requests).items()}
    return got, admitted, planned

  got, all_at_once, planned = run(16 * 64)
  assert all_at_once == [(16, 64)] and planned == 16
  few, in_parts, planned = run(4 * 64)
  assert few == got
  assert in_parts == [(4, 16)] * 2 + [(4, 64)] * 2 and planned == 4
