# SPDX-License-Identifier: Apache-2.0
"""Reads what a run has left in its working directory so far.

The run may be finished, under way or of another experiment: what is missing is
empty here. How it looks is the business of page.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax import storage
from srl_jax.evaluate import seeds, summary
from srl_jax.evaluate.compare import Result, check_alike
from srl_jax.evaluate.journal import read_results
from srl_jax.metrics import read_rows
from srl_jax.overrides import FREE_TO_CHANGE
from srl_jax.rollout import record
from srl_jax.storage.workdir import LATER, OWN_CODE, SOURCE, VERSIONS, no_run

# What runs of one group may differ in: they are repetitions of one another.
_OF_A_REPETITION = {"seed", "evaluate.before", *FREE_TO_CHANGE}
# Fields of c.evaluate that change nothing of what is measured in the end; what
# a folder of suites holds is compared itself.
_WHEN_AND_HOW_FAST = (
  *("before", "answers_per_batch", "suites_folder"),
  *("suites_every_update_steps", "suites_problems"),
)


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


@dataclasses.dataclass(frozen=True)
class MomentDifference:
  """How much more of the same problems is solved at a later moment.

  Attributes:
    moment: the later moment; the earlier one is "before".
    how: mode and decoding of the solutions, or suite and metric.
    problems: number of problems.
    gained: problems that are solved more often than before.
    lost: problems that are solved less often.
    estimate: mean difference of the share solved, with a paired t interval;
      None if there is a refusal.
    refusal: why the two moments may not be compared; "" if they may.
  """

  moment: str
  how: str
  problems: int = 0
  gained: int = 0
  lost: int = 0
  estimate: seeds.Difference | None = None
  refusal: str = ""


def paired_differences(run: RunFiles) -> Iterator[MomentDifference]:
  """Yields the differences of each moment from "before", problem by problem."""
  before = _shares(run, "before")
  for moment in run.results:
    after = _shares(run, moment)
    for how in before if moment != "before" else ():
      of_both = [run.suites.get(x, ()) for x in ("before", moment)]
      if refusal := _refusal(how, of_both):
        yield MomentDifference(moment, how, refusal=refusal)
        continue
      common = sorted(before[how].keys() & after.get(how, {}).keys())
      if len(common) > 1:
        base, other = (
          np.array([x[how][name] for name in common]) for x in (before, after)
        )
        yield MomentDifference(
          moment=moment,
          how=how,
          problems=len(common),
          gained=int((other > base).sum()),
          lost=int((other < base).sum()),
          estimate=seeds.difference(base[None], other[None], is_share=True),
        )


@dataclasses.dataclass(frozen=True)
class GroupDifference:
  """How much more of the same problems another group solves in the end.

  Attributes:
    base: name of the group that is compared with.
    group: name of the other.
    how: as in MomentDifference.
    runs: number of runs of the base, and of the other.
    estimate: mean difference of the share solved; its interval is over problems
      and, where a group has several runs, over runs. None if there is a
      refusal.
    refusal: why the two groups may not be compared; "" if they may.
  """

  base: str
  group: str
  how: str
  runs: tuple[int, int]
  estimate: seeds.Difference | None = None
  refusal: str = ""


def group_differences(runs: Sequence[RunFiles]) -> Iterator[GroupDifference]:
  """Yields the differences of each group from the first, problem by problem.

  Runs that are not finished are left out. Groups that were measured on other
  problems or in another way are named with the reason.
  """
  groups: dict[str, list[RunFiles]] = {}
  for run in runs:
    if run.is_finished and run.results:
      groups.setdefault(run.group, []).append(run)
  for base, group in itertools.product([*groups][:1], [*groups][1:]):
    pair = groups[base], groups[group]
    counts = len(pair[0]), len(pair[1])
    if refusal := _measured_otherwise([run for side in pair for run in side]):
      yield GroupDifference(base, group, "all", counts, refusal=refusal)
      continue
    ends = [[_shares(x, [*x.results][-1]) for x in side] for side in pair]
    suites = [x.suites.get([*x.results][-1], ()) for side in pair for x in side]
    for how in ends[0][0]:
      if refusal := _refusal(how, suites):
        yield GroupDifference(base, group, how, counts, refusal=refusal)
        continue
      found = [[x.get(how, {}) for x in side] for side in ends]
      common = sorted(set.intersection(*({*x} for side in found for x in side)))
      if len(common) > 1:
        base_SP, other_SP = (
          np.array([[x[name] for name in common] for x in side])
          for side in found
        )
        yield GroupDifference(
          base=base,
          group=group,
          how=how,
          runs=counts,
          estimate=seeds.difference(base_SP, other_SP, is_share=True),
        )


def _measured_otherwise(runs: Sequence[RunFiles]) -> str:
  """Says in what the measurements of runs differ; "" if in nothing."""
  found = [_measured(run) for run in runs]
  differing = [
    name
    for name in dict.fromkeys(name for x in found for name in x)
    if any(x.get(name) != found[0].get(name) for x in found)
  ]
  if not differing:
    return ""
  return f"not measured alike: other {', '.join(differing)}"


def _measured(run: RunFiles) -> dict[str, Any]:
  """On what a run was measured, and how."""
  path = run.workdir / "held_out.json"
  test = _read_json(path).get("test") if path.is_file() else None
  fields = {
    f"c.evaluate.{name}": value
    for name, value in run.config.get("evaluate", {}).items()
    if name not in _WHEN_AND_HOW_FAST
  }
  return {"test problems": test, **fields}


def _refusal(how: str, suites: Sequence[Sequence[Result]]) -> str:
  """Says why answers to a suite may not be compared; "" if they may.

  Args:
    how: as in MomentDifference; solutions of the test split may be compared.
    suites: the results on suites, for each side.
  """
  suite = how.rpartition(", ")[0]
  results = [x for of_side in suites for x in of_side if x.suite == suite]
  try:
    if results:
      check_alike(results)
  except ValueError as error:
    return str(error)
  return ""


def _shares(run: RunFiles, moment: str) -> dict[str, dict[str, float]]:
  """Share of right samples by problem, of all that a moment has."""
  found = _solution_shares(run.solutions.get(moment, ()))
  for result in run.suites.get(moment, ()):
    values = summary.values(result.problems, result.answers)
    for metric, of_metric in values.items():
      if metric == "greedy" or metric.startswith("avg@"):
        ids = (problem.id for problem in result.problems)
        shares = dict(zip(ids, of_metric.values_P.tolist(), strict=True))
        found[f"{result.suite}, {metric}"] = shares
  return found


def _solution_shares(
  solutions: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, float]]:
  """Share of right samples, by mode and decoding and by problem.

  Problems are left out of which the environment could not tell of a sample.
  """
  found: dict[str, dict[str, list[bool | None]]] = {}
  for x in solutions:
    decoding = f"sampled at {x['temperature']:g}" if x["temperature"] else ""
    how = f"{x['mode']}, {decoding or 'greedy'}"
    of_problem = found.setdefault(how, {}).setdefault(x["problem"], [])
    of_problem.append(x["is_correct"])
  return {
    how: {
      name: float(np.mean(x)) for name, x in problems.items() if None not in x
    }
    for how, problems in found.items()
  }
