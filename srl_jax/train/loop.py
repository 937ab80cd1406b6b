# SPDX-License-Identifier: Apache-2.0
"""Trains the stages of a run in order; run.py evaluates around it.

Every stage is the same loop: make a batch, take an update step, now and then
validate and save. Killed at any moment, the same command goes on from the last
complete checkpoint and ends with the same numbers as if it had never been
stopped.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from srl_jax import agreement, progress, sharding
from srl_jax.checkpoint import Checkpointer
from srl_jax.metrics import Console, MetricWriter
from srl_jax.models import lora
from srl_jax.processes import stopping
from srl_jax.sharding import abstract
from srl_jax.storage import files, mirror
from srl_jax.train import memory
from srl_jax.train.episodes import EpisodesStage
from srl_jax.train.profile import Profile
from srl_jax.train.rl import RlStage
from srl_jax.train.sft import SftStage
from srl_jax.train.stage import Run, Stage, StageConfig
from srl_jax.train.unfused import NothingLeftError
from srl_jax.train.update_log import UpdateLog
from srl_jax.update.updater import TrainState

# (stage, update steps done, parameters) -> metrics; {} where none are due.
During = Callable[[str, int, Any], dict[str, float]]


# The file of a stage that ended early.
_ENDED = "ended.json"

STAGES = {
  "sft": SftStage,
  "srl": RlStage,
  "rlvr": RlStage,
  "episodes": EpisodesStage,
}


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
  """The process was asked to end, and everything is saved."""


def train_stage(
  run: Run,
  stage: Stage,
  params: Any,
  directory: pathlib.Path,
  first_global_step: int,
  is_stopping: Callable[[], bool],
  during: During | None = None,
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
    during: what to measure now and then, besides validation.

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

    for update_step in range(total if is_over else first, total):
      start_s = time.monotonic()
      try:
        with profile.step(update_step + 1):
          state, dispatched = stage.take_update(state, update_step, reference)
      except NothingLeftError as error:
        progress.warn(
          f"{error}. {name} ends here, after {update_step} of its "
          f"{total} update steps"
        )
        if not config.validate_every or update_step % config.validate_every:
          _validate(stage, state, saver, log, update_step)
        _save(stage, state, saver, log, update_step)
        if jax.process_index() == 0:
          files.write_json(directory / _ENDED, [update_step, total])
        break
      log.add(update_step, dispatched, start_s)
      done = update_step + 1
      progress.advance(done, total)
      is_last = done == total
      if is_last or (
        config.validate_every and done % config.validate_every == 0
      ):
        _validate(stage, state, saver, log, done)
      if during and (measured := during(name, done, state.params)):
        log.flush()
        log.measured(update_step, measured)
      is_asked = is_stopping()
      if is_last or is_asked or saver.is_due(done):
        _save(stage, state, saver, log, done)
      if is_asked and not is_last:
        saver.wait()
        raise Stopped(
          f"{name}: asked to stop; update step {done} of {total} is saved in "
          f"{directory}. Run the same command again to go on from there."
        )
    saver.wait()
    best = saver.restore_best(updater.abstract_state().trained)
    progress.say(f"{name}: {_result(saver, total)}")
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


def _validate(
  stage: Stage,
  state: TrainState,
  saver: Checkpointer,
  log: UpdateLog,
  done: int,
) -> None:
  """Validates after `done` update steps; keeps the best parameters."""
  log.flush()
  total = stage.config.update_steps
  with progress.task(f"{stage.name}: validation after step {done} of {total}"):
    value, values = stage.validate(state.params, done - 1)
  log.measured(done - 1, values)
  best = saver.best()
  is_best = best is None or value > best[1]
  # They save together, also where a reward is not the same on all.
  if sharding.gather_objects(is_best)[0]:
    saver.save_best(done, state.trained, value)


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


def _result(saver: Checkpointer, total: int) -> str:
  """Says which parameters are those "after" a stage."""
  step, _ = saver.best()
  return f"its result is update step {step} of {total}, the best validated"


def make_stages(
  run: Run,
  configs: Mapping[str, StageConfig],
  workdir: pathlib.Path,
  again: Collection[str] = (),
) -> dict[str, Stage]:
  """Makes the stages that are not done yet; all before any is trained.

  Mistakes in the settings of the last stage then show at once, and not after
  the first stage has trained for hours.

  Args:
    run: what they share.
    configs: of all stages, in order.
    workdir: of the run.
    again: names of stages that are made although they are done.

  Raises:
    ValueError: a stage's settings do not fit data, model or mesh.
  """
  return {
    name: STAGES[name](run, name, config)
    for index, (name, config) in enumerate(configs.items())
    if agreement.read_json(marker(workdir, index, name)) is None
    or name in again
  }


def needs_first_params(
  run: Run,
  names: Sequence[str],
  stages: Mapping[str, Stage],
  workdir: pathlib.Path,
) -> bool:
  """Whether the values of the parameters before the first stage are needed.

  Args:
    run: the run.
    names: of all stages, in order.
    stages: those that are not done, from `make_stages`.
    workdir: of the run.
  """
  # Without stages they are the result. No checkpoint holds adapters' base.
  if not names or run.policy.config.lora.rank:
    return True
  first = stages.get(names[0])
  if first is None:
    return False
  directory = marker(workdir, 0, names[0]).parent
  with Checkpointer(directory, run.checkpoint) as saver:
    return first.uses_reference or saver.latest_step() is None


def print_memory_plan(stages: Mapping[str, Stage]) -> None:
  """Compiles the programs of prepared stages and prints the memory they take.

  A program that does not fit shows at once, with what to change, and not in the
  middle of a run. Update steps find their programs compiled.

  Raises:
    memory.DoesNotFitError: the compiler refuses one, so it cannot run.
  """
  refused = []
  limit = memory.device_bytes(jax.local_devices()[0])
  for name, stage in stages.items():
    progress.say(f"{name}: {memory.header(limit)}")
    for program in stage.plan():
      with progress.task(f"{name}: compiling {program.name}"):
        line, _ = memory.try_program(program, limit)
      progress.say(f"{name}: {line}")
      if not program.is_compiled():
        refused.append(f"{program.name!r} of {name}")
  if refused:
    raise memory.DoesNotFitError(
      f"there is too little memory for {', '.join(refused)}; the plan above "
      "says what to change"
    )


def marker(workdir: pathlib.Path, index: int, name: str) -> pathlib.Path:
  """The file that says that a stage is done."""
  return workdir / "stages" / f"{index}_{name}" / "done.json"


def train_stages(
  run: Run,
  configs: Mapping[str, StageConfig],
  stages: Mapping[str, Stage],
  params: Any,
  workdir: pathlib.Path,
  after_stage: Callable[[str, Any], None],
  during: During | None = None,
) -> Any:
  """Trains all stages in order, skipping the ones that are done.

  Args:
    run: the run.
    configs: of all stages, in order.
    stages: what `make_stages` returned, prepared.
    params: where the first stage starts; see `needs_first_params`.
    workdir: results go below it.
    after_stage: called with (stage name, parameters) after each stage, also
      after one that was done before.
    during: what to measure now and then, besides validation.

  Returns:
    The parameters after the last stage.

  Raises:
    Stopped: on SIGTERM, when all is saved.
  """
  first_global_step = 0
  for index, (name, config) in enumerate(configs.items()):
    done = marker(workdir, index, name)
    directory = done.parent
    if name not in stages:
      wanted = abstract.like(lora.trained(params))
      with Checkpointer(directory, run.checkpoint, read_only=True) as saver:
        params = lora.with_trained(params, saver.restore_best(wanted))
        result = _result(saver, config.update_steps)
      progress.say(f"{name}: was finished before; {result}")
    else:
      with stopping.saving() as is_asked:
        is_stopping = lambda: agreement.any_process(is_asked())  # noqa: E731
        params = train_stage(
          run,
          stages[name],
          params,
          directory,
          first_global_step,
          is_stopping,
          during,
        )
        files.write_json(done, {})
        if is_stopping():
          raise Stopped(
            f"{name}: asked to stop; the stage is finished and saved in "
            f"{directory}. Run the same command again to go on from there."
          )
    first_global_step += config.update_steps
    after_stage(name, params)
  return params
