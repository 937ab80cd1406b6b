# SPDX-License-Identifier: Apache-2.0
"""Metric files across a resume, and console lines."""

import csv
import json
import math

import pytest

from srl_jax import metrics
from srl_jax import progress as progress_lib


def write_rows(writer, first, last):
  for step in range(first, last):
    writer.write(step, {"reward": step / 10, "loss": 1.0 / (step + 1)}, "srl/")
    if step in (1, 3):
      writer.write(step, {"accuracy": 0.25 * step}, "eval/")


def read_files(workdir):
  return (
    (workdir / "metrics.jsonl").read_text(),
    (workdir / "metrics.csv").read_text(),
  )


def test_files_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tmp_path):
  with metrics.MetricWriter(tmp_path / "whole") as writer:
    write_rows(writer, 0, 6)
  # Killed in step 5, also in the middle of a line; the checkpoint was of 2.
  with metrics.MetricWriter(tmp_path / "parts") as writer:
    write_rows(writer, 0, 5)
    writer.write(5, {"only_after_the_checkpoint": 1.0})
  with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
    file.write('{"update_step": 6, "srl/rew')
  with metrics.MetricWriter(tmp_path / "parts", first_step=2) as writer:
    write_rows(writer, 2, 6)
  assert read_files(tmp_path / "parts") == read_files(tmp_path / "whole")


def test_rows_are_on_disk_before_the_writer_is_closed(tmp_path):
  writer = metrics.MetricWriter(tmp_path)
  write_rows(writer, 0, 1)
  jsonl, table = read_files(tmp_path)
  writer.close()
  assert json.loads(jsonl) == {
    "update_step": 0,
    "srl/reward": 0.0,
    "srl/loss": 1.0,
  }
  assert list(csv.reader(table.splitlines())) == [
    ["update_step", "srl/reward", "srl/loss"],
    ["0", "0.0", "1.0"],
  ]


def test_the_csv_header_widens_when_a_new_kind_of_row_comes(tmp_path):
  with metrics.MetricWriter(tmp_path) as writer:
    write_rows(writer, 0, 3)
  rows = list(csv.DictReader(read_files(tmp_path)[1].splitlines()))
  assert [row["eval/accuracy"] for row in rows] == ["", "", "0.25", ""]
  assert [row["srl/reward"] for row in rows] == ["0.0", "0.1", "", "0.2"]


def test_a_number_that_is_not_finite_is_null_in_json_and_empty_in_csv(tmp_path):
  with metrics.MetricWriter(tmp_path) as writer:
    # The first row brings the header with it, the second is appended.
    for step in range(2):
      writer.write(step, {"loss": math.nan, "norm": math.inf, "reward": 1})
  first = read_files(tmp_path)
  for step, line in enumerate(first[0].splitlines()):
    row = {"update_step": step, "loss": None, "norm": None, "reward": 1.0}
    assert json.loads(line) == row
  assert first[1].splitlines()[1:] == ["0,,,1.0", "1,,,1.0"]
  metrics.MetricWriter(tmp_path, first_step=2).close()
  assert read_files(tmp_path) == first


def test_a_fresh_start_leaves_no_rows_of_another_run(tmp_path):
  with metrics.MetricWriter(tmp_path) as writer:
    write_rows(writer, 0, 3)
  metrics.MetricWriter(tmp_path).close()
  assert read_files(tmp_path) == ("", "update_step\n")


def test_a_damaged_file_is_an_error_with_the_line(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"update_step": 0}\n{"st\n{"update_step": 2}\n'
  )
  with pytest.raises(ValueError, match=r"metrics.jsonl line 2 is not JSON"):
    metrics.MetricWriter(tmp_path, first_step=3)


def test_a_console_line_shows_what_is_there_and_the_time_left(capsys):
  columns = ("reward {reward:.3f}", "kept {kept:.0%}", "{rate:,.0f} tok/s")
  progress = metrics.Console("srl", total_steps=100, columns=columns)
  progress.show(1, {"reward": 0.5, "rate": 12345.6})
  shown = capsys.readouterr().out
  assert shown.startswith("srl   1/100  reward 0.500  12,346 tok/s  ")
  assert "kept" not in shown


def test_time_left_forgets_the_compilation_of_the_first_step():
  progress = metrics.Console("srl", total_steps=10)
  progress.line(1, {}, now_s=1000.0)  # the first step compiled
  # Two steps in 20 s since then: seven more take 70 s.
  assert progress.line(3, {}, now_s=1020.0) == "srl  3/10  1m10s left"


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0.4, "0s"), (59.6, "1m00s"), (187, "3m07s"), (7512, "2h05m")],
)
def test_durations_read_as_people_write_them(seconds, text):
  assert progress_lib.format_duration(seconds) == text
