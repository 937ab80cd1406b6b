# SPDX-License-Identifier: Apache-2.0
"""Gives a tracker every row of a run once, whatever ends the run in between.

For trackers that cannot take a row back. Not for TensorBoard, whose readers
drop what a resumed run writes again.
"""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax import progress
from srl_jax.storage import files
from srl_jax.trackers.tracker import Connection


class Session:
  """A run of a tracker, and a file that says what the tracker has.

  A run writes some rows again when it goes on from a checkpoint. They are the
  same, so those that the tracker has are left out. It gets a new run, with all
  rows, where they would not be the same, since settings or code have changed;
  and where nobody knows what it has, since the process was killed and the
  tracker may have lost any row that it held in memory.
  """

  def __init__(
    self, path: pathlib.Path, connection: Connection, fingerprint: str
  ):
    """Opens nothing yet.

    Args:
      path: JSON file of this session, kept for the next attempt.
      connection: to the tracker.
      fingerprint: checksum of what the rows follow from.
    """
    self._path, self._connection = path, connection
    self._fingerprint, self._id = fingerprint, ""
    # (update step, number of calls at that step): of the last call, and of the
    # last one that the tracker has from earlier attempts.
    self._at = self._written = (-1, 0)
    self._first_step, self._has_sent = -1, False

  def begin(self, first_step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    if self._id:  # By an earlier stage of this process.
      return
    before = json.loads(self._path.read_text()) if self._path.exists() else {}
    written = before.get("written")
    is_known = bool(written)
    if is_known and written[0] >= first_step:
      is_known = before.get("fingerprint") == self._fingerprint
      if not is_known:
        progress.say(
          f"{self._path.stem}: settings or code have changed since run "
          f"{before['id']} got its rows from update step {first_step} on, so a "
          "new run gets all rows"
        )
    if is_known:
      self._written = tuple(written)
    run_id = before["id"] if is_known else uuid.uuid4().hex[:8]
    self._connection.open(run_id, is_known)
    self._id = run_id
    for row in rows:
      finite = {
        name: value
        for name, value in row.items()
        if name != "update_step" and value is not None
      }
      self.scalars(row["update_step"], finite)
    # What comes of earlier update steps now is not in the rows: it is new.
    self._first_step = first_step

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    if self._is_due(step):
      self._connection.scalars(step, values)

  def histogram(self, step: int, name: str, values: np.ndarray) -> None:
    if self._is_due(step):
      self._connection.histogram(step, name, values)

  def texts(
    self, step: int, name: str, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    if self._is_due(step):
      self._connection.texts(step, name, rows)

  def close(self, failed: bool = False) -> None:
    if not self._id:  # Nothing was to be shown.
      return
    self._connection.close(failed)
    self._note(max(self._at, self._written))

  def _is_due(self, step: int) -> bool:
    """Counts a call; whether the tracker does not have it yet."""
    same = self._at[1] if step == self._at[0] else 0
    self._at = (step, same + 1)
    if self._at <= self._written and step >= self._first_step:
      return False
    if not self._has_sent:
      self._has_sent = True
      self._note(None)
    return True

  def _note(self, written: tuple[int, int] | None) -> None:
    what = {"id": self._id, "written": written}
    files.write_json(self._path, what | {"fingerprint": self._fingerprint})
