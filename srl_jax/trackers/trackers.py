# SPDX-License-Identifier: Apache-2.0
"""Hands the rows of a run, and some samples, to the trackers of its config.

A tracker that fails costs no run: one warning says so, and it gets no more.
metrics.jsonl and metrics.csv (srl_jax/metrics.py) need no tracker.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from srl_jax import progress, strict
from srl_jax.trackers.session import Session
from srl_jax.trackers.tensorboard import TensorBoard
from srl_jax.trackers.tracker import Connection, Tracker, spread
from srl_jax.trackers.trackio_run import TrackioRun
from srl_jax.trackers.wandb_run import WandbRun

# What to do when one fails, by its name in the config.
_REMEDIES = {
  "tensorboard": "metrics go to metrics.csv and metrics.jsonl only",
  "wandb": (
    "type wandb login, or WANDB_MODE=offline before the command, or leave "
    "--config.trackers.wandb out"
  ),
  "trackio": "or leave --config.trackers.trackio out",
}


@dataclasses.dataclass(frozen=True)
class TrackersConfig:
  """Where the metrics of a run are shown, beside its working directory.

  Attributes:
    tensorboard: event files in workdir/tensorboard.
    wandb: a run in Weights & Biases (extra "wandb"); offline if WANDB_MODE
      says so.
    trackio: a run in Trackio (extra "trackio"), on this machine unless
      TRACKIO_SPACE_ID says where.
    project: name of the project in Weights & Biases and Trackio, unless
      WANDB_PROJECT or TRACKIO_PROJECT is set.
    texts: samples that are shown of each moment whose rollouts are kept (see
      `rollouts`), from the worst reward to the best; 0 for none.
  """

  tensorboard: bool = True
  wandb: bool = False
  trackio: bool = False
  project: str = "srl_jax"
  texts: int = 5

  def __post_init__(self):
    strict.check_numbers(self, texts="[0, )")
    if not self.project:
      raise ValueError("project is empty; set it to a name, such as 'srl_jax'")


class Trackers:
  """The trackers of a run; those that failed are left out."""

  def __init__(self, trackers: Mapping[str, Tracker] | None = None, *, texts=0):
    """Takes trackers by name.

    Args:
      trackers: none by default, and on all processes but the first.
      texts: samples to show of each moment.
    """
    self._trackers = dict(trackers or {})
    self._texts = texts
    self._first_of_stage = 0
    # (update step, method, name, values) that go with a row to come.
    self._waiting: list[tuple[int, str, str, Any]] = []

  @property
  def is_watching(self) -> bool:
    """Whether `keep` has any effect."""
    return bool(self._trackers)

  def begin(
    self,
    first_of_stage: int,
    first_step: int,
    rows: Sequence[Mapping[str, Any]],
  ) -> None:
    """A stage begins, or goes on.

    Args:
      first_of_stage: update steps of all stages before.
      first_step: the next row is of this update step.
      rows: all rows before, as metrics.jsonl has them.
    """
    self._first_of_stage = first_of_stage
    self._waiting.clear()
    self._tell("begin", first_step, rows)

  def keep(
    self,
    update_step: int,
    *,
    histograms: Mapping[str, np.ndarray] | None = None,
    rollouts: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
  ) -> None:
    """Keeps what is shown with the next row of an update step.

    Trackers want update steps in order, and the row of an update step comes
    while the next one is under way.

    Args:
      update_step: of the stage, from 0.
      histograms: values by name; others than finite ones are left out.
      rollouts: rows of rollout/record.py by name, of which some are shown.
    """
    if not self._trackers:
      return
    step = self._first_of_stage + update_step
    for name, values in (histograms or {}).items():
      values = np.asarray(values, np.float64)
      values = values[np.isfinite(values)]
      if values.size:
        self._waiting.append((step, "histogram", name, values))
    for name, rows in (rollouts or {}).items():
      if chosen := spread(rows, self._texts):
        self._waiting.append((step, "texts", name, chosen))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Shows a row, and what was kept for it.

    Args:
      step: update step of the row, over all stages.
      values: by name; nan and infinity are left out.
    """
    # A ratio with denominator 0 is nan, which some trackers warn of.
    finite = {k: v for k, v in values.items() if math.isfinite(v)}
    self._tell("scalars", step, finite)
    due = [x for x in self._waiting if x[0] <= step]
    self._waiting = [x for x in self._waiting if x[0] > step]
    for at, method, name, shown in due:
      self._tell(method, at, name, shown)

  def close(self, failed: bool = False) -> None:
    """Waits until the trackers have everything.

    Args:
      failed: see `Connection.close`.
    """
    self._tell("close", failed)
    self._trackers.clear()

  def _tell(self, method: str, *args: Any) -> None:
    for name, tracker in list(self._trackers.items()):
      if not _survives(
        name, functools.partial(getattr(tracker, method), *args)
      ):
        del self._trackers[name]


def open_trackers(
  config: TrackersConfig,
  workdir: pathlib.Path,
  run_config: Mapping[str, Any],
  fingerprint: str,
) -> Trackers:
  """Opens the trackers of a run, on process 0; one that fails is left out.

  Args:
    config: which.
    workdir: of the run, whose name they show.
    run_config: what they show as the run's configuration.
    fingerprint: checksum of what the rows follow from: settings and code.
  """
  if jax.process_index() != 0:
    return Trackers()

  def session(name: str, connection: Connection) -> Session:
    return Session(
      workdir / "trackers" / f"{name}.json", connection, fingerprint
    )

  about = config.project, workdir.name, run_config
  ways: dict[str, Callable[[], Tracker]] = {}
  if config.tensorboard:
    ways["tensorboard"] = lambda: TensorBoard(workdir / "tensorboard")
  if config.wandb:
    ways["wandb"] = lambda: session("wandb", WandbRun(*about, workdir))
  if config.trackio:
    ways["trackio"] = lambda: session("trackio", TrackioRun(*about))
  opened: dict[str, Tracker] = {}
  for name, way in ways.items():
    _survives(name, lambda way=way, name=name: opened.update({name: way()}))
  return Trackers(opened, texts=config.texts)


def _survives(name: str, act: Callable[[], None]) -> bool:
  """Acts; says so if that fails, and returns whether it did not."""
  try:
    act()
  except Exception as error:  # Whatever it is, the run goes on.
    text = " ".join(str(error).split()) or type(error).__name__
    progress.warn(
      f"{name} shows nothing more of this run: {text}; {_REMEDIES[name]}"
    )
    return False
  return True
