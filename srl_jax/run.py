# SPDX-License-Identifier: Apache-2.0
"""A whole run: load, evaluate, train the stages, evaluate, write the table.

This file decides the order of things and the files of the working directory;
train/stages.py trains the stages, and train/loop.py one of them.

  workdir/config.json           the resolved configuration
  workdir/versions.json         versions of Python and the libraries, the
                                checksum of this code, commits of the hub
  workdir/own_code.json         checksums of rewards and a domain of one's own
  workdir/held_out.json         checksums of the data and the suites; problems
                                to validate and test are in the folder held_out
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
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from srl_jax import (
  agreement,
  held_out,
  initial_weights,
  loading,
  own_code,
  ownership,
  progress,
  saving,
  sharding,
  storage,
)
from srl_jax.config import Config
from srl_jax.data.splits import SPLITS
from srl_jax.measuring import Measuring
from srl_jax.overrides import without_changeable
from srl_jax.processes import watchdog
from srl_jax.report.results_table import results_table
from srl_jax.storage import files, hub
from srl_jax.storage.workdir import (
  COMMITS,
  LATER,
  VERSIONS,
  locked,
  versions,
)
from srl_jax.trackers.trackers import open_trackers
from srl_jax.train.stage import Run, Stage
from srl_jax.train.stages import (
  make_stages,
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
    settings = ownership.resolved(config)
    agreement.check_same({"config": settings, "versions": versions()})
    claimed = ownership.claim(config, workdir)
    run = _load(config, mesh, workdir, claimed.moved)
    shown, fingerprint = dataclasses.asdict(config), _fingerprint(config)
    trackers = open_trackers(config.trackers, workdir, shown, fingerprint)
    stack.push(lambda error, *_: trackers.close(failed=error is not None))
    run = dataclasses.replace(run, trackers=trackers)
    measuring = Measuring(config, run, workdir)
    held_out.check(_splits(run), measuring.problems, workdir, claimed.moved)
    to_come = ownership.of_stages_to_come(config, workdir)
    own_code.check(config, workdir, to_come)
    _note_versions(workdir)
    configs = {name: getattr(config, name) for name in config.stages}
    with progress.task("preparing the data of the stages"):
      again = config.stages[-1:] if claimed.had_update_steps else ()
      stages = make_stages(run, configs, workdir, again)
    for stage in stages.values():
      stack.callback(stage.close)
    params = _first_params(config, run, stages, workdir, claimed.moved)
    print_summary(config, run, params)
    for stage in stages.values():
      stage.prepare(params)
    print_memory_plan(stages)
    ownership.confirm(config, workdir, claimed)
    path = workdir / "results.json"
    results = agreement.read_json(path) or {}

    def measure(moment: str, params: Any) -> None:
      if moment not in results:
        results[moment] = measuring.at_moment(moment, params)
        files.write_json(path, results)
      measuring.written(moment)

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


def _load(
  config: Config,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  moved: Collection[str],
) -> Run:
  """Loads data and tokenizer; all processes must have read the same.

  Args:
    config: of the run.
    mesh: the devices.
    workdir: folder of the run.
    moved: the inputs that are named otherwise than before.
  """
  is_kept = "tokenizer.path" in moved
  with progress.task("loading data and tokenizer"):
    run = loading.load_run(config, mesh, workdir, is_kept=is_kept)
  _keep_commits(config, workdir, moved)
  if jax.process_count() > 1:
    agreement.check_same(_checksums(run))
  return run


def _first_params(
  config: Config,
  run: Run,
  stages: Mapping[str, Stage],
  workdir: pathlib.Path,
  moved: Collection[str],
) -> Any:
  """Returns what the first stage starts from.

  Only their shapes if a checkpoint takes their place: to read the weights again
  takes each host of a pod minutes. Weights that have moved are read once.
  """
  results = agreement.read_json(workdir / "results.json") or {}
  is_needed = "before" not in results or needs_first_params(
    run, config.stages, stages, workdir
  )
  if not (is_needed or "weights" in moved):
    return initial_weights.abstract_params(run)
  with progress.task("loading the first parameters"):
    params = initial_weights.initial_params(run)
  if results:
    initial_weights.check_weights(params, config, workdir)
  else:
    initial_weights.write_weights(params, config, workdir)
  return params if is_needed else initial_weights.abstract_params(run)


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


def _keep_commits(
  config: Config, workdir: pathlib.Path, moved: Collection[str]
) -> None:
  """Writes which commits came from the hub, for `loading.pin_commits`.

  Raises:
    ValueError: processes got different ones.
  """
  sources = {config.weights, config.tokenizer.path}
  found = {x: hub.COMMITS[x] for x in sources if x in hub.COMMITS}
  agreement.check_same({"commits on the Hugging Face hub": found})
  if found:
    # The run may still be refused what has moved.
    kept = agreement.read_json(workdir / COMMITS) if moved else None
    files.write_json(workdir / COMMITS, (kept or {}) | found)


def _note_versions(workdir: pathlib.Path) -> None:
  """Warns of versions that changed since the last attempt, and records them."""
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


def _fingerprint(config: Config) -> str:
  """Checksum of the settings and the code that metrics follow from.

  It also covers the settings that decide what trackers get of an update step.
  """
  settings = without_changeable(ownership.resolved(config))
  every = config.evaluate.suites_every_update_steps
  shown = [every, dataclasses.asdict(config.rollouts), config.trackers.texts]
  parts = [settings, shown, versions(), own_code.checksums(config)]
  return f"{zlib.crc32(json.dumps(parts, sort_keys=True).encode()):08x}"


def _checksums(run: Run) -> dict[str, Any]:
  """Checksums of what this process read, by names for messages."""
  return {
    "data": {name: held_out.crc32(x) for name, x in _splits(run).items()},
    "tokenizer": {x.name: zlib.crc32(x.read_bytes()) for x in run.files},
  }


def _splits(run: Run) -> dict[str, Sequence[Trajectory]]:
  return {x: getattr(run, x) for x in SPLITS}
