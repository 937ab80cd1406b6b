# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation of suites, as text and as files.

evaluate/ computes the numbers and tables.py sets them; this file decides which
numbers stand where. Shares are in percent wherever people read them, and
between 0 and 1 in CSV and JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from srl_jax.domains.suite import Problem
from srl_jax.evaluate import behaviours, summary
from srl_jax.evaluate.compare import Result, compare
from srl_jax.evaluate.contamination import Overlap
from srl_jax.evaluate.estimates import Estimate
from srl_jax.evaluate.seeds import Difference
from srl_jax.report.tables import Table

Rows = Mapping[tuple[str, ...], Mapping[str, Estimate]]
# {suite: {metric: difference}}
Differences = Mapping[str, Mapping[str, Difference]]


def short(metrics: Sequence[str]) -> list[str]:
  """Returns the metrics that a page has room for; files have all of them.

  Of each kind with a k it is the largest k. How answers end and how long they
  are is that of sampled ones, if there are any.
  """
  last = {}
  for name in metrics:
    kind, at, k = name.partition("@")
    if at and (kind, k) != ("pass", "1"):  # It is avg@n.
      last[kind] = name
  shapes = ("cut", "no answer", "tokens")
  if "cut" not in metrics:
    shapes = tuple(f"{name}, greedy" for name in shapes)
  chosen = {"greedy", *(last.get(kind) for kind in ("avg", "pass", "maj"))}
  return [name for name in metrics if name in chosen or name in shapes]


def table(
  heads: tuple[str, ...],
  rows: Rows,
  choose: Callable[[Sequence[str]], Sequence[str]] = list,
) -> Table:
  """Returns a table of estimates.

  Args:
    heads: headings of the columns that name a row.
    rows: {names of the row: {metric: estimate}}.
    choose: a function metrics -> those to show, such as `short`.
  """
  metrics = list(dict.fromkeys(name for row in rows.values() for name in row))
  return Table(
    heads,
    {
      names: {name: dataclasses.astuple(x) for name, x in row.items()}
      for names, row in rows.items()
    },
    units={name: summary.unit_of(name) for name in metrics},
    metrics=tuple(choose(metrics)),
  )


class SuiteTables:
  """The numbers of a finished evaluation.

  Attributes:
    results: a result for each suite.
    differences: those to another evaluation; {} if there is none.
  """

  def __init__(
    self,
    results: Sequence[Result],
    base: Sequence[Result] = (),
    interventions: Mapping[str, Mapping[str, Estimate]] | None = None,
  ):
    """Computes everything.

    Args:
      results: a result for each suite.
      base: results of another evaluation to compare with, one for each suite.
      interventions: what `interventions.intervene` returned.

    Raises:
      ValueError: answers are missing, or results are not comparable.
    """
    self.results = results
    self._values = {
      r.suite: summary.values(r.problems, r.answers) for r in results
    }
    self.differences = differences(base, results) if base else {}
    more = interventions or {}
    self._reasoning = {
      (r.suite,): behaviours.summary(r.problems, r.answers)
      | dict(more.get(r.suite, {}))
      for r in results
    }

  def full(self) -> Table:
    """All metrics, a row for each suite."""
    return table(("suite",), self._rows())

  def reasoning(self) -> Table:
    """What stands in the answers; a row for each suite."""
    return table(("suite",), self._reasoning)

  def markdown(self) -> str:
    """The main metrics by suite, and by level and subject where there are any.

    The differences follow, if there are any.
    """
    parts = [table(("suite",), self._rows(), short).markdown()]
    for by in ("level", "subject"):
      rows = {
        (result.suite, name): of_name
        for result in self.results
        if len({getattr(problem, by) for problem in result.problems}) > 1
        for name, of_name in summary.rows(
          result.problems, self._values[result.suite], by
        ).items()
      }
      if rows:
        parts.append(table(("suite", by), rows, short).markdown())
    return "\n".join(parts)

  def json(self) -> dict[str, Any]:
    """All numbers, for results.json."""
    found = {
      "suites": json.loads(self.full().json()),
      "reasoning": json.loads(self.reasoning().json()),
    }
    if self.differences:
      found["differences"] = {
        suite: {name: _finite(x) for name, x in of_suite.items()}
        for suite, of_suite in self.differences.items()
      }
    return found

  def _rows(self) -> Rows:
    return {
      (suite,): summary.estimates(values)
      for suite, values in self._values.items()
    }


def _finite(difference: Difference) -> dict[str, float | None]:
  return {
    name: value if math.isfinite(value) else None
    for name, value in dataclasses.asdict(difference).items()
  }


def differences(base: Sequence[Result], other: Sequence[Result]) -> Differences:
  """Returns other minus base, paired by problem, for the suites of both.

  Raises:
    ValueError: results are not comparable.
  """
  before = {result.suite: result for result in base}
  return {
    result.suite: compare([before[result.suite]], [result])
    for result in other
    if result.suite in before
  }


def difference_cells(found: Differences) -> list[tuple[str, ...]]:
  """Returns (suite, metric, before, after, difference, needed) as text."""
  cells = []
  for suite, of_suite in found.items():
    for name in short(list(of_suite)):
      x, unit = of_suite[name], summary.unit_of(name)
      scale = 100 if unit == "%" else 1
      value, low, high = (scale * y for y in (x.value, x.low, x.high))
      cells.append(
        (
          suite,
          f"{name} (%)" if unit == "%" else name,
          f"{scale * x.base:.1f}",
          f"{scale * x.other:.1f}",
          f"{value:+.1f} [{low:+.1f}, {high:+.1f}]",
          f"{x.problems_needed:,.0f}" if x.problems_needed < math.inf else "-",
        )
      )
  return cells


def difference_markdown(found: Differences, name: str) -> str:
  """Returns the differences to the evaluation called `name` in Markdown."""
  lines = [
    f"Differences to {name}, paired by problem\n",
    "| suite | metric | there | here | difference | problems needed |",
    "| --- | --- | ---: | ---: | ---: | ---: |",
    *(f"| {' | '.join(cells)} |" for cells in difference_cells(found)),
  ]
  return "\n".join(lines) + "\n"


def contamination_markdown(
  found: Mapping[str, Sequence[Overlap]], name: str
) -> str:
  """Returns which problems stand in the training data called `name`."""
  lines = [f"Problems that stand in {name}\n"]
  for suite, overlaps in found.items():
    flagged = [overlap for overlap in overlaps if overlap.is_flagged]
    mean = sum(overlap.share for overlap in overlaps) / len(overlaps)
    lines.append(
      f"- {suite}: {len(flagged)} of {len(overlaps)} flagged, mean overlap "
      f"{mean:.1%}"
    )
    lines += [
      f"    - {x.problem}: {x.found} of {x.grams} word sequences, most in "
      f"{x.source}"
      for x in flagged
    ]
  return "\n".join(lines) + "\n"


def by_suite(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
  """Returns the problems of each suite."""
  found: dict[str, list[Problem]] = {}
  for problem in problems:
    found.setdefault(problem.suite, []).append(problem)
  return found
