# SPDX-License-Identifier: Apache-2.0
"""A whole run: load, evaluate, train the stages, evaluate, write the table.

This file decides the order of things and the files of the working directory;
train/stages.py trains the stages, and train/loop.py one of them.

  workdir/config.json           the resolved configuration
  workdir/versions.json         versions of Python and the libraries, the
                                checksum of this code, commits of the hub
  workdir/own_code.json         checksums of rewards and a domain of one's own
  workdir/held_out.json         checksums of validation and test problems, which
                                are in the folder held_out
  workdir/weights.json          checksums of the weights that it started from
  workdir/tokenizer/            copy of the tokenizer, unless the run trained it
  workdir/metrics.{jsonl,csv}   one row per update step
  workdir/tensorboard/          the same as event files
  workdir/trackers/             what Weights & Biases and Trackio have received
  workdir/metrics.txt           what each column of these is, with its unit
  workdir/stages/0_srl/         checkpoints of the first stage, and so on
  workdir/profile/srl/          a trace of the update steps in c.profile
  workdir/rollouts/             a sample of the rollouts of RL stages
  workdir/results.json          what evaluation found, before and after
  workdir/solutions/            what the model wrote for every test problem
  workdir/suites/               what the model wrote for problems of suites
  workdir/model/                the final model as a Hugging Face checkpoint;
                                c.weights takes the folder of a run
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from srl_jax import (
  agreement,
  held_out,
  initial_weights,
  loading,
  own_code,
  progress,
  saving,
  sharding,
  storage,
)
from srl_jax.config import Config
from srl_jax.measuring import Measuring
from srl_jax.models import hf_files
from srl_jax.overrides import FREE_TO_CHANGE, without_free
from srl_jax.processes import watchdog
from srl_jax.report.results_table import results_table
from srl_jax.storage import files
from srl_jax.storage.workdir import (
  COMMITS,
  LATER,
  VERSIONS,
  RefusedError,
  locked,
  versions,
)
from srl_jax.trackers.trackers import open_trackers
from srl_jax.train.metric_columns import describe_columns
from srl_jax.train.stage import Run, Stage
from srl_jax.train.stages import (
  make_stages,
  marker,
  needs_first_params,
  print_memory_plan,
  train_stages,
)
from srl_jax.trajectory import Trajectory


def train_and_evaluate(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Carries out a run, from wherever an earlier attempt left it.

  Returns:
    The results: {moment: {metric: [value, low, high]}}.

  Raises:
    ValueError: unusable input, config or working directory.
    RuntimeError: training went wrong; see the message. A RecurringError if it
      would go wrong again.
    Stopped: on SIGTERM, after saving.
  """
  workdir = storage.path(workdir)
  if config.note and jax.process_index() == 0:
    # First of all, because it may explain an error that follows.
    print(config.note, flush=True)
  mesh = sharding.make_mesh(config.mesh)
  with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
    stack.enter_context(locked(workdir))
    stack.enter_context(watchdog.watching(config.watchdog))
    agreement.check_shared(workdir)
    agreement.check_same({"config": _resolved(config), "versions": versions()})
    had_update_steps = _claim_workdir(config, workdir)
    with progress.task("loading data and tokenizer"):
      run = loading.load_run(config, mesh, workdir)
    _keep_commits(config, workdir)
    if jax.process_count() > 1:
      agreement.check_same(_checksums(run))
    _check_held_out(run, workdir)
    own_code.check(config, workdir, _of_stages_to_come(config, workdir))
    shown, fingerprint = dataclasses.asdict(config), _fingerprint(config)
    trackers = open_trackers(config.trackers, workdir, shown, fingerprint)
    stack.push(lambda error, *_: trackers.close(failed=error is not None))
    run = dataclasses.replace(run, trackers=trackers)
    _note_versions(workdir)
    measuring = Measuring(config, run, workdir)
    configs = {name: getattr(config, name) for name in config.stages}
    with progress.task("preparing the data of the stages"):
      again = config.stages[-1:] if had_update_steps else ()
      stages = make_stages(run, configs, workdir, again)
    for stage in stages.values():
      stack.callback(stage.close)
    params = _first_params(config, run, stages, workdir)
    print_summary(config, run, params)
    for stage in stages.values():
      stage.prepare(params)
    print_memory_plan(stages)
    _go_on_for_longer(config, workdir, had_update_steps)
    path = workdir / "results.json"
    results = agreement.read_json(path) or {}

    def measure(moment: str, params: Any) -> None:
      if moment not in results:
        results[moment] = measuring.at_moment(moment, params)
        files.write_json(path, results)

    measure("before", params)
    params = train_stages(
      run,
      configs,
      stages,
      params,
      workdir,
      lambda stage, params: measure(f"after {stage}", params),
      measuring,
    )
    dtype = run.policy.config.param_dtype
    saving.save_model(workdir / "model", params, run, config, dtype)
    if any(results.values()) and jax.process_index() == 0:
      print(results_table(results), flush=True)
  return results


