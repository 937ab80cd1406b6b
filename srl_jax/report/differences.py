# SPDX-License-Identifier: Apache-2.0
"""Compares what runs solve, problem by problem.

Within a run over its moments, and between groups of runs. runs.py reads the
runs, and page.py shows what is found here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax import held_out
from srl_jax.evaluate import seeds, summary
from srl_jax.evaluate.compare import Result, check_alike
from srl_jax.report.runs import RunFiles

# Fields of c.evaluate that decide how problems of the test split are solved.
_OF_MODE = {
  "turns": ("max_turns", "max_turn_tokens"),
  "solve": ("max_solve_tokens",),
}
_OF_ALL_MODES = ("problems", "samples", "temperature")


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
    ends = [[_shares(x, [*x.results][-1]) for x in side] for side in pair]
    both = [run for side in pair for run in side]
    suites = [x.suites.get([*x.results][-1], ()) for x in both]
    tests = [_test_problems(x) for x in both]
    for how in ends[0][0]:
      refusal = _refusal(how, suites) or _measured_otherwise(how, both, tests)
      if refusal:
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


def _measured_otherwise(
  how: str, runs: Sequence[RunFiles], tests: Sequence[int | None]
) -> str:
  """Says in what solutions were measured otherwise; "" if in nothing.

  Args:
    how: as in MomentDifference; of suites, `_refusal` tells.
    runs: the runs of both sides.
    tests: checksums of their test problems.
  """
  mode = how.partition(", ")[0]
  if mode not in _OF_MODE:
    return ""
  evaluate = [run.config.get("evaluate", {}) for run in runs]
  found = {"test problems": tests} | {
    f"c.evaluate.{name}": [x.get(name) for x in evaluate]
    for name in (*_OF_ALL_MODES, *_OF_MODE[mode])
  }
  differing = [
    name
    for name, values in found.items()
    if any(value != values[0] for value in values)
  ]
  if not differing:
    return ""
  return f"not measured alike: other {', '.join(differing)}"


def _test_problems(run: RunFiles) -> int | None:
  """A checksum of the problems to solve; None if the run has none.

  Steps do not count: what is a step is part of some experiments.
  """
  test = held_out.read(run.workdir).get("test")
  if test is None:
    return None
  return held_out.crc32(
    (x.id, x.domain, x.problem, x.answer, sorted(x.metadata.items()))
    for x in test
  )


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
