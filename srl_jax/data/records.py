# SPDX-License-Identifier: Apache-2.0
"""Reads a file record by record and sets the bad ones aside.

A bad record becomes a Reject, which names file, line and field and says what to
do. Which shape a record must have is up to the parser that is given.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from srl_jax import storage
from srl_jax.data import sources
from srl_jax.data.texts import Row
from srl_jax.trajectory import RecordError, Trajectory

# Of a file in another format each record is bad; all would fill the memory.
_KEPT_RECORDS = 1000
Place = tuple[pathlib.Path, int]  # A file, and the number of a record there.


class Reject(NamedTuple):
  """A record that was set aside; str() gives the full message.

  `record` is its text, and "" after the first 1,000 rejects of a file.
  """

  path: str
  line: int
  field: str
  reason: str
  record: str

  def __str__(self) -> str:
    return f"{self.path}:{self.line}: field {self.field!r}: {self.reason}"


def read_file(
  path: pathlib.Path,
  parse: Callable[[Any, str], Trajectory],
  *,
  prefix: str = "",
  place_of: dict[str, Place] | None = None,
  keep: Callable[[Trajectory], bool] = lambda _: True,
) -> tuple[list[Trajectory], list[Reject]]:
  """Reads a file of JSON text, Parquet or Arrow record by record.

  Args:
    path: path of the file; sources.py says what it may hold.
    parse: a function (record, default id) -> trajectory that raises RecordError
      for a bad record.
    prefix: how default ids begin; the file's name by default.
    place_of: where the ids are that are taken already; those of the file are
      added to it.
    keep: whether a good trajectory is wanted.

  Returns:
    The trajectories and the rejects, both in the order of the file.

  Raises:
    ValueError: the file is damaged, or of a kind that cannot be read.
  """
  prefix, place_of = prefix or path.stem, {} if place_of is None else place_of
  read = functools.partial(_read, path, parse, prefix, place_of, keep)
  before = len(place_of)
  trajectories, rejects = read(sources.rows(path))
  none_good = rejects and len(place_of) == before
  if none_good and (rejects[0].field == "(line)" or len(rejects) == 1):
    # The first line is not JSON, or the only one; all may be one document.
    whole = sources.document_rows(path)
    again = read(whole) if whole else ([], [])
    if again[0]:
      return again
  return trajectories, rejects


def _read(
  path: pathlib.Path,
  parse: Callable[[Any, str], Trajectory],
  prefix: str,
  place_of: dict[str, Place],
  keep: Callable[[Trajectory], bool],
  rows: Iterable[Row],
) -> tuple[list[Trajectory], list[Reject]]:
  trajectories: list[Trajectory] = []
  rejects: list[Reject] = []
  for row in rows:
    try:
      trajectory = parse(row.decode(row.raw), f"{prefix}-{row.number}")
      if trajectory.id in place_of:
        taken = f"{trajectory.id!r} is taken by"
        where = _shown(place_of[trajectory.id], path)
        raise RecordError("id", f"{taken} {where}; give every record its own")
    except RecordError as error:
      reject = _reject(path, row, error)
      is_kept = len(rejects) < _KEPT_RECORDS
      rejects.append(reject if is_kept else reject._replace(record=""))
      continue
    place_of[trajectory.id] = path, row.number
    if keep(trajectory):
      trajectories.append(trajectory)
  return trajectories, rejects


def _shown(place: Place, here: pathlib.Path) -> str:
  path, line = place
  return f"line {line}" + (f" of {path}" if path != here else "")


def _reject(path: pathlib.Path, row: Row, error: RecordError) -> Reject:
  raw = row.raw
  text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
  # A record may name what no terminal can show, at any length.
  field, reason = _printable(error.field), _printable(error.problem)
  return Reject(str(path), row.number, field, reason, text.strip())


def _printable(text: str) -> str:
  if len(text) > 1000:
    text = f"{text[:500]} [...] {text[-400:]}"
  return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_rejects(rejects: Iterable[Reject], path: str | pathlib.Path) -> None:
  """Writes rejects as JSON lines of path, line, field, reason and record."""
  with storage.path(path).open("w", encoding="utf-8") as file:
    for reject in rejects:
      file.write(json.dumps(reject._asdict()) + "\n")