def _first_params(
  config: Config, run: Run, stages: Mapping[str, Stage], workdir: pathlib.Path
) -> Any:
  """Returns what the first stage starts from.

  Only their shapes if a checkpoint takes their place: to read the weights again
  takes each host of a pod minutes.
  """
  results = agreement.read_json(workdir / "results.json") or {}
  if "before" in results and not needs_first_params(
    run, config.stages, stages, workdir
  ):
    return initial_weights.abstract_params(run)
  with progress.task("loading the first parameters"):
    params = initial_weights.initial_params(run)
  if results:
    initial_weights.check_weights(params, config, workdir)
  else:
    initial_weights.write_weights(params, config, workdir)
  return params


def print_summary(config: Config, run: Run, params: Any) -> None:
  """The first lines of a run: what it is, on what, with what."""
  if jax.process_index() != 0:
    return
  count = sum(x.size for x in jax.tree.leaves(params))
  device = jax.devices()[0]
  print(
    f"srl_jax: {config.name} on {jax.device_count()} x "
    f"{device.device_kind} ({jax.process_count()} process(es)), "
    f"{count / 1e6:.2f}M parameters, stages {' -> '.join(config.stages)}, "
    f"{len(run.train)} / {len(run.valid)} / {len(run.test)} trajectories to "
    "train / validate / test",
    flush=True,
  )
  if not run.test and not config.evaluate.suites:
    progress.warn(
      "there are no suites and no test split (c.data.test_size=0), so nothing "
      "is measured before and after training and no table comes at the end; "
      "set c.data.test_size to hold problems out"
    )


def _claim_workdir(config: Config, workdir: pathlib.Path) -> int:
  """Writes the config, or checks that the folder belongs to the same run.

  Returns:
    How many update steps the run had, if it is to go on for longer; then the
    config is not written yet. Else 0.
  """
  path = workdir / "config.json"
  resolved = _resolved(config)
  results = agreement.read_json(workdir / "results.json")
  if agreement.read_json(path) is not None:
    # A field that this version has added has its default in it.
    before = _resolved(loading.read_run_config(workdir))
    more_steps, why_not = _more_update_steps(config, before)
    free = FREE_TO_CHANGE + _of_stages_to_come(config, workdir)
    if more_steps:
      free += (f"{config.stages[-1]}.update_steps",)
    different = [
      f"{name} was {old!r} and is {new!r}"
      for name, old, new in agreement.differences(before, resolved, "config")
      if not f"{name}.".startswith(tuple(f"config.{x}." for x in free))
    ]
    has_begun = results is not None
    if different and has_begun:
      raise RefusedError(
        f"{workdir} holds a run of another configuration: "
        f"{'; '.join(different[:5])}; give this run a --workdir of its own, or "
        f"the old configuration to go on with that one{why_not}"
      )
    if different and jax.process_index() == 0:
      # What an attempt left that failed before anything was measured.
      (workdir / loading.TOKENIZER).unlink(missing_ok=True)
      for folder in (workdir / loading.KEPT_TOKENIZER, workdir / "suites"):
        if folder.exists():
          storage.remove(folder)
    if has_begun:
      loading.pin_commits(workdir)
    if more_steps and has_begun:
      return more_steps
  files.write_json(path, resolved)
  if results is None:
    files.write_json(workdir / VERSIONS, versions())
  if jax.process_index() == 0:
    (workdir / "metrics.txt").write_text(describe_columns())
  return 0


def _keep_commits(config: Config, workdir: pathlib.Path) -> None:
  """Writes which commits came from the hub, for `loading.pin_commits`.

  Raises:
    ValueError: processes got different ones.
  """
  sources = {config.weights, config.tokenizer.path}
  found = {x: hf_files.COMMITS[x] for x in sources if x in hf_files.COMMITS}
  agreement.check_same({"commits on the Hugging Face hub": found})
  if found:
    files.write_json(workdir / COMMITS, found)


def _note_versions(workdir: pathlib.Path) -> None:
  """Says and notes what is not of the versions of the attempt before."""
  begun = agreement.read_json(workdir / VERSIONS) or {}
  later = begun.get(LATER, [])
  before = {name: x for part in (begun, *later) for name, x in part.items()}
  changed = {
    name: new for name, new in versions().items() if before.get(name) != new
  }
  if changed:
    listed = [f"{x} was {before.get(x)} and is {changed[x]}" for x in changed]
    progress.warn(
      f"{workdir} was begun with other code: {'; '.join(listed)}; numbers "
      "from here on may not be those of one run"
    )
    files.write_json(workdir / VERSIONS, begun | {LATER: [*later, changed]})


