# SPDX-License-Identifier: Apache-2.0
"""A run in Weights & Biases, by the library wandb."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax import storage
from srl_jax.optional import needed_for
from srl_jax.trackers.tracker import SHOWN, binned

# Longest wait for uploads at the end of a run; the files stay for `wandb sync`.
_FINISH_S = 120.0


class WandbRun:
  """Logs to a run; what wandb's own variables and settings say goes first."""

  def __init__(
    self,
    project: str,
    name: str,
    config: Mapping[str, Any],
    workdir: pathlib.Path,
  ):
    """Opens nothing yet.

    Args:
      project: where WANDB_PROJECT says nothing else.
      name: what people read, where WANDB_NAME says nothing else.
      config: the run's configuration.
      workdir: files go to its folder wandb, unless WANDB_DIR says otherwise;
        to the current folder's if it is in a bucket.

    Raises:
      ValueError: wandb is missing, or nobody is logged in.
    """
    with needed_for("Runs in Weights & Biases", "wandb"):
      import wandb
    self._wandb = wandb
    # It would wait for an answer at a terminal that nobody may look at.
    mode = wandb.setup().settings.mode
    if mode == "online" and not wandb.login(prompt=False):
      raise ValueError("nobody is logged in")
    defaults = {
      "WANDB_PROJECT": ("project", project),
      "WANDB_NAME": ("name", name),
    }
    if not storage.is_remote(workdir):  # Its files grow, so they stay here.
      defaults["WANDB_DIR"] = ("dir", str(workdir))
    self._settings = {"config": dict(config)}
    for variable, (setting, value) in defaults.items():
      if variable not in os.environ:
        self._settings[setting] = value

  def open(self, run_id: str, is_resumed: bool) -> None:
    settings = {}
    if "WANDB_FINISH_TIMEOUT" not in os.environ:
      settings["finish_timeout"] = _FINISH_S
    self._run = self._wandb.init(
      id=run_id,
      # "allow" would look for a run that is not there.
      resume="allow" if is_resumed else None,
      settings=self._wandb.Settings(**settings),
      **self._settings,
    )

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    # It drops rows of steps before its first, which a resumed run begins after
    # the last one that it has. What is measured before training is of step -1.
    self._run.log(dict(values), step=max(step, self._run.starting_step))

  def histogram(self, step: int, name: str, values: np.ndarray) -> None:
    shown = self._wandb.Histogram(np_histogram=binned(values))
    self._run.log({name: shown}, step=step)

  def texts(
    self, step: int, name: str, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    data = [[row[column] for column in SHOWN] for row in rows]
    table = self._wandb.Table(columns=list(SHOWN), data=data)
    self._run.log({name: table}, step=step)

  def close(self, failed: bool = False) -> None:
    self._run.finish(exit_code=int(failed))
