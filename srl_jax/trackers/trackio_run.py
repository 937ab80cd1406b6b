# SPDX-License-Identifier: Apache-2.0
"""A run in Trackio, on this machine or in a Hugging Face Space."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax.optional import needed_for
from srl_jax.trackers.tracker import binned, markdown


class TrackioRun:
  """Logs to a run; TRACKIO_DIR, TRACKIO_SPACE_ID and the like are obeyed."""

  def __init__(self, project: str, name: str, config: Mapping[str, Any]):
    """Opens nothing yet.

    Args:
      project: where TRACKIO_PROJECT says nothing else.
      name: what the run's name in its project begins with.
      config: the run's configuration.

    Raises:
      ValueError: trackio is missing.
    """
    with needed_for("Runs in Trackio", "trackio"):
      import trackio
    self._trackio = trackio
    self._project = os.environ.get("TRACKIO_PROJECT", project)
    self._name, self._config = name, dict(config)

  def open(self, run_id: str, is_resumed: bool) -> None:
    self._run = self._trackio.init(
      project=self._project,
      name=f"{self._name}-{run_id}",
      resume="allow" if is_resumed else "never",
      config=self._config,
      embed=False,
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    self._run.log(dict(values), step=step)

  def histogram(self, step: int, name: str, values: np.ndarray) -> None:
    shown = self._trackio.Histogram(np_histogram=binned(values))
    self._run.log({name: shown}, step=step)

  def texts(
    self, step: int, name: str, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    shown = self._trackio.Markdown(markdown(rows))
    self._run.log({name: shown}, step=step)

  def close(self, failed: bool = False) -> None:
    del failed  # Trackio does not say how a run ended.
    self._trackio.finish()  # Its last words come once only this way.