def _of_stages_to_come(
  config: Config, workdir: pathlib.Path
) -> tuple[str, ...]:
  """Settings of stages that have saved nothing, so that none of it changes.

  Those of their trunks are not among them: evaluation has the same contexts.
  """
  found: list[str] = []
  for index, name in enumerate(config.stages):
    steps = marker(workdir, index, name).parent / "steps"
    if not (steps.is_dir() and any(steps.iterdir())):
      fields = dataclasses.fields(getattr(config, name))
      found += [f"{name}.{x.name}" for x in fields if x.name != "trunks"]
  # A disk that is shared may still show the others an earlier state.
  return sharding.gather_objects(tuple(found))[0]


def _fingerprint(config: Config) -> str:
  """Checksum of the settings and the code that metrics follow from."""
  settings = without_free(_resolved(config))
  parts = [settings, versions(), own_code.checksums(config)]
  return f"{zlib.crc32(json.dumps(parts, sort_keys=True).encode()):08x}"


def _resolved(config: Config) -> dict[str, Any]:
  """The config as it is read again from JSON."""
  return json.loads(json.dumps(dataclasses.asdict(config)))


def _more_update_steps(
  config: Config, before: dict[str, Any]
) -> tuple[int, str]:
  """How many update steps the last stage had, if it may go on beyond them.

  It may if the ones before are the same in a longer run: at a constant rate.
  What was validated at their end stays validated.

  Returns:
    The number before, or 0 if there are no more steps than it, or it matters;
    and, where it matters, what to do instead, for a message.
  """
  if not config.stages:
    return 0, ""
  name = config.stages[-1]
  stage = getattr(config, name)
  had = before.get(name, {}).get("update_steps", 0)
  if stage.update_steps <= had:
    return 0, ""
  if stage.optim.schedule == "constant" and not stage.optim.warmup_ratio:
    return had, ""
  return 0, (
    f"; a run goes on for longer only if {name}.optim.schedule='constant' and "
    "warmup_ratio=0, as other rates depend on update_steps: start a new run "
    "from its model instead, by --config.weights=WORKDIR"
  )


def _checksums(run: Run) -> dict[str, Any]:
  """Checksums of what this process read, by names for messages."""
  splits = ("train", "valid", "test")
  return {
    "data": {split: _crc32(getattr(run, split)) for split in splits},
    "tokenizer": {x.name: zlib.crc32(x.read_bytes()) for x in run.files},
  }


def _crc32(trajectories: Sequence[Trajectory]) -> int:
  crc = 0
  for trajectory in trajectories:
    crc = zlib.crc32(repr(trajectory).encode(), crc)
  return crc


def _go_on_for_longer(config: Config, workdir: pathlib.Path, had: int) -> None:
  """Takes back that the last stage is done, and what was measured after it.

  All that could be wrong is checked before. The config comes last, so that
  until then the old command still belongs to the folder.
  """
  if not had:
    return
  name = config.stages[-1]
  if jax.process_index() == 0:
    # The model too: it is no longer what the run results in.
    for old in (workdir / "suites" / f"after_{name}", workdir / "model"):
      if old.exists():
        storage.move(old, old.with_name(f"{old.name}_{had}_update_steps"))
    path = workdir / "results.json"
    results = json.loads(path.read_text())
    results.pop(f"after {name}", None)
    files.write_json(path, results)
    index = len(config.stages) - 1
    marker(workdir, index, name).unlink(missing_ok=True)
    files.write_json(workdir / "config.json", _resolved(config))
    progress.say(
      f"{name}: was to take {had} update steps, and goes on to "
      f"{getattr(config, name).update_steps}"
    )
  if jax.process_count() > 1:
    agreement.wait_for_all()


def _check_held_out(run: Run, workdir: pathlib.Path) -> None:
  """Refuses other problems than those of the moments measured before.

  The stream of batches does the same for the data that are trained on.
  """
  path = workdir / "held_out.json"
  splits = {"valid": run.valid, "test": run.test}
  now = {
    split: {"trajectories": len(data), "crc32": _crc32(data)}
    for split, data in splits.items()
  }
  before = agreement.read_json(path)
  results = agreement.read_json(workdir / "results.json")
  if before is not None and results is not None:
    for split, of_now in now.items():
      if before[split] != of_now:
        raise RefusedError(
          f"the {split} split changed since {workdir} was begun (it had "
          f"{before[split]['trajectories']} trajectories, now "
          f"{of_now['trajectories']}), so its numbers could not be compared; "
          "restore the data, or give this run a --workdir of its own"
        )
  files.write_json(path, now)
  held_out.write(splits, workdir)
