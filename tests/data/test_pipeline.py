# SPDX-License-Identifier: Apache-2.0
"""A seed gives one stream, for any number of processes and restarts."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from srl_jax.data.batching import widths
from srl_jax.data.pipeline import draw_points, make_batches
from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.tokenizers import ByteTokenizer
from tests.support.trajectories import sums

TRUNKS, _ = build_trunks(
  [sums(1 + i % 5, f"r{i}") for i in range(10)],
  PlainTemplate(),
  ByteTokenizer(),
  TrunkConfig(),
)


def batches(seed=0, batch_size=4, points=2, trunks=TRUNKS, **process):
  size = widths(trunks)
  return make_batches(
    trunks,
    seed=seed,
    batch_size=batch_size,
    trunk_width=size.trunk,
    points=points,
    stem_width=size.stem,
    **process,
  )


def ids(batch):
  return [trunk.trajectory.id for trunk in batch.sources]


def assert_equal(a, b):
  assert ids(a) == ids(b)
  for x, y in zip(a.trunks, b.trunks, strict=True):
    np.testing.assert_array_equal(x, y)


def test_every_epoch_is_one_permutation_and_they_differ():
  stream = itertools.chain.from_iterable(map(ids, batches()))
  epochs = [list(itertools.islice(stream, 10)) for _ in range(4)]
  for epoch in epochs:
    assert sorted(epoch) == sorted(r.trajectory.id for r in TRUNKS)
  assert len(set(map(tuple, epochs))) == 4


def test_batches_of_one_hold_the_trunks_of_larger_batches_in_their_order():
  # Three epochs of ten trunks.
  drawn = itertools.islice(batches(batch_size=1, points=5), 30)
  wanted = itertools.islice(batches(batch_size=10, points=5), 3)
  assert [ids(batch) for batch in drawn] == [
    [name] for batch in wanted for name in ids(batch)
  ]


def test_neighbouring_seeds_do_not_replay_each_others_epochs():
  epochs = []
  for seed in range(3):
    stream = itertools.chain.from_iterable(map(ids, batches(seed=seed)))
    epochs += [tuple(itertools.islice(stream, 10)) for _ in range(3)]
  assert len(set(epochs)) == 9


def test_same_seed_gives_the_same_arrays():
  for a, b in itertools.islice(zip(batches(), batches()), 8):  # noqa: B905
    assert_equal(a, b)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_restored_stream_goes_on_bit_for_bit(batch_size):
  stream = batches(batch_size=batch_size)
  for _ in range(7):
    next(stream)
  state = json.loads(json.dumps(stream.get_state()))
  restored = batches(batch_size=batch_size)
  next(restored)  # The position before set_state must not matter.
  restored.set_state(state)
  assert restored.get_state() == state
  for _ in range(7):
    assert_equal(next(stream), next(restored))


def with_last(**change):
  """Trunks of which the last branch point of the last one is another."""
  *points, last = TRUNKS[-1].points
  points = (*points, dataclasses.replace(last, **change))
  return [*TRUNKS[:-1], dataclasses.replace(TRUNKS[-1], points=points)]


@pytest.mark.parametrize(
  ("other", "name"),
  [
    ({"seed": 1}, "seed"),
    ({"points": 1}, "points"),
    ({"batch_size": 2}, "batch_size"),
    ({"trunks": TRUNKS[1:]}, "trunks"),
    ({"trunks": TRUNKS[::-1]}, "trunks_crc32"),
    # What rewards compare with, as reference answers.
    ({"trunks": with_last(target="8")}, "trunks_crc32"),
    # The end of a chat template, or of the problem.
    ({"trunks": with_last(stem=np.int32([1]))}, "trunks_crc32"),
    ({"trunks": with_last(at=TRUNKS[-1].points[-1].at - 1)}, "trunks_crc32"),
  ],
)
def test_state_of_another_stream_is_refused(other, name):
  # What has changed may be how srl_jax reads the data.
  message = f"data stream: {name} was .* or data .* the run's versions.json"
  with pytest.raises(ValueError, match=message):
    batches(**other).set_state(batches().get_state())


def test_points_drawn_change_from_visit_to_visit_and_cover_all():
  long = TRUNKS[4]
  draws = [
    tuple(p.step for p in draw_points(long, 2, 0, i).points) for i in range(200)
  ]
  counts = {pair: draws.count(pair) for pair in set(draws)}
  assert set(counts) == set(itertools.combinations(range(5), 2))
  # 200 draws over 10 pairs give 20 each, with a standard deviation of 4.2.
  assert max(counts.values()) < 20 + 5 * 4.2
  assert draws[:9] != [
    tuple(p.step for p in draw_points(long, 2, 1, i).points) for i in range(9)
  ]


def test_a_drawn_record_ends_at_its_last_branch_point():
  for position in range(9):
    drawn = draw_points(TRUNKS[4], 2, 0, position)
    assert len(drawn.tokens) == drawn.points[-1].at
  assert draw_points(TRUNKS[1], 2, 0, 0) is TRUNKS[1]


@pytest.mark.parametrize("size", [0, 11])
def test_a_batch_never_needs_a_record_twice(size):
  with pytest.raises(ValueError, match="between 1 and 10"):
    batches(batch_size=size)


def test_a_trunk_that_comes_twice_in_a_batch_is_sampled_twice():
  # Batch 1 of 6 has the last four trunks of an epoch and two of the next.
  names = {
    trunk.trajectory.id: [point.point_id for point in trunk.points]
    for trunk in TRUNKS
  }
  stream = batches(seed=1, batch_size=6, points=5)
  for number, batch in zip(range(5), stream, strict=False):
    found = [[p.point_id for p in x.points] for x in batch.sources]
    of_first = 4 if number == 1 else 2 if number == 3 else 6
    is_new = [found[n] != names[name] for n, name in enumerate(ids(batch))]
    assert is_new == [n >= of_first for n in range(6)]
    every = list(itertools.chain.from_iterable(found))
    assert len(set(every)) == len(every)
