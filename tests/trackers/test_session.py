# SPDX-License-Identifier: Apache-2.0
"""A tracker that cannot take a row back gets every row once."""

import pytest

from srl_jax.trackers.session import Session


class Place:
  """A tracker in memory; `runs` outlives the process that fills it."""

  def __init__(self, runs, run_id, is_resumed):
    assert is_resumed == (run_id in runs)
    self.rows = runs.setdefault(run_id, [])

  def scalars(self, step, values):
    self.rows.append((step, values))

  def histogram(self, step, name, values):
    self.rows.append((step, name))

  def texts(self, step, name, rows):
    self.rows.append((step, name))

  def close(self, failed):
    self.rows.append("closed")


def attempt(folder, runs, first, last, *, is_closed=True, cut_at=None):
  """Trains from a checkpoint at `first`; `cut_at` ends it within a step."""
  session = Session(folder / "place.json", lambda *args: Place(runs, *args))
  rows = [{"update_step": i, "loss": i / 4, "gap": None} for i in range(first)]
  session.begin(first, rows)
  for step in range(first, last):
    session.scalars(step, {"loss": step / 4})
    if step == cut_at:
      break
    if step % 2 == 0:
      session.histogram(step, "rewards", None)
    session.scalars(step, {"accuracy": 1.0})
  if is_closed:
    session.close()


def test_a_resumed_run_is_the_same_run_without_rows_twice(tmp_path):
  whole, parts = {}, {}
  attempt(tmp_path / "whole", whole, 0, 8)
  # It ends within step 4, whose checkpoint is of 2, and once more at once.
  attempt(tmp_path / "parts", parts, 0, 8, cut_at=4)
  attempt(tmp_path / "parts", parts, 2, 2)
  attempt(tmp_path / "parts", parts, 2, 6)
  attempt(tmp_path / "parts", parts, 6, 8)
  [once], [joined] = whole.values(), parts.values()
  assert once[-1] == "closed"
  assert len(once) == 8 + 4 + 8 + 1
  assert [x for x in joined if x != "closed"] == once[:-1]


def test_a_run_that_was_killed_is_a_new_run_with_all_rows(tmp_path):
  runs = {}
  attempt(tmp_path, runs, 0, 5, is_closed=False)
  attempt(tmp_path, runs, 4, 6)
  killed, fresh = runs.values()
  assert killed[0] == (0, {"loss": 0.0})
  # The rows before the checkpoint come from the file, which has no histograms.
  assert fresh[:4] == [(i, {"loss": i / 4}) for i in range(4)]
  assert fresh[4:] == [
    (4, {"loss": 1.0}),
    (4, "rewards"),
    (4, {"accuracy": 1.0}),
    (5, {"loss": 1.25}),
    (5, {"accuracy": 1.0}),
    "closed",
  ]


def test_what_was_known_before_a_kill_is_not_believed_after_it(tmp_path):
  runs = {}
  attempt(tmp_path, runs, 0, 4)
  attempt(tmp_path, runs, 4, 6, is_closed=False)
  attempt(tmp_path, runs, 4, 8)
  first, fresh = runs.values()
  # The second attempt went on with the run of the first.
  assert (5, {"loss": 1.25}) in first
  for step in range(8):
    assert fresh.count((step, {"loss": step / 4})) == 1


def test_a_second_stage_brings_no_row_again(tmp_path):
  runs = {}
  session = Session(tmp_path / "p.json", lambda *args: Place(runs, *args))
  session.begin(0, [])
  session.scalars(0, {"loss": 1.0})
  session.begin(1, [{"update_step": 0, "loss": 1.0}])
  session.scalars(1, {"loss": 0.5})
  [rows] = runs.values()
  assert rows == [(0, {"loss": 1.0}), (1, {"loss": 0.5})]


def test_a_tracker_that_joins_late_gets_the_rows_before(tmp_path):
  runs = {}
  attempt(tmp_path, runs, 3, 4)
  [rows] = runs.values()
  assert rows[:3] == [(i, {"loss": i / 4}) for i in range(3)]


def test_a_failed_connection_is_no_session(tmp_path):
  def refuse(run_id, is_resumed):
    raise OSError("no network")

  with pytest.raises(OSError, match="no network"):
    Session(tmp_path / "p.json", refuse)
  assert not (tmp_path / "p.json").exists()
