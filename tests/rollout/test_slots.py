# SPDX-License-Identifier: Apache-2.0
"""How far the bookkeeping of slots reaches: turns and widths of the cache."""

import functools

import jax
import numpy as np
import pytest

from srl_jax.models import LanguageModel
from srl_jax.rollout.decode import SamplingConfig, rollout
from srl_jax.rollout.slots import cache_widths
from srl_jax.testing.tiny import TINY, make_trunk, make_trunks, random_params
from tests.support import scripted


@pytest.mark.parametrize(("slots", "turns"), [(1, 12), (2, 8)])
def test_branches_that_all_reach_the_limit_are_kept_whole(slots, turns):
  # Three branches of four turns, one after the other or two at a time: as
  # many turns as slots can ever take.
  trunks = make_trunks([make_trunk([1], *((1, [3 * k], k) for k in range(3)))])
  config = SamplingConfig(
    samples=1, max_new_tokens=4, temperature=0.0, slots=slots
  )
  sample = jax.jit(
    lambda script: rollout(
      scripted.ScriptedModel(),
      script,
      trunks,
      jax.random.key(0),
      config=config,
      stop_ids=(),
      pad_id=0,
    )
  )
  got, slot_use = sample(scripted.successor(12))
  assert got.tokens_NRC[0].tolist() == [
    [0, 1, 2, 3, 4],
    [3, 4, 5, 6, 7],
    [6, 7, 8, 9, 10],
  ]
  assert slot_use.slot_iterations_N.tolist() == [slots * turns]


def test_a_cache_of_few_slots_that_grows_gives_the_same_samples():
  # Branches of 2, 5, 12 and 12 turns. In two slots the third begins at turn 2
  # and outgrows six columns at turn 8, in the middle of the ring. The fourth
  # lasts to turn 16, when the ring of twelve has come round again.
  model = LanguageModel(TINY)
  stems = (range(n) for n in (1, 4, 11, 11))
  points = [(3, stem, k) for k, stem in enumerate(stems)]
  trunks = make_trunks([make_trunk([1, 2, 3], *points)])

  @functools.partial(jax.jit, static_argnames=("slots", "cache_start"))
  def sample(params, **sizes):
    config = SamplingConfig(samples=1, max_new_tokens=2, **sizes)
    found, _ = rollout(
      model,
      params,
      trunks,
      jax.random.key(0),
      config=config,
      stop_ids=(),
      pad_id=0,
    )
    return found

  params = random_params(model)
  whole, got = sample(params), sample(params, slots=2, cache_start=6)
  np.testing.assert_array_equal(got.tokens_NRC, whole.tokens_NRC)
  # Float32 rounding of other widths.
  np.testing.assert_allclose(
    got.sampler_logp_NRC, whole.sampler_logp_NRC, atol=2e-5
  )


def test_the_cache_doubles_from_its_start_to_the_longest_row():
  for start, widths in (
    (0, [20]),
    (20, [20]),
    (64, [20]),
    (11, [20]),
    (3, [3, 5, 10, 20]),
    (10, [10, 20]),
  ):
    assert cache_widths(start, 20) == widths


@pytest.mark.parametrize(
  ("device", "limit", "first"),
  # The last of `limit` tokens is not run, and one is given.
  [("cpu", 150, 75), ("cpu", 100, 100), ("TPU v5", 600, 600)],
)
def test_the_first_cache_is_small_where_loops_compile_fast(
  device, limit, first, monkeypatch
):
  monkeypatch.setattr("srl_jax.sharding.device_kind", lambda: device)
  widths = []

  class Model(scripted.ScriptedModel):
    def init_cache(self, trunk, branches, width):
      widths.append(width)
      return super().init_cache(trunk, branches, width)

  jax.eval_shape(
    functools.partial(
      rollout,
      Model(),
      config=SamplingConfig(samples=1, max_new_tokens=limit),
      stop_ids=(),
      pad_id=0,
    ),
    scripted.successor(16),
    make_trunks([make_trunk([1], (1, [3], 0))]),
    key=jax.random.key(0),
  )
  assert widths == [first]
