# SPDX-License-Identifier: Apache-2.0
"""When rounds begin, and that all that begins is scored."""

import numpy as np
import pytest

from benchmarks.refill import Clockwork, Draws, Shape
from srl_jax.rollout.layout import Layout
from srl_jax.rollout.shared import SharedSlots
from srl_jax.train.round_schedule import Counts, is_enough, sample_together

# Lengths vary tenfold.
SHAPE = Shape(
  groups=24, points=2, samples=4, limit=64, kept=0.3, spread=0.8, alike=0.3
)
LONG = 31
LAYOUT = Layout(
  rows=4,
  slots=4,
  points=2,
  samples=4,
  trunk_width=1,
  stem_width=1,
  max_new_tokens=64,
  segment_iterations=8,
  room=4,
)


def test_the_expected_share_is_a_half_until_groups_are_judged():
  assert Counts().share == 0.5
  # One of 14 and two more, of which one is kept.
  assert Counts(3, 14).share == 0.25
  assert Counts(1, 2).plus(Counts(3, 4)) == (4, 6)


@pytest.mark.parametrize(
  ("need", "in_flight", "enough"),
  # 100 groups, half of them kept: 50, give or take 5.
  [(45, 100, True), (46, 100, False), (0, 0, True), (1, 0, False)],
)
def test_enough_is_a_deviation_more_than_what_is_needed(
  need, in_flight, enough
):
  assert is_enough(need, in_flight, 0.5) == enough


class Watched:
  """Draws and judges as the benchmark does, and keeps a log."""

  def __init__(self, need, max_rounds=1000):
    slots = SharedSlots(
      Clockwork(LAYOUT, SHAPE),
      LAYOUT,
      key=None,
      temperature=1.0,
      stop_ids=(),
      pad_id=0,
    )
    self.log, self.lengths = [], {}
    self._draws = Draws(SHAPE, trunks=2)
    self.counts = sample_together(
      slots,
      self._draw,
      self._score,
      need=need,
      before=Counts(),
      max_rounds=max_rounds,
    )

  def _draw(self):
    self.log.append("draw")
    return self._draws()

  def _score(self, number, trunks, branches):
    self.log.append(number)
    drawn_NR = branches.is_completion_NRC.sum(-1)
    self.lengths[number] = drawn_NR
    want = SHAPE.lengths(
      np.repeat(trunks.point_id_NK, 4, axis=1),
      number * 4 + np.tile(np.arange(4), (2, 2)),
    )
    np.testing.assert_array_equal(drawn_NR, want)
    # Rewards differ where completions are long: three groups in ten.
    is_kept_P = drawn_NR.reshape(-1, 4).mean(-1) > LONG
    return Counts(int(is_kept_P.sum()), is_kept_P.size)


def test_every_round_that_begins_is_finished_and_judged_once():
  got = Watched(need=24)
  scored = [x for x in got.log if x != "draw"]
  assert sorted(scored) == list(range(got.log.count("draw")))
  # Rounds end in another order than they begin, so nothing waits for the
  # longest; and lengths are those of the whole distribution.
  assert scored != sorted(scored)
  length_PG = np.concatenate([x.reshape(-1, 4) for x in got.lengths.values()])
  assert length_PG.max() == 64 and length_PG.min() < 10
  assert got.counts == ((length_PG.mean(1) > LONG).sum(), len(length_PG))
  assert got.counts.kept >= 24
  assert 0.2 < got.counts.kept / got.counts.scored < 0.4


def test_rounds_begin_before_the_first_has_ended():
  log = Watched(need=24).log
  first = log.index(next(x for x in log if x != "draw"))
  # Half are expected to be kept: 24 * 2 groups and a deviation, in fours.
  assert first >= 12
  # It is three in ten, so more follow while others are decoded.
  assert "draw" in log[first:]


def test_no_more_rounds_begin_than_may():
  got = Watched(need=24, max_rounds=5)
  assert got.log.count("draw") == 5
  assert got.counts.scored == 20 and got.counts.kept < 24


def test_nothing_begins_if_nothing_is_needed():
  assert Watched(need=0).log == []
