# SPDX-License-Identifier: Apache-2.0
"""Whether a working directory is that of a run, which then goes on.

It decides which settings may be others than before, and the files that depend
on them. What is done with a run is the business of run.py.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from srl_jax import agreement, held_out, loading, progress, sharding, storage
from srl_jax.config import Config
from srl_jax.data.suites import parse_suites
from srl_jax.domains.suite import Suite
from srl_jax.evaluate import journal
from srl_jax.initial_weights import WEIGHTS
from srl_jax.overrides import FREE_TO_CHANGE, INPUTS
from srl_jax.storage import files
from srl_jax.storage.workdir import VERSIONS, RefusedError, versions
from srl_jax.train.metric_columns import describe_columns
from srl_jax.train.stages import marker

_CONFIG = "config.json"
# Folders with what is measured, and who has it.
_MEASURED = ("suites", "solutions", "tensorboard", "trackers")


@dataclasses.dataclass(frozen=True)
class Claim:
  """How the config of a resumed run differs from its earlier one.

  The earlier one stays in the folder until `confirm`.

  Attributes:
    had_update_steps: of the last stage, if it is to go on for longer; else 0.
    moved: inputs that are named otherwise, as (before, now) by their fields;
      their contents must be the same.
  """

  had_update_steps: int = 0
  moved: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


def claim(config: Config, workdir: pathlib.Path) -> Claim:
  """Writes the config, or checks that the folder belongs to the same run.

  If the returned `Claim` is not empty, `confirm` writes the config later.

  Raises:
    RefusedError: the folder is that of another run, or of something else.
    ValueError: its config cannot be read; or the run is new, and would not
      read all that is set.
  """
  path = workdir / _CONFIG
  has_begun = agreement.has_results(workdir)
  found = agreement.read_json(path)
  _refuse_others(found, workdir)
  if not has_begun:
    _refuse_unread(config)
  if found is not None:
    # A field that this version has added has its default in it.
    before = resolved(loading.read_run_config(workdir))
    other = _compare(config, before, workdir, has_begun=has_begun)
    if other != Claim():
      return other
  files.write_json(path, resolved(config))
  if not has_begun:
    files.write_json(workdir / VERSIONS, versions())
  if jax.process_index() == 0:
    (workdir / "metrics.txt").write_text(describe_columns())
  return Claim()


def confirm(config: Config, workdir: pathlib.Path, claimed: Claim) -> None:
  """Writes the config of a run that goes on with something else than before.

  All that could be wrong is checked before, so that until then the old command
  still belongs to the folder. A last stage that goes on for longer is no longer
  done, and what was measured after it is taken back.
  """
  if claimed == Claim():
    return
  if had := claimed.had_update_steps:
    _take_back_end(config, workdir, had)
  files.write_json(workdir / _CONFIG, resolved(config))
  for field, (old, new) in claimed.moved.items():
    progress.say(
      f"config.{field} was {old!r} and is {new!r}; the contents are the same, "
      "so the run goes on"
    )
  agreement.wait_for_all()


def of_stages_to_come(config: Config, workdir: pathlib.Path) -> tuple[str, ...]:
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


def resolved(config: Config) -> dict[str, Any]:
  """Returns the config as it is read again from JSON."""
  return json.loads(json.dumps(dataclasses.asdict(config)))


def _refuse_others(
  config: Mapping[str, Any] | None, workdir: pathlib.Path
) -> None:
  """Refuses a folder in which a run would overwrite what is no run's.

  Args:
    config: what its config.json holds; None if it has none.
    workdir: the folder.
  """
  what = ""
  if config is None:
    names = (journal.FACTS, *journal.WRITTEN)
    found = [name for name in names if (workdir / name).exists()]
    # A disk that is shared may still show the others an earlier state.
    if found := sharding.gather_objects(found)[0]:
      what = f"has {', '.join(found)} and no {_CONFIG}"
  elif "model_type" in config:
    what = f"has the {_CONFIG} of a model"
  if what:
    raise RefusedError(
      f"--workdir={workdir} {what}, so it is no folder of a run, and a run "
      "would overwrite what is there; give this run a --workdir of its own"
    )


def _refuse_unread(config: Config) -> None:
  """Refuses settings that an ablation would be a null result of."""
  for name in config.stages:
    stage, part = getattr(config, name), "loss"
    try:
      if name != "sft":
        stage.loss.refuse_unread()
      if name in ("srl", "rlvr"):
        part = "reward"
        stage.reward.refuse_unread(stage.trunks.task)
    except ValueError as error:
      raise ValueError(f"config.{name}.{part}: {error}") from error


def _compare(
  config: Config,
  before: Mapping[str, Any],
  workdir: pathlib.Path,
  *,
  has_begun: bool,
) -> Claim:
  """Returns what is other than before; refuses what may not be."""
  more_steps, why_not = _more_update_steps(config, before, workdir)
  free = FREE_TO_CHANGE + of_stages_to_come(config, workdir)
  if more_steps:
    free += (f"{config.stages[-1]}.update_steps",)
  different = {
    name.removeprefix("config."): (old, new)
    for name, old, new in agreement.differences(
      before, resolved(config), "config"
    )
    if not f"{name}.".startswith(tuple(f"config.{x}." for x in free))
  }
  if not has_begun:
    if different and jax.process_index() == 0:
      _remove_begun(workdir)
    return Claim()
  kept = agreement.read_json(workdir / held_out.CHECKSUMS) or {}
  moved = {
    name: pair
    for name, pair in different.items()
    if name in INPUTS and _is_checked(name, *pair, workdir, kept)
  }
  # A disk that is shared may still show the others an earlier state.
  moved = sharding.gather_objects(moved)[0]
  refused = [
    f"config.{name} was {old!r} and is {new!r}"
    for name, (old, new) in different.items()
    if name not in moved
  ]
  if refused:
    raise RefusedError(
      f"{workdir} holds a run of another configuration: "
      f"{'; '.join(refused[:5])}; give this run a --workdir of its own, or the "
      f"old configuration to go on with that one{why_not}"
    )
  loading.pin_commits(workdir)
  return Claim(more_steps, moved)


def _remove_begun(workdir: pathlib.Path) -> None:
  """Removes what an attempt left that failed before anything was measured.

  What it measured in part belongs to the settings that it had.
  """
  for name in (loading.TRAINED_TOKENIZER, "metrics.jsonl", "metrics.csv"):
    (workdir / name).unlink(missing_ok=True)
  for name in (loading.KEPT_TOKENIZER, *_MEASURED):
    if (workdir / name).exists():
      storage.remove(workdir / name)


def _is_checked(
  name: str,
  old: Any,
  new: Any,
  workdir: pathlib.Path,
  kept: Mapping[str, Any],
) -> bool:
  """Whether contents of an input will be compared with those of before.

  Args:
    name: the field.
    old: its value before.
    new: its value now.
    workdir: folder of the run.
    kept: the checksums there of data and suites.
  """
  if name == "weights":
    return "random" not in (old, new) and (workdir / WEIGHTS).is_file()
  if name == "tokenizer.path":
    return (workdir / loading.KEPT_TOKENIZER).is_dir()
  if name == "data.path":
    return "train" in kept
  # Other suites are not the same ones elsewhere.
  is_renamed = name == "evaluate.suites" and _suites(old) != _suites(new)
  return "suites" in kept and not is_renamed


def _suites(named: Sequence[str]) -> list[Suite]:
  return [x for x, _ in parse_suites(",".join(named))] if named else []


def _more_update_steps(
  config: Config, before: Mapping[str, Any], workdir: pathlib.Path
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
  if stage.update_steps == had:
    return 0, ""
  if stage.update_steps < had:
    return 0, (
      "; a run does not end sooner, as its rates may depend on "
      f"{name}.update_steps and its best parameters may be of a later one: to "
      "end it now, stop it, and write the best that it has by srl_jax export "
      f"--workdir={workdir} --out=DIR"
    )
  if stage.optim.schedule == "constant" and not stage.optim.warmup_ratio:
    return had, ""
  return 0, (
    f"; a run goes on for longer only if {name}.optim.schedule='constant' and "
    "warmup_ratio=0, as other rates depend on update_steps: start a new run "
    "from its model instead, by --config.weights=WORKDIR"
  )


def _take_back_end(config: Config, workdir: pathlib.Path, had: int) -> None:
  """Takes back that the last stage is done, and what was measured after it."""
  name = config.stages[-1]
  if jax.process_index() != 0:
    return
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
  progress.say(
    f"{name}: was to take {had} update steps, and goes on to "
    f"{getattr(config, name).update_steps}"
  )
