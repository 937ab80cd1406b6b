# SPDX-License-Identifier: Apache-2.0
"""Trains a stage; stages.py trains one after the other.

Every stage is the same loop: make a batch, take an update step, now and then
save and validate. Killed at any moment, the same command goes on from the last
complete checkpoint and ends with the same numbers as if it had never been
stopped.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from srl_jax import agreement, progress, sharding
from srl_jax.checkpoint import Checkpointer
from srl_jax.metrics import Console, MetricWriter
from srl_jax.models import lora
from srl_jax.storage import files, mirror
from srl_jax.train.profile import Profile
from srl_jax.train.stage import NothingLeftError, Run, Stage
from srl_jax.train.update_log import UpdateLog
from srl_jax.update.updater import TrainState

# The file of a stage that ended early: after which update step, of how many.
_ENDED = "ended.json"
# After which update steps was measured last, the best was, validated last.
_MEASURED = "measured.json"


class Measures(Protocol):
  """What is measured now and then, besides validation."""

  def is_due(self, done: int) -> bool:
    """Whether to measure after `done` update steps."""

  def measure(self, stage: str, done: int, params: Any) -> dict[str, float]:
    """Returns metrics of the parameters of a stage."""


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
  """The process was asked to end, and everything is saved."""


def train_stage(
  run: Run,
  stage: Stage,
  params: Any,
  directory: pathlib.Path,
  first_global_step: int,
  is_stopping: Callable[[], bool],
  measures: Measures | None = None,
) -> Any:
  """Trains one stage, from its last checkpoint if it has one.

  Args:
    run: what stages share.
    stage: makes batches and updates; prepared.
    params: where it starts, consumed; abstract ones suffice if it resumes and
      uses no reference.
    directory: of the stage's checkpoints.
    first_global_step: update steps of all stages before; metrics count on.
    is_stopping: whether any process was asked to stop; all call it together.
    measures: what to measure now and then, besides validation.

  Returns:
    The parameters with the best validation value.

  Raises:
    Stopped: asked to stop before the last update step, and all is saved.
  """
  config, name, updater = stage.config, stage.name, stage.updater
  total = config.update_steps
  with contextlib.ExitStack() as stack:
    stack.callback(stage.close)
    saver = stack.enter_context(Checkpointer(directory, run.checkpoint))
    state, reference, first = _start(stage, params, saver)
    del params
    # It may have ended early before the run was killed.
    is_over = _ended_early(directory) == [first, total]
    if run.recorder:
      run.recorder.drop_from(name, first)
    if stage.description:
      progress.say(f"{name}: {stage.description}")
    workdir = directory.parent.parent
    writer = stack.enter_context(
      MetricWriter(
        workdir,
        first_step=first_global_step + first,
        first_of_stage=first_global_step,
        trackers=run.trackers,
      )
    )
    profile = stack.enter_context(
      Profile(run.profile, workdir / "profile" / name, name)
    )
    console = Console(
      name, total_steps=total, first_step=first, columns=stage.columns
    )
    stack.enter_context(
      progress.task(f"{name}: update steps", done=first, total=total)
    )
    log = UpdateLog(
      stage,
      writer,
      profile,
      console,
      first_global_step=first_global_step,
      every=run.log_every,
    )
    stack.callback(log.close)
    validation = _Validation(stage, saver, log, directory, measures)
    done, is_last = first, is_over or first == total
    validation.resume(done, state, is_last)

    while done < total and not is_over:
      start_s = time.monotonic()
      try:
        with profile.step(done + 1):
          state, dispatched = stage.take_update(state, done, reference)
      except NothingLeftError as error:
        progress.warn(
          f"{error}. {name} ends here, after {done} of its {total} update steps"
        )
        is_over = True
      else:
        log.add(done, dispatched, start_s)
        done += 1
        progress.advance(done, total)
      is_last = is_over or done == total
      is_asked = is_stopping()
      # First, because to measure may take longer than a machine still has.
      is_saved = is_last or is_asked or saver.is_due(done)
      if is_saved:
        _save(stage, state, saver, log, done)
      if is_over and jax.process_index() == 0:
        files.write_json(directory / _ENDED, [done, total])
      if not is_asked and validation.is_due(done, is_last):
        validation.measure(done, state, is_last)
        is_asked = not is_last and is_stopping()
        if is_asked and not is_saved:
          _save(stage, state, saver, log, done)
      if is_asked:
        saver.wait()
        raise Stopped(
          f"{name}: asked to stop; update step {done} of {total} is saved in "
          f"{directory}. Run the same command again to go on from there."
        )
    saver.wait()
    best = saver.restore_best(updater.abstract_state().trained)
    progress.say(f"{name}: {said_result(saver, total)}")
    return state._replace(trained=best).params


def _start(
  stage: Stage, params: Any, saver: Checkpointer
) -> tuple[TrainState, Any, int]:
  """Returns the state, the reference, and the update steps that are done."""
  saver.set_damaged_aside()
  first = saver.latest_step()
  if first is None:
    saver.forget_best()
    state = stage.updater.init(params)
    if not stage.uses_reference:
      return state, None, 0
    return state, jax.tree.map(jnp.copy, state.trained), 0
  state, reference, saved_data = _resumed(stage, params, saver, first)
  stage.set_state(*saved_data)
  progress.say(
    f"{stage.name}: resuming after update step {first} of "
    f"{stage.config.update_steps}"
  )
  return state, reference, first


class _Validation:
  """What is measured of a stage now and then, and whether it has been.

  A checkpoint is saved before its parameters are measured. So a stage that was
  ended in between measures first when it goes on.
  """

  def __init__(
    self,
    stage: Stage,
    saver: Checkpointer,
    log: UpdateLog,
    directory: pathlib.Path,
    measures: Measures | None,
  ):
    self._stage, self._saver, self._log = stage, saver, log
    self._file, self._measures = directory / _MEASURED, measures
    # After which update step was measured last, the best was, and was
    # validated last; as in the file.
    self._done = self._best_step = self._validated = 0

  def is_due(self, done: int, is_last: bool) -> bool:
    """Whether something is to be measured after `done` update steps."""
    return self._is_validation_due(done, is_last) or self._is_other_due(done)

  def resume(self, done: int, state: TrainState, is_last: bool) -> None:
    """Measures what an earlier attempt had to, and did not come to the end of.

    What it measured later is forgotten, as its later update steps are.
    """
    known, best, validated = agreement.read_json(self._file) or (0, 0, 0)
    self._done, self._best_step = min(known, done), self._best()[0]
    # The best parameters are written while training goes on.
    self._validated = min(validated, done) if best == self._best_step else 0
    if known > done:
      self._write()
    if self.is_due(done, is_last):
      self.measure(done, state, is_last)

  def measure(self, done: int, state: TrainState, is_last: bool) -> None:
    """Measures what is due; keeps the best parameters."""
    stage, log = self._stage, self._log
    log.flush()
    if self._is_validation_due(done, is_last):
      self._validate(done, state)
    if self._is_other_due(done):
      values = self._measures.measure(stage.name, done, state.params)
      log.measured(done - 1, values)
    # Rows that are called written must be.
    mirror.copy_all()
    self._done = done
    self._write()

  def _write(self) -> None:
    if jax.process_index() == 0:
      known = [self._done, self._best_step, self._validated]
      files.write_json(self._file, known)

  def _is_validation_due(self, done: int, is_last: bool) -> bool:
    every = self._stage.config.validate_every
    is_time = is_last or (every > 0 and done % every == 0)
    return is_time and self._validated < done

  def _validate(self, done: int, state: TrainState) -> None:
    stage, total = self._stage, self._stage.config.update_steps
    what = f"{stage.name}: validation after step {done} of {total}"
    with progress.task(what):
      value, values = stage.validate(state.params, done - 1)
    self._log.measured(done - 1, values)
    if math.isnan(value):
      progress.warn(f"{stage.name}: validation after step {done} gave nan")
    self._best_step, best = self._best()
    is_best = self._best_step == 0 or value > best
    # They save together, also where a reward is not the same on all.
    if sharding.gather_objects(is_best)[0]:
      self._saver.save_best(done, state.trained, value)
      self._best_step = done
    self._validated = done

  def _is_other_due(self, done: int) -> bool:
    measures = self._measures
    return measures is not None and self._done < done and measures.is_due(done)

  def _best(self) -> tuple[int, float]:
    """Returns step and value of the best parameters; step 0 if none exist."""
    step, value = self._saver.best() or (0, -math.inf)
    # NaN counts as the worst value: no later value would be greater than it.
    return step, -math.inf if math.isnan(value) else value


def _save(
  stage: Stage,
  state: TrainState,
  saver: Checkpointer,
  log: UpdateLog,
  done: int,
) -> None:
  """Saves a checkpoint of `done` update steps."""
  log.flush()
  # Rows before a checkpoint are not written again.
  mirror.copy_all()
  data, pool = stage.get_state()
  saver.save(done, state.to_save(), pool, {"data": data})


def _resumed(
  stage: Stage, params: Any, saver: Checkpointer, step: int
) -> tuple[TrainState, Any, tuple[Any, Any]]:
  """Returns the state of a checkpoint, the reference, and the state of data.

  What the stage started from is the reference, or goes before the checkpoint
  comes: both together would need more memory than training does.
  """
  trained, frozen = lora.split(params)
  reference = trained if stage.uses_reference else None
  if reference is None:
    for x in jax.tree.leaves(trained):
      if isinstance(x, jax.Array):
        x.delete()
  wanted = stage.updater.abstract_state().to_save()
  saved, pool, meta = saver.restore(step, wanted)
  state = TrainState(saved["params"], frozen, saved["opt_state"])
  return state, reference, (meta["data"], pool)


def _ended_early(directory: pathlib.Path) -> list[int] | None:
  """Returns after which update step of how many a stage ended, if it did."""
  return agreement.read_json(directory / _ENDED)


def said_result(saver: Checkpointer, total: int) -> str:
  """Says which parameters are those "after" a stage."""
  step, _ = saver.best()
  return f"its result is update step {step} of {total}, the best validated"
