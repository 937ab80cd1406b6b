# SPDX-License-Identifier: Apache-2.0
"""A tracker that cannot take a row back gets every row once."""

import json

import pytest

from srl_jax.trackers.session import Session


class Place:
  """A tracker in memory; `runs` outlives the process that fills it."""

  def __init__(self, runs):
    self.runs = runs

  def open(self, run_id, is_resumed):
    assert is_resumed == (run_id in self.runs)
    self.rows = self.runs.setdefault(run_id, [])

  def scalars(self, step, values):
    self.rows.append((step, values))

  def histogram(self, step, name, values):
    self.rows.append((step, name))

  def texts(self, step, name, rows):
    self.rows.append((step, name))

  def close(self, failed):
    self.rows.append("closed")


def attempt(
  folder, runs, first, last, *, is_closed=True, cut_at=None, code="a"
):
  """Trains from a checkpoint at `first`; `cut_at` ends it within a step."""
  session = Session(folder / "place.json", Place(runs), code)
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


def test_what_a_resumed_run_measures_first_is_shown(tmp_path):
  runs = {}
  attempt(tmp_path, runs, 0, 3)
  session = Session(tmp_path / "place.json", Place(runs), "a")
  session.begin(3, [{"update_step": i, "loss": i / 4} for i in range(3)])
  # Of the last update step, of which the tracker has three calls.
  session.scalars(2, {"test/accuracy": 0.5})
  session.close()
  [rows] = runs.values()
  assert rows[-3:] == ["closed", (2, {"test/accuracy": 0.5}), "closed"]


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
  session = Session(tmp_path / "p.json", Place(runs), "a")
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


def test_rows_of_other_settings_make_a_new_run_with_all_rows(tmp_path, capsys):
  runs = {}
  attempt(tmp_path, runs, 0, 6)
  [old] = runs
  # From the end nothing is written again, so it is the same run.
  attempt(tmp_path, runs, 6, 7, code="b")
  assert list(runs) == [old] and not capsys.readouterr().out
  attempt(tmp_path, runs, 4, 8, code="c")
  assert capsys.readouterr().out == (
    f"place: settings or code have changed since run {old} got its rows from "
    "update step 4 on, so a new run gets all rows\n"
  )
  before, fresh = runs.values()
  assert before[-1] == "closed" and len(before) == 6 + 3 + 6 + 1 + 1 + 1 + 2
  losses = [x for x in fresh if x[1:] and "loss" in x[1]]
  assert losses == [(i, {"loss": i / 4}) for i in range(8)]
  attempt(tmp_path, runs, 4, 8, code="c")
  assert len(runs) == 2


def test_a_file_without_a_fingerprint_is_of_other_code(tmp_path):
  runs = {}
  attempt(tmp_path, runs, 0, 4)
  path = tmp_path / "place.json"
  state = json.loads(path.read_text())
  del state["fingerprint"]
  path.write_text(json.dumps(state))
  attempt(tmp_path, runs, 3, 4)
  assert len(runs) == 2


def test_a_run_that_shows_nothing_is_not_opened(tmp_path):
  runs = {}
  attempt(tmp_path, runs, 0, 4)
  kept = (tmp_path / "place.json").read_text()
  Session(tmp_path / "place.json", Place(runs), "b").close()
  [rows] = runs.values()
  assert rows.count("closed") == 1
  assert (tmp_path / "place.json").read_text() == kept


def test_a_failed_connection_is_no_session(tmp_path):
  class Refusing(Place):
    def open(self, run_id, is_resumed):
      raise OSError("no network")

  session = Session(tmp_path / "p.json", Refusing({}), "a")
  with pytest.raises(OSError, match="no network"):
    session.begin(0, [])
  assert not (tmp_path / "p.json").exists()
