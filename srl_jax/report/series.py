# SPDX-License-Identifier: Apache-2.0
"""Numbers behind the curves and charts of a report, as plain lists.

Curves come from the rows of metrics.jsonl and are exact. Charts of rollouts
come from the sample of them that the run has kept.
"""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax.report.runs import RunFiles

_AXES = ("update_step", "seconds", "tokens")
# Longer curves are averaged over neighbouring update steps.
MOST_POINTS = 400
# Samples in the scatter plot of thought lengths, per run.
MOST_DOTS = 1500
NO_CAUSE = "none"
_BINS = 20


def curves(runs: Sequence[RunFiles]) -> dict[str, Any]:
  """Returns all metrics of all runs over three axes.

  Returns:
    {"axes": [{"update_step", "seconds", "tokens"}], "series": [...]}. A series
    names its run, group, stage and metric, its axis by index, and its values
    `y`. Stages have series of their own, since a metric such as the loss is
    another quantity in each. Where several runs are of one group there is a
    series for their mean too, whose `low` and `high` are the lowest and highest
    run at the update steps that all of them have reached.
  """
  axes: list[dict[str, list[float]]] = []
  series: list[dict[str, Any]] = []
  known: dict[str, int] = {}
  groups: dict[tuple[str, ...], list[list[tuple[float, ...]]]] = {}

  def add(points, **names):
    columns = [list(map(_short, x)) for x in zip(*points, strict=True)]
    axis = dict(zip(_AXES, columns, strict=False))
    # Nearly all metrics of a run share one of two axes.
    index = known.setdefault(json.dumps(axis), len(axes))
    if index == len(axes):
      axes.append(axis)
    values = dict(
      zip(("y", "low", "high"), columns[len(_AXES) :], strict=False)
    )
    series.append(names | {"axis": index} | values)

  for run in runs:
    for (stage, metric), points in _points(run).items():
      groups.setdefault((run.group, stage, metric), []).append(points)
      names = {"run": run.label, "group": run.group, "stage": stage}
      add(_thinned(points), **names, metric=metric)
  for (group, stage, metric), members in groups.items():
    if len(members) > 1 and (points := _mean(members)):
      names = {"group": group, "stage": stage, "metric": metric}
      add(points, **names, runs=len(members))
  return {"axes": axes, "series": series}


def _points(
  run: RunFiles,
) -> dict[tuple[str, str], list[tuple[float, ...]]]:
  """{(stage, metric): [(update step, seconds, tokens, value)]} of a run."""
  found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
  seconds = tokens = 0.0
  for row in run.rows:
    # What is measured before and after the stages is in the tables.
    names = [k for k in row if "/" in k and not k.startswith("test/")]
    values = {tuple(k.split("/", 1)): row[k] for k in names}
    of_metric = {metric: value for (_, metric), value in values.items()}
    seconds += of_metric.get("update_step_s") or 0
    tokens += of_metric.get("tokens_sampled") or 0
    for key, value in values.items():
      if value is not None:
        point = (row["update_step"], seconds, tokens, value)
        found.setdefault(key, []).append(point)
  return found


def _thinned(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
  if len(points) <= MOST_POINTS:
    return list(points)
  parts = np.array_split(np.array(points), MOST_POINTS)
  return [tuple(part.mean(0).tolist()) for part in parts]


def _mean(
  members: Sequence[Sequence[tuple[float, ...]]],
) -> list[tuple[float, ...]]:
  """The mean, lowest and highest values of runs where all of them have one."""
  of_runs = [{point[0]: point for point in points} for points in members]
  common = sorted(set.intersection(*map(set, of_runs)))
  # Only then do averages over neighbours run over the same update steps.
  thinned = [_thinned([run[step] for step in common]) for run in of_runs]
  return [
    (
      *np.mean(points, axis=0).tolist(),
      min(point[-1] for point in points),
      max(point[-1] for point in points),
    )
    for points in zip(*thinned, strict=True)
  ]


def _short(value: float) -> float:
  """Five digits are more than a screen shows; update steps stay whole."""
  return int(value) if float(value).is_integer() else float(f"{value:.5g}")


def groups_kept(runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
  """Returns numbers of kept and dropped groups per update step."""
  found = []
  for run in runs:
    points = _points(run)
    for stage, metric in points:
      if metric != "groups_sampled" or (stage, "groups_kept") not in points:
        continue
      for all_groups, of_kept in zip(
        _thinned(points[stage, metric]),
        _thinned(points[stage, "groups_kept"]),
        strict=True,
      ):
        moment = {"run": run.label, "update_step": _short(all_groups[0])}
        dropped = all_groups[-1] - of_kept[-1]
        found += [
          moment | {"groups": "kept", "count": _short(of_kept[-1])},
          moment | {"groups": "dropped", "count": _short(dropped)},
        ]
  return found


class RolloutCounts:
  """Gathers the numbers of the rollout charts file by file."""

  def __init__(self) -> None:
    self.histogram: list[dict[str, Any]] = []
    self.failures: list[dict[str, Any]] = []
    self.depths: list[dict[str, Any]] = []
    self.dots: list[dict[str, Any]] = []

  def add(self, label: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds the rows of one file of a run."""
    if not rows:
      return
    moment = {
      "run": label,
      "split": rows[0]["split"],
      "update_step": rows[0]["update_step"],
    }
    rewards = [row["reward"] for row in rows if _is_number(row["reward"])]
    bins = collections.Counter(math.floor(x * _BINS / 2) for x in rewards)
    self.histogram += [
      moment | {"low": 2 * k / _BINS, "share": n / len(rewards)}
      for k, n in sorted(bins.items())
    ]
    causes = collections.Counter(row["failure"] for row in rows)
    self.failures += [
      moment | {"cause": cause, "share": count / len(rows)}
      for cause, count in sorted(causes.items())
      if cause
    ]
    # A moment without failures counts as one, and is no gap.
    self.failures.append(moment | {"cause": NO_CAUSE, "share": 0})
    by_depth: dict[int, list[float]] = {}
    for row in rows:
      if _is_number(row["reward"]):
        by_depth.setdefault(row["step"] + 1, []).append(row["reward"])
    self.depths += [
      moment | {"step": step, "reward": _short(np.mean(x)), "count": len(x)}
      for step, x in sorted(by_depth.items())
    ]

  def add_dots(
    self, label: str, samples: Iterable[tuple[str, int, int, float]]
  ) -> None:
    """Adds (split, update step, characters of the thought, reward) of a run."""
    samples = list(samples)
    for x in samples[:: max(1, -(-len(samples) // MOST_DOTS))]:
      names = ("split", "update_step", "chars", "reward")
      self.dots.append({"run": label} | dict(zip(names, x, strict=True)))


def _is_number(value: float | None) -> bool:
  return value is not None and math.isfinite(value)
