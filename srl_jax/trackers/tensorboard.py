# SPDX-License-Identifier: Apache-2.0
"""TensorBoard event files, written by the library tensorboardX."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax.mirror import Mirror
from srl_jax.optional import needed_for
from srl_jax.trackers.tracker import binned, markdown

# More than a run has.
_EVENTS_OF_A_FILE = 2**24


class TensorBoard:
  """Writes event files into a folder, a new file per stage and attempt."""

  def __init__(self, folder: pathlib.Path):
    """Writes nothing yet.

    Raises:
      ValueError: tensorboardX is missing.
    """
    with needed_for("Event files for TensorBoard", "tensorboardX"):
      import tensorboardX
    self._make, self._folder = tensorboardX.SummaryWriter, folder
    self._writer: Any = None
    self._mirror: Mirror | None = None

  def begin(self, first_step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    del rows  # They are in the files of earlier stages and attempts.
    self._end_file()
    self._mirror = self._mirror or Mirror(self._folder, self._flush)
    # Readers drop what earlier files have of this step and later ones.
    self._writer = self._make(
      str(self._mirror.folder),
      purge_step=first_step,
      # A full queue is waited for, and for ever if its reader has ended.
      max_queue=_EVENTS_OF_A_FILE,
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._check_alive()
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def histogram(self, step: int, name: str, values: np.ndarray) -> None:
    counts, edges = binned(values)
    self._writer.add_histogram_raw(
      name,
      min=values.min(),
      max=values.max(),
      num=values.size,
      sum=values.sum(),
      sum_squares=np.square(values).sum(),
      bucket_limits=edges[1:],
      bucket_counts=counts,
      global_step=step,
    )

  def texts(
    self, step: int, name: str, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    self._writer.add_text(name, markdown(rows), step)

  def close(self) -> None:
    self._end_file()
    if self._mirror:
      self._mirror.close()

  def _check_alive(self) -> None:
    """Raises OSError if the thread that writes events has ended."""
    events = self._writer.file_writer.event_writer
    if not events._worker.is_alive():
      self._writer.flush()  # Says why, as a rule.
      raise OSError("event files cannot be written")

  def _flush(self) -> None:
    if self._writer:
      self._writer.flush()

  def _end_file(self) -> None:
    writer, self._writer = self._writer, None
    if writer:
      writer.close()
