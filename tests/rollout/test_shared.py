# SPDX-License-Identifier: Apache-2.0
"""Batches that share slots have the samples of batches that are alone."""

import dataclasses

import jax
import numpy as np
import pytest

from srl_jax import sharding
from srl_jax.models import LanguageModel
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.device_rows import DeviceRows
from srl_jax.rollout.layout import Layout
from srl_jax.rollout.sampler import Sampler
from srl_jax.rollout.shared import SharedSlots
from srl_jax.testing.tiny import (
  TINY,
  four_trunks,
  make_trunk,
  make_trunks,
  random_params,
  small_mesh,
)

MODEL = LanguageModel(dataclasses.replace(TINY, max_positions=512))
RULES = sharding.ShardingRules()
KEY = jax.random.key(3)
LAYOUT = Layout(
  rows=2,
  slots=3,
  points=2,
  samples=3,
  trunk_width=8,
  stem_width=2,
  max_new_tokens=20,
  segment_iterations=4,
  room=1,
)
# Like four_trunks in shape, with other names.
OTHERS = make_trunks(
  [
    make_trunk(range(2, 7), (2, [10], 11), (5, [11, 12], 12)),
    make_trunk([3, 1, 4, 1, 5], (4, [13, 10], 13)),
    make_trunk([2, 7, 1, 8, 2, 8], (3, [10], 14), (6, [12], 15)),
    make_trunk([9, 9, 1, 3], (2, [10], 16), (4, [14], 17)),
  ],
  trunk_width=8,
)
# What a batch holds of a branch that was never begun, and of all others.
FIELDS = ("tokens_NRC", "length_NR", "is_completion_NRC", "stopped_NR")


class Watched(DeviceRows):
  """Notes which places trunks were run for."""

  def admit(self, trunks, room, width, places=None):
    self.places = [*getattr(self, "places", ()), *places]
    super().admit(trunks, room, width, places)


def sampled(batches, model=MODEL, mesh=None, **changes):
  """Branches of batches in shared slots, and what decoded them."""
  layout = dataclasses.replace(LAYOUT, **changes)
  mesh = mesh or small_mesh()
  with jax.set_mesh(mesh):
    decoder = Watched(
      model, random_params(model, seed=1), mesh=mesh, **layout.sizes
    )
    slots = SharedSlots(
      decoder, layout, key=KEY, temperature=1.0, stop_ids=(2,), pad_id=0
    )
    numbers = [slots.begin(trunks) for trunks in batches]
    found, order = {}, []
    while len(found) < len(numbers):
      slots.start()
      for number in slots.finish():
        found[number] = slots.take(number)
        order.append(number)
  return [found[number] for number in numbers], slots.use, decoder


def with_kernel(model, kernel):
  return LanguageModel(dataclasses.replace(model.config, decode_kernel=kernel))


def alone(trunks, model=MODEL):
  sampler = Sampler(
    model,
    SamplingConfig(samples=3, max_new_tokens=20),
    stop_ids=(2,),
    pad_id=0,
    mesh=small_mesh(),
    rules=RULES,
  )
  with jax.set_mesh(small_mesh()):
    return sampler.sample(random_params(model, seed=1), trunks, KEY)


def assert_same(ours, theirs, atol=2e-5):
  for name in FIELDS:
    np.testing.assert_array_equal(
      getattr(ours, name), getattr(theirs, name), err_msg=name
    )
  # Float32 rounding of other widths.
  np.testing.assert_allclose(
    ours.sampler_logp_NRC, theirs.sampler_logp_NRC, atol=atol
  )


@pytest.mark.parametrize(
  ("window", "kernel"),
  [
    (0, "plain"),
    (5, "ragged"),
    pytest.param(0, "ragged", marks=pytest.mark.slow),
    pytest.param(5, "plain", marks=pytest.mark.slow),
  ],
)
def test_the_first_batch_has_the_samples_of_the_batch_sampler(window, kernel):
  # With a window, a layer counts positions in each trunk of a row.
  model = LanguageModel(
    dataclasses.replace(MODEL.config, sliding_window=window)
  )
  [got, _], use, decoder = sampled(
    [four_trunks(), OTHERS], with_kernel(model, kernel)
  )
  assert_same(got, alone(four_trunks(), model))
  assert len(set(got.length_NR.ravel().tolist())) > 5, "lengths differ"
  # The rows had several trunks at a time.
  assert set(decoder.places) == {0, 1}
  assert 0 < use.busy < use.slot_iterations == use.iterations * 2 * 3


def test_samples_do_not_depend_on_rows_slots_and_turns():
  want, *_ = sampled([four_trunks(), OTHERS])
  trunks = len(four_trunks().length_N) * 2
  moved = 0
  for changes in (
    {"rows": 1, "slots": 1},
    {"rows": 3, "slots": 6, "segment_iterations": 1},
    {"rows": 1, "slots": 11},
    {"rows": 8, "slots": 2, "segment_iterations": 16, "room": 2},
  ):
    got, _, decoder = sampled([four_trunks(), OTHERS], **changes)
    for ours, theirs in zip(got, want, strict=True):
      assert_same(ours, theirs)
    moved += len(decoder.places) - trunks
  assert moved > 0, "idle rows got branches that waited elsewhere"


def test_batches_of_the_same_points_have_samples_of_their_own():
  [first, second], *_ = sampled([four_trunks()] * 2)
  is_real = first.length_NR > 0
  assert (second.length_NR > 0).tolist() == is_real.tolist()
  same = (first.tokens_NRC == second.tokens_NRC).all(-1)[is_real]
  # Some are a stop token at once.
  assert same.mean() < 0.5


@pytest.mark.parametrize(
  "kernel", ["ragged", pytest.param("plain", marks=pytest.mark.slow)]
)
def test_one_device_equals_eight(kernel):
  runs = (small_mesh(), "plain"), (small_mesh(2, 2, 2), kernel)
  one, eight = (
    sampled(
      [four_trunks(), OTHERS],
      with_kernel(MODEL, of_run),
      mesh=mesh,
      rows=4,
      room=4,
    )[0]
    for mesh, of_run in runs
  )
  for ours, theirs in zip(one, eight, strict=True):
    assert_same(ours, theirs)
