# SPDX-License-Identifier: Apache-2.0
"""Prints results as a table: a row per metric, a column per moment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Beginnings of names, and how they are read.
_READ = {
  "step reward": "step reward by similarity",
  "turns accuracy": "solved in turns",
  "solve accuracy": "solved in one go",
}
Results = Mapping[str, Mapping[str, Sequence[float]]]


def results_table(results: Results) -> str:
  """Returns results as a table: a row per metric, a column per moment.

  Args:
    results: {moment: {metric: [value, low, high]}}, where low and high bound
      the 95% interval.

  Returns:
    A table of cells such as "0.512 [0.480, 0.544]".
  """
  moments = [moment for moment, found in results.items() if found]
  metrics: dict[str, None] = {}
  for of_moment in results.values():
    metrics.update(dict.fromkeys(of_moment))
  rows = [["held-out test set", *moments]]
  for metric in metrics:
    cells = [_cell(results[moment].get(metric)) for moment in moments]
    rows.append([label(metric), *cells])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
    for row in rows
  ]
  lines.insert(1, "-" * len(lines[0]))
  return "\n".join(line.rstrip() for line in lines)


def label(metric: str) -> str:
  """Returns the name of a metric of results.json as it is read.

  Example: "step similarity_step_2, greedy" is "step similarity, greedy, at
  depth 2". The reward of single steps is by similarity in all runs, whatever
  they train on.
  """
  depth = re.fullmatch(r"(.*)_step_(\d+)(.*)", metric)
  if depth:
    metric = f"{depth[1]}{depth[3]}, at depth {depth[2]}"
  for name, read in _READ.items():
    if metric.startswith(name):
      metric = metric.replace(name, read)
  return metric.replace("_", " ")


def _cell(estimate: Sequence[float] | None) -> str:
  if estimate is None:
    return "-"
  value, low, high = estimate
  return f"{value:.3f} [{low:.3f}, {high:.3f}]"
