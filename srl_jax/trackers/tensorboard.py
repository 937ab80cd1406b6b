# SPDX-License-Identifier: Apache-2.0
"""TensorBoard event files, made with the library tensorboardX."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax.optional import needed_for
from srl_jax.storage.mirror import Mirror
from srl_jax.trackers.tracker import binned, markdown

# How long events may wait before who watches the folder sees them.
_FLUSH_S = 30.0


class TensorBoard:
  """Writes event files into a folder, a new file per attempt.

  Not with tensorboardX's SummaryWriter: its thread may not have written what
  `flush` should have, and a run whose disk is full would wait for it for ever.
  """

  def __init__(self, folder: pathlib.Path):
    """Writes nothing yet.

    Raises:
      ValueError: tensorboardX is missing.
    """
    with needed_for("Event files for TensorBoard", "tensorboardX"):
      import tensorboardX
    self._library, self._folder = tensorboardX, folder
    self._writer: Any = None
    # The thread of the mirror flushes too, and not a file that is being closed.
    self._lock = threading.Lock()
    self._flushed_s = 0.0
    self._mirror: Mirror | None = None

  def begin(self, first_step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    del rows  # They are in the files of earlier attempts.
    if self._mirror:  # Begun by an earlier stage of this process.
      return
    self._mirror = Mirror(self._folder, self._flush)
    self._writer = self._library.event_file_writer.EventsWriter(
      str(self._mirror.folder / "events")
    )
    # Readers drop what earlier files have of this step and later ones.
    event_pb2 = self._library.proto.event_pb2
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(first_step, session_log=start)
    self._flush()

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._write(step, summary=self._library.summary.scalar(name, value))
    if time.monotonic() - self._flushed_s > _FLUSH_S:
      self._flush()

  def histogram(self, step: int, name: str, values: np.ndarray) -> None:
    counts, edges = binned(values)
    summary = self._library.summary.histogram_raw(
      name,
      min=values.min(),
      max=values.max(),
      num=values.size,
      sum=values.sum(),
      sum_squares=np.square(values).sum(),
      bucket_limits=edges[1:],
      bucket_counts=counts,
    )
    self._write(step, summary=summary)

  def texts(
    self, step: int, name: str, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    text = self._library.summary.text(name, markdown(rows))
    self._write(step, summary=text)

  def close(self, failed: bool = False) -> None:
    del failed  # Event files do not say how a run ended.
    with self._lock:
      writer, self._writer = self._writer, None
      if writer:
        writer.close()
    if self._mirror:
      self._mirror.close()

  def _write(self, step: int, **content: Any) -> None:
    event = self._library.proto.event_pb2.Event
    self._writer.write_event(event(wall_time=time.time(), step=step, **content))

  def _flush(self) -> None:
    with self._lock:
      if self._writer:
        self._flushed_s = time.monotonic()
        self._writer.flush()
