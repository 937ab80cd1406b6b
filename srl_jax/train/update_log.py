# SPDX-License-Identifier: Apache-2.0
"""Metrics of update steps: written while the next step runs, timed exactly."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import time
from typing import NamedTuple

import jax

from srl_jax import progress
from srl_jax.metrics import Console, MetricWriter
from srl_jax.reductions import reduce_metrics
from srl_jax.train.profile import Profile
from srl_jax.train.stage import Dispatched, Stage
from srl_jax.update.updater import compiled_count

# Names of metrics that there are for each step, in the metrics only.
_OF_STEP = re.compile(r"_step_\d+$")


class _Pending(NamedTuple):
  """An update step that was dispatched, and that nobody has waited for yet.

  `end_s` is when the devices were done with it, whenever somebody looks.
  """

  update_step: int
  dispatched: Dispatched
  start_s: float
  end_s: concurrent.futures.Future[float]


class UpdateLog:
  """Writes down the update steps of a stage, each while the next one runs."""

  def __init__(
    self,
    stage: Stage,
    writer: MetricWriter,
    profile: Profile,
    console: Console,
    *,
    first_global_step: int,
    every: int,
  ):
    self._stage, self._profile, self._console = stage, profile, console
    self._writer = writer
    self._first_global_step, self._every = first_global_step, every
    self._pending: _Pending | None = None
    self._last_end_s = 0.0
    # Notes when an update step ends, for the loop looks at it only later.
    self._clock = concurrent.futures.ThreadPoolExecutor(1)

  def close(self) -> None:
    """Writes the last update step, which may say why the next one failed."""
    # If the devices have failed, the run ends by their error already.
    with contextlib.suppress(RuntimeError):
      self._finish()
    self._clock.shutdown()

  def add(self, update_step: int, dispatched: Dispatched, start_s: float):
    """Takes an update step that was just dispatched; writes the one before."""
    self.flush()
    end_s = self._clock.submit(_end_of, dispatched)
    self._pending = _Pending(update_step, dispatched, start_s, end_s)

  def flush(self) -> None:
    """Waits for the last update step, writes it, and looks whether it is well.

    Raises:
      RecurringError: it is not; see `Stage.check`.
    """
    if values := self._finish():
      self._stage.check(values)

  def _finish(self) -> dict[str, float]:
    """Waits for the last update step and writes it; returns its metrics."""
    if self._pending is None:
      return {}
    pending, self._pending = self._pending, None
    stage = self._stage
    start_s, end_s = pending.start_s, pending.end_s.result()
    values = metrics_of(pending.dispatched, start_s, self._last_end_s, end_s)
    self._last_end_s = end_s
    values["programs"] = stage.compiled_count() + compiled_count(
      stage.updater.accumulate, stage.updater.finish
    )
    done = pending.update_step + 1
    self._profile.finished(done)
    # Before it is looked at, so that the row of one that is refused says why.
    self._write(pending.update_step, values)
    if done % self._every == 0:
      self._console.show(done, values)
    return values

  def measured(self, update_step: int, values: dict[str, float]) -> None:
    """Writes and says what was measured after an update step."""
    self._write(update_step, values)
    shown = {k: v for k, v in values.items() if not _OF_STEP.search(k)}
    texts = [f"{k.replace('_', ' ')} {v:.4f}" for k, v in shown.items()]
    of = f"{update_step + 1}/{self._stage.config.update_steps}"
    progress.say("  ".join([f"{self._stage.name} {of}", *texts]))

  def _write(self, update_step: int, values: dict[str, float]) -> None:
    row = self._first_global_step + update_step
    self._writer.write(row, values, f"{self._stage.name}/")


def _end_of(dispatched: Dispatched) -> float:
  """Waits for an update step; returns the moment at which it ended."""
  jax.block_until_ready(dispatched.metrics)
  return time.monotonic()


def metrics_of(
  dispatched: Dispatched, start_s: float, last_end_s: float, end_s: float
) -> dict[str, float]:
  """Returns the metrics of an update step, its time and speed among them.

  Args:
    dispatched: the update step.
    start_s: when it was begun, in seconds of a clock.
    last_end_s: when the devices were done with the one before.
    end_s: when the devices were done with it.
  """
  values = dict(dispatched.values)
  for metrics in dispatched.metrics:
    values.update(
      (dispatched.renamed.get(name, name), value)
      for name, value in reduce_metrics(metrics).items()
    )
  # It may have begun while the devices were still busy with the one before.
  values["update_step_s"] = end_s - max(start_s, last_end_s)
  # An update step that was skipped has trained on none.
  tokens = values.get("tokens_sampled", values.get("tokens_trained"))
  values["tokens_per_s"] = tokens / values["update_step_s"]
  # A fused update step is one program: its rollout has no time of its own.
  if values.get("rollout_s"):
    values["rollout_tokens_per_s"] = tokens / values["rollout_s"]
  return values
