# SPDX-License-Identifier: Apache-2.0
"""Reads what a run has left in its working directory so far.

The run may be finished, under way or of another experiment: what is missing is
empty here. How it looks is the business of page.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srl_jax import storage
from srl_jax.evaluate.compare import Result
from srl_jax.evaluate.journal import read_results
from srl_jax.metrics import read_rows
from srl_jax.overrides import FREE_TO_CHANGE
from srl_jax.rollout import record
from srl_jax.storage.workdir import LATER, OWN_CODE, SOURCE, VERSIONS, no_run

# What runs of one group may differ in: they are repetitions of one another.
_OF_A_REPETITION = {"seed", "evaluate.before", *FREE_TO_CHANGE}


@dataclasses.dataclass(frozen=True)
class RunFiles:
  """A run, as its files tell.

  Attributes:
    label: its name on the page, unlike those of all other runs there.
    group: the same for runs of the same code that differ in their seeds
      alone, and in what changes none of their numbers.
    workdir: its folder.
    config: what its config.json says.
    rows: of its metrics.jsonl.
    results: {moment: {metric: [value, low, high]}}.
    solutions: what was judged, {moment: records}.
    suites: the answers to suites at the moments of `results`, if any.
    rollout_files: in order of time.
    is_finished: whether the final model is there.
  """

  label: str
  group: str
  workdir: pathlib.Path
  config: Mapping[str, Any]
  rows: Sequence[Mapping[str, Any]]
  results: Mapping[str, Mapping[str, Sequence[float]]]
  solutions: Mapping[str, Sequence[Mapping[str, Any]]]
  suites: Mapping[str, Sequence[Result]]
  rollout_files: Sequence[record.File]
  is_finished: bool

  @property
  def first_steps(self) -> dict[str, int]:
    """Update steps of all stages before a stage, by its name."""
    first, found = 0, {}
    for stage in self.config.get("stages", ()):
      found[stage] = first
      first += self.config.get(stage, {}).get("update_steps", 0)
    return found

  @property
  def update_steps(self) -> int:
    """Update steps of all stages together."""
    stages = self.config.get("stages", ())
    return sum(self.config.get(x, {}).get("update_steps", 0) for x in stages)

  @property
  def steps_done(self) -> int:
    return max((row["update_step"] + 1 for row in self.rows), default=0)

  def rollouts(self, file: record.File) -> list[dict[str, Any]]:
    """Rows of a file, whose update steps count on over all stages."""
    first = self.first_steps.get(file.stage, 0)
    return [
      row | {"update_step": first + row["update_step"]}
      for row in record.read_file(file.path)
    ]


def read_runs(workdirs: Sequence[str | os.PathLike]) -> list[RunFiles]:
  """Reads runs and names them.

  Args:
    workdirs: folders of runs, finished or not.

  Raises:
    ValueError: there is no run in one of them, one is named twice, or a file
      cannot be read; the message names it.
  """
  if not workdirs:
    return []
  paths = [storage.path(x) for x in workdirs]
  resolved = [storage.absolute(path) for path in paths]
  if len(set(resolved)) < len(resolved):
    raise ValueError(
      f"a run is named twice: {', '.join(map(str, paths))}; give each "
      "--workdir once"
    )
  configs = [_read_config(path) for path in paths]
  labels = _distinct([str(path) for path in resolved])
  groups = _groups(configs, [_code_of(path) for path in paths], labels)
  return [
    _read_run(*x) for x in zip(paths, configs, labels, groups, strict=True)
  ]


def _read_config(workdir: pathlib.Path) -> dict[str, Any]:
  path = workdir / "config.json"
  if not path.is_file():
    raise no_run(workdir)
  return _read_json(path)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is not JSON ({error}); mend it") from error
  if not isinstance(value, dict):
    raise ValueError(f"{path} holds no JSON object; it is not a run's file")
  return value


def _distinct(paths: Sequence[str]) -> list[str]:
  """The shortest ends of paths that tell them apart."""
  parts = [pathlib.PurePath(path).parts for path in paths]
  for count in range(1, max(map(len, parts)) + 1):
    ends = ["/".join(x[-count:]) for x in parts]
    if len(set(ends)) == len(ends):
      break
  return ends


def _code_of(workdir: pathlib.Path) -> list[Any]:
  """Checksums of the code that made a run: the package, and the user's own."""
  paths = workdir / VERSIONS, workdir / OWN_CODE
  versions, own = (_read_json(x) if x.is_file() else {} for x in paths)
  later = [x[SOURCE] for x in versions.get(LATER, ()) if SOURCE in x]
  return [versions.get(SOURCE), *later, own]


def _groups(
  configs: Sequence[Mapping[str, Any]],
  codes: Sequence[Any],
  labels: Sequence[str],
) -> list[str]:
  """Names of groups: the experiment's, with a label where two have that one."""
  keys = [
    json.dumps([dict(_of_group(config)), code], sort_keys=True)
    for config, code in zip(configs, codes, strict=True)
  ]
  names: dict[str, str] = {}
  for config, label, key in zip(configs, labels, keys, strict=True):
    if key not in names:
      name = str(config.get("name", label))
      names[key] = f"{name} ({label})" if name in names.values() else name
  return [names[key] for key in keys]


def _of_group(
  config: Mapping[str, Any], at: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields (name, value) of the fields that a group has in common."""
  for name, value in config.items():
    if at + name in _OF_A_REPETITION:
      continue
    if isinstance(value, Mapping):
      yield from _of_group(value, f"{at}{name}.")
    else:
      yield at + name, value


def _read_run(workdir, config, label, group) -> RunFiles:
  path = workdir / "results.json"
  results = _read_json(path) if path.is_file() else {}
  folders = {x: workdir / "suites" / x.replace(" ", "_") for x in results}
  order = {stage: i for i, stage in enumerate(config.get("stages", ()))}
  return RunFiles(
    label=label,
    group=group,
    workdir=workdir,
    config=config,
    rows=read_rows(workdir / "metrics.jsonl"),
    results=results,
    solutions={
      path.stem.replace("_", " "): read_rows(path)
      for path in sorted((workdir / "solutions").glob("*.jsonl"))
    },
    suites={x: read_results(f) for x, f in folders.items() if f.is_dir()},
    rollout_files=sorted(
      record.list_files(workdir / "rollouts"),
      key=lambda x: (order.get(x.stage, -1), x.update_step, x.split),
    ),
    is_finished=(workdir / "model" / "config.json").is_file(),
  )
