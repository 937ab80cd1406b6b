# SPDX-License-Identifier: Apache-2.0
"""Trains the stages of a run in order; run.py evaluates around them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax

from srl_jax import agreement, progress
from srl_jax.checkpoint import Checkpointer
from srl_jax.models import lora
from srl_jax.processes import stopping
from srl_jax.sharding import abstract
from srl_jax.storage import files
from srl_jax.train import memory
from srl_jax.train.episodes import EpisodesStage
from srl_jax.train.loop import Measures, Stopped, said_result, train_stage
from srl_jax.train.rl import RlStage
from srl_jax.train.sft import SftStage
from srl_jax.train.stage import Run, Stage, StageConfig

STAGES = {
  "sft": SftStage,
  "srl": RlStage,
  "rlvr": RlStage,
  "episodes": EpisodesStage,
}


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
  measures: Measures | None = None,
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
    measures: what to measure now and then, besides validation.

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
        result = said_result(saver, config.update_steps)
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
          measures,
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
