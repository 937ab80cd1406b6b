# SPDX-License-Identifier: Apache-2.0
"""Gives a tracker every row of a run once, whatever ends the run in between.

For trackers that cannot take a row back. Not for TensorBoard, whose readers
drop what a resumed run writes again.
"""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax.storage import files
from srl_jax.trackers.tracker import Connection


class Session:
  """A connection to a tracker, and a file that says what it has.

  A run writes some rows again when it goes on from a checkpoint. They are the
  same, so those that the tracker has are left out. What it has is known if it
  was closed. If the process was killed instead, the tracker may have lost any
  row that it held in memory: a new run is opened there, and gets all rows.
  """

  def __init__(
    self, path: pathlib.Path, connect: Callable[[str, bool], Connection]
  ):
    """Connects.

    Args:
      path: JSON file of this session, kept for the next attempt.
      connect: opens the run of a name; the second argument says whether it was
        opened before.
    """
    before = json.loads(path.read_text()) if path.exists() else {}
    is_known = bool(before.get("written"))
    self._path = path
    # (update step, number of calls at that step): of the last call, and of the
    # last one that the tracker has from earlier attempts.
    self._at = (-1, 0)
    self._written = tuple(before["written"]) if is_known else self._at
    self._id = before["id"] if is_known else uuid.uuid4().hex[:8]
    self._has_begun = self._has_sent = False
    self._connection = connect(self._id, is_known)

  def begin(self, first_step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    del first_step
    if self._has_begun:  # By an earlier stage of this process.
      return
    self._has_begun = True
    for row in rows:
      finite = {
        name: value
        for name, value in row.items()
        if name != "update_step" and value is not None
      }
      self.scalars(row["update_step"], finite)

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
    self._connection.close(failed)
    self._note(max(self._at, self._written))

  def _is_due(self, step: int) -> bool:
    """Counts a call; whether the tracker does not have it yet."""
    same = self._at[1] if step == self._at[0] else 0
    self._at = (step, same + 1)
    if self._at <= self._written:
      return False
    if not self._has_sent:
      self._has_sent = True
      self._note(None)
    return True

  def _note(self, written: tuple[int, int] | None) -> None:
    files.write_json(self._path, {"id": self._id, "written": written})
