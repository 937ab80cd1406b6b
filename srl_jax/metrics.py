# SPDX-License-Identifier: Apache-2.0
"""Output of metrics: files that survive a resume, and console lines.

Not for: how the values of a metric combine (reductions.py), where people watch
them (trackers), or tables of results (report).
"""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from srl_jax import progress, storage
from srl_jax.storage import files
from srl_jax.storage.mirror import Mirror
from srl_jax.trackers.trackers import Trackers

# What a console line shows: a format string, or a function of the metrics.
Column = str | Callable[[Mapping[str, float]], str]


class MetricWriter:
  """Writes rows to metrics.jsonl and metrics.csv, and hands them to trackers.

  Only process 0 writes; on other processes every method returns at once. When
  `write` returns, the operating system has the row, so killing the process
  loses none; in a bucket, those since the last copy (storage/mirror.py). Use as
  a context manager, or call `close`.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    first_step: int = 0,
    first_of_stage: int = 0,
    trackers: Trackers | None = None,
  ):
    """Opens the files of `workdir` for rows of step `first_step` and later.

    Existing rows with step >= first_step are dropped: they were written after
    the checkpoint that is now resumed, and will be written again. So the files
    of a resumed run equal those of an uninterrupted one, provided every row
    below first_step was written before that checkpoint was saved. The default
    drops all rows.

    Args:
      workdir: of the run.
      first_step: see above.
      first_of_stage: update steps of all stages before, for the trackers.
      trackers: get every row too; they stay open.
    """
    self._is_writer = jax.process_index() == 0
    if not self._is_writer:
      return
    directory = storage.path(workdir)
    self._mirror = Mirror(directory)
    self._jsonl_path = self._mirror.folder / "metrics.jsonl"
    self._csv_path = self._mirror.folder / "metrics.csv"
    kept = [
      row
      for row in read_rows(directory / "metrics.jsonl")
      if row["update_step"] < first_step
    ]
    files.write_text(self._jsonl_path, "".join(map(_json_line, kept)))
    self._jsonl = self._jsonl_path.open("a", encoding="utf-8")
    # A killed attempt may have written a row that is now measured again; the
    # copy is skipped.
    last = [row for row in kept if row["update_step"] == first_step - 1]
    self._written = {_json_line(row) for row in last}
    self._columns = ["update_step"]
    for row in kept:
      self._add_columns(row)
    self._csv = self._rewrite_csv()
    self._trackers = trackers or Trackers()
    self._trackers.begin(first_of_stage, first_step, kept)

  def write(
    self, step: int, values: Mapping[str, float], prefix: str = ""
  ) -> None:
    """Appends one row, unless it was written before the run was resumed.

    Args:
      step: update step of the row; see `first_step`.
      values: values by name; nan and infinity become null in JSON.
      prefix: text put before each name, e.g. "srl/".
    """
    if not self._is_writer:
      return
    row = {"update_step": int(step)}
    row.update({prefix + name: float(x) for name, x in values.items()})
    if (line := _json_line(row)) in self._written:
      return
    self._jsonl.write(line)
    self._jsonl.flush()
    if self._add_columns(row):
      self._csv.close()
      self._csv = self._rewrite_csv()
    else:
      csv.writer(self._csv).writerow(self._cells(row))
      self._csv.flush()
    step = row.pop("update_step")
    self._trackers.write(step, row)

  def close(self) -> None:
    if self._is_writer:
      self._jsonl.close()
      self._csv.close()
      self._mirror.close()

  def __enter__(self) -> MetricWriter:
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def _add_columns(self, row: Mapping[str, Any]) -> bool:
    new = [name for name in row if name not in self._columns]
    self._columns += new
    return bool(new)

  def _cells(self, row: Mapping[str, Any]) -> list[Any]:
    return [
      _csv_cell(row[name]) if name in row else "" for name in self._columns
    ]

  def _rewrite_csv(self):
    # A CSV file has one header, but new columns come with later rows: the
    # whole file is written again at the first row with a new column.
    temporary = self._csv_path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
      writer = csv.writer(file)
      writer.writerow(self._columns)
      writer.writerows(map(self._cells, read_rows(self._jsonl_path)))
    os.replace(temporary, self._csv_path)
    return self._csv_path.open("a", encoding="utf-8", newline="")


class Console:
  """Prints a console line per logged update step of a stage (process 0)."""

  def __init__(
    self,
    stage: str,
    *,
    total_steps: int,
    first_step: int = 0,
    columns: Sequence[Column] = (),
  ):
    """Starts the clock of a stage.

    Args:
      stage: name of the stage, the first word of each line.
      total_steps: update steps of the whole stage, resumed ones included.
      first_step: number of update steps that were done before a resume.
      columns: format strings over metric names, such as
        "reward {reward:.3f}", or functions that return the text; a column whose
        metric is absent is left out.
    """
    self._stage = stage
    self._total_steps = total_steps
    self._columns = columns
    self._mark = (first_step, time.monotonic())
    self._warm = False

  def show(self, steps_done: int, values: Mapping[str, float]) -> None:
    """Prints the line of the update step that was number `steps_done`."""
    progress.say(self.line(steps_done, values, time.monotonic()))

  def line(
    self, steps_done: int, values: Mapping[str, float], now_s: float
  ) -> str:
    """Returns the line that `show` prints at `now_s` (time.monotonic)."""
    width = len(str(self._total_steps))
    parts = [f"{self._stage} {steps_done:>{width}}/{self._total_steps}"]
    for column in self._columns:
      try:
        is_text = isinstance(column, str)
        parts.append(column.format(**values) if is_text else column(values))
      except KeyError:
        continue
    left_s = self._left_s(steps_done, now_s)
    if left_s is not None:
      parts.append(f"{progress.format_duration(left_s)} left")
    return "  ".join(parts)

  def _left_s(self, steps_done: int, now_s: float) -> float | None:
    step, start_s = self._mark
    if not self._warm:
      # The first line includes compilation, so the clock starts again here.
      self._warm = True
      self._mark = (steps_done, now_s)
    if steps_done <= step:
      return None
    return (
      (now_s - start_s) / (steps_done - step) * (self._total_steps - steps_done)
    )


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a metrics.jsonl file; [] if there is none.

  A last line that a kill cut short is left out.

  Raises:
    ValueError: another line is not JSON; the message names the line.
  """
  if not path.exists():
    return []
  lines = path.read_text(encoding="utf-8").split("\n")
  rows = []
  # After the last newline comes nothing, or a line that was cut short.
  for number, line in enumerate(lines[:-1], start=1):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      raise ValueError(
        f"{path} line {number} is not JSON ({error});"
        " mend or remove that line, or choose another --workdir"
      ) from error
  return rows


def _json_line(row: Mapping[str, Any]) -> str:
  # JSON has no nan or infinity, and readers refuse Python's spelling of them.
  finite = {
    k: v if v is not None and math.isfinite(v) else None for k, v in row.items()
  }
  return json.dumps(finite) + "\n"


def _csv_cell(value: float | None) -> float | str:
  # Not nan or inf: a resume reads rows back from JSON, which has only null.
  return "" if value is None or not math.isfinite(value) else value
