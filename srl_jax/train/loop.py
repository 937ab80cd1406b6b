# SPDX-License-Identifier: Apache-2.0
"""The training loop and the run around it.

A run is: evaluate, train the stages in order, evaluate again. Every stage is
the same loop: make a batch, take an optimizer step, now and then validate and
save. Killed at any moment, the same command goes on from the last complete
checkpoint and ends with the same numbers as if it had never been stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from srl_jax import files, sharding
from srl_jax.checkpoint import Checkpointer
from srl_jax.metrics import MetricWriter, Progress
from srl_jax.models import lora
from srl_jax.reductions import reduce_metrics
from srl_jax.train import memory as memory_plan
from srl_jax.train.rl import RlStage
from srl_jax.train.sft import SftStage
from srl_jax.train.stage import Dispatched, Run, Stage
from srl_jax.update import optim
from srl_jax.update.updater import Updater, compiled_count

STAGES = {"sft": SftStage, "srl": RlStage, "rlvr": RlStage}


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
  """The process was asked to end, and everything is saved."""


@dataclasses.dataclass
class _Pending:
  """Metrics of a dispatched step that nobody has waited for yet."""

  step: int
  taken: Dispatched
  start_s: float


def train_stage(
  run: Run,
  stage: Stage,
  updater: Updater,
  name: str,
  params: Any,
  directory: pathlib.Path,
  first_global_step: int,
  is_stopping: Callable[[], bool],
) -> Any:
  """Trains one stage, from its last checkpoint if it has one.

  Args:
    run: what stages share.
    stage: makes batches.
    updater: takes the optimizer steps.
    name: its section in the config.
    params: where it starts; consumed.
    directory: of the stage's checkpoints.
    first_global_step: steps of all stages before; metrics count on.
    is_stopping: whether the run was asked to stop; see `_stop_signal`.

  Returns:
    The parameters with the best validation value.

  Raises:
    Stopped: asked to stop before the last step, and all is saved.
  """
  config = getattr(run.config, name)
  trained, frozen = lora.split(params)
  reference = jax.tree.map(jnp.copy, trained) if stage.uses_reference else None
  with contextlib.ExitStack() as stack:
    stack.callback(stage.close)
    saver = stack.enter_context(Checkpointer(directory, run.config.checkpoint))
    first = saver.latest_step() or 0
    if first:
      del params, trained
      wanted = updater.abstract_state().trained()
      state, pool, meta = saver.restore(first, wanted)
      state = state._replace(params=lora.join(state.params, frozen))
      stage.set_state(meta["data"], pool)
      _say(f"{name}: resuming after step {first} of {config.update_steps}")
    else:
      state = updater.init(params)
    del frozen
    if stage.description:
      _say(f"{name}: {stage.description}")
    workdir = directory.parent.parent
    writer = stack.enter_context(
      MetricWriter(workdir, first_step=first_global_step + first)
    )
    progress = Progress(
      name,
      total_steps=config.update_steps,
      first_step=first,
      columns=stage.columns,
    )

    def finish(pending: _Pending | None) -> None:
      """Waits for a step and logs it."""
      if pending is None:
        return
      values = _step_values(pending)
      values["programs"] = stage.programs() + compiled_count(
        updater.accumulate, updater.finish
      )
      stage.check(values)
      writer.write(first_global_step + pending.step, values, f"{name}/")
      if (pending.step + 1) % run.config.log_every == 0:
        progress.show(pending.step + 1, values)

    pending = None
    for step in range(first, config.update_steps):
      start_s = time.monotonic()
      state, taken = stage.take_step(updater, state, step, reference)
      # The step before is logged while this one runs.
      finish(pending)
      pending = _Pending(step, taken, start_s)
      done = step + 1
      is_last = done == config.update_steps
      if is_last or (
        config.validate_every and done % config.validate_every == 0
      ):
        finish(pending)
        pending = None
        value, values = stage.validate(state.params)
        writer.write(first_global_step + step, values, f"{name}/")
        _say(f"{name} {done}/{config.update_steps}  " + _line(values))
        best = saver.best()
        if best is None or value > best[1]:
          saver.save_best(done, state.trained().params, value)
          # A checkpoint of this step must not be complete before: resumed
          # from it, the run would not validate this step again.
          saver.wait()
      is_asked = is_stopping()
      if is_last or is_asked or saver.is_due(done):
        finish(pending)
        pending = None
        data, pool = stage.get_state()
        saver.save(done, state.trained(), pool, {"data": data})
      if is_asked and not is_last:
        saver.wait()
        raise Stopped(
          f"{name}: asked to stop; update step {done} of "
          f"{config.update_steps} is saved in {directory}. Run the same "
          "command again to go on from there."
        )
    saver.wait()
    best = saver.restore_best(updater.abstract_state().trained().params)
    return lora.join(best, lora.split(state.params)[1])


def _step_values(pending: _Pending) -> dict[str, float]:
  values = dict(pending.taken.values)
  for metrics in pending.taken.metrics:
    values.update(reduce_metrics(metrics))
  # Reading the metrics above waited for the step.
  values["step_s"] = time.monotonic() - pending.start_s
  tokens = values.get("tokens_sampled", values["tokens_trained"])
  values["tokens_per_s"] = tokens / values["step_s"]
  # A fused step is one program: its parts have no times of their own.
  if values.get("decode_s"):
    for part, tokens in (
      ("prefill", "trunk_tokens"),
      ("decode", "tokens_sampled"),
    ):
      values[f"{part}_tokens_per_s"] = values[tokens] / values[f"{part}_s"]
  return values


def _line(values: dict[str, float]) -> str:
  shown = {k: v for k, v in values.items() if "step_" not in k}
  return "  ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in shown.items())


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
  """Yields a function that tells whether any process got SIGTERM.

  All processes have to call it together.
  """
  asked = []
  before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))

  def is_stopping() -> bool:
    if jax.process_count() == 1:
      return bool(asked)
    votes = multihost_utils.process_allgather(np.array(bool(asked)))
    return bool(np.any(votes))

  try:
    yield is_stopping
  finally:
    signal.signal(signal.SIGTERM, before)


def make_stages(run: Run, workdir: pathlib.Path) -> dict[str, Stage]:
  """Makes the stages that are not done yet; all before any is trained.

  So that what is wrong with the last of them shows at once, and not after
  the first has trained for hours.

  Raises:
    ValueError: a stage's settings do not fit data, model or mesh.
  """
  return {
    name: STAGES[name](run, name, getattr(run.config, name))
    for index, name in enumerate(run.config.stages)
    if not _marker(workdir, index, name).exists()
  }


def make_updaters(
  run: Run, stages: Mapping[str, Stage], params: Any
) -> dict[str, Updater]:
  """What takes the optimizer steps of each stage; `params` stay as they are."""
  made = {}
  for name, stage in stages.items():
    config = getattr(run.config, name)
    total = config.update_steps * stage.passes
    made[name] = Updater(
      stage.loss_fn,
      optim.make_optimizer(config.optim, total),
      optim.learning_rate(config.optim, total),
      params,
      run.mesh,
    )
  return made


def print_memory_plan(
  run: Run, stages: Mapping[str, Stage], updaters: Mapping[str, Updater]
) -> None:
  """Compiles what the stages will run, and says what memory it takes.

  What does not fit is said at once, with what to change, and not in the middle
  of a run. Steps find their programs compiled.

  Raises:
    memory_plan.DoesNotFitError: the compiler refuses one, so it cannot run.
  """
  refused = []
  limit = memory_plan.device_bytes(jax.local_devices()[0])
  parts = sharding.batch_devices(run.mesh, run.config.rules)
  for name, stage in stages.items():
    _say(f"{name}: {memory_plan.header(limit)}")
    for program in stage.planned(updaters[name]):
      remedy = program.remedy(name, parts)
      _say(f"{name}: {memory_plan.try_program(program, limit, remedy)[0]}")
      if not program.is_compiled():
        refused.append(f"{program.name!r} of {name}")
  if refused:
    raise memory_plan.DoesNotFitError(
      f"there is too little memory for {', '.join(refused)}; the plan above "
      "says what to change"
    )


def _marker(workdir, index, name):
  """The file that says that a stage is done."""
  return workdir / "stages" / f"{index}_{name}" / "done.json"


def train_stages(
  run: Run,
  stages: Mapping[str, Stage],
  updaters: Mapping[str, Updater],
  params: Any,
  workdir: pathlib.Path,
  after_stage: Callable[[str, Any], None],
) -> Any:
  """Trains all stages in order, skipping the ones that are done.

  Args:
    run: the run.
    stages: what `make_stages` returned.
    updaters: what `make_updaters` returned.
    params: where the first stage starts.
    workdir: results go below it.
    after_stage: called with (stage name, parameters) after each stage, also
      after one that was done before.

  Returns:
    The parameters after the last stage.

  Raises:
    Stopped: on SIGTERM, when all is saved.
  """
  first_global_step = 0
  for index, name in enumerate(run.config.stages):
    marker = _marker(workdir, index, name)
    directory = marker.parent
    steps = getattr(run.config, name).update_steps
    if name not in stages:
      trained, frozen = lora.split(params)
      abstract = sharding.abstract(trained)
      with Checkpointer(directory, run.config.checkpoint, read_only=True) as c:
        params = lora.join(c.restore_best(abstract), frozen)
      _say(f"{name}: was finished before")
    else:
      with _stop_signal() as is_stopping:
        params = train_stage(
          run,
          stages[name],
          updaters[name],
          name,
          params,
          directory,
          first_global_step,
          is_stopping,
        )
        files.write_json(marker, {"steps": steps})
        if is_stopping():
          raise Stopped(
            f"{name}: asked to stop; the stage is finished and saved in "
            f"{directory}. Run the same command again to go on from there."
          )
    first_global_step += steps
    after_stage(name, params)
  return params


def _say(line: str) -> None:
  if jax.process_index() == 0:
    print(line, flush=True)
