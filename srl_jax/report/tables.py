# SPDX-License-Identifier: Apache-2.0
"""Tables of estimates as Markdown, CSV and JSON, to paste into a paper.

A row for each suite (or level, or model), a column for each metric.
results_table.py prints the moments of a run instead.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence

# A value and the ends of its interval, as in srl_jax.evaluate.estimates.
Cell = Sequence[float]


@dataclasses.dataclass(frozen=True)
class Table:
  """Estimates in rows and columns.

  Attributes:
    heads: headings of the columns that name a row, such as ("suite", "level").
    rows: {names of the row: {metric: (value, low, high)}}; one name for each
      heading. A metric may be absent from a row.
    units: {metric: unit}. Values whose unit is "%" are shares; Markdown shows
      them times 100, CSV and JSON as they are.
    metrics: columns, in order; all that occur if empty.
  """

  heads: tuple[str, ...]
  rows: Mapping[tuple[str, ...], Mapping[str, Cell]]
  units: Mapping[str, str] = dataclasses.field(default_factory=dict)
  metrics: tuple[str, ...] = ()

  def __post_init__(self):
    for names in self.rows:
      if isinstance(names, str) or len(names) != len(self.heads):
        raise ValueError(
          f"row {names!r} has not one name for each of the headings "
          f"{self.heads}; key rows by tuples of {len(self.heads)} names"
        )
    unknown = set(self.metrics) - set(self._found())
    if unknown:
      raise ValueError(
        f"no row has the metrics {sorted(unknown)}; there are {self._found()}"
      )

  def markdown(self) -> str:
    """Returns a table in Markdown, with cells like 51.5 [43.1, 59.8]."""
    metrics = self.columns()
    titles = map(self._title, metrics)
    lines = [
      _line([*self.heads, *titles]),
      _line([*["---"] * len(self.heads), *["---:"] * len(metrics)]),
    ]
    for names, row in self.rows.items():
      cells = [_cell(row.get(m), self.units.get(m) == "%") for m in metrics]
      lines.append(_line([*map(_escaped, names), *cells]))
    return "\n".join(lines) + "\n"

  def turned(self) -> str:
    """Returns Markdown with a row for each metric, for tables with many."""
    names = [_escaped(", ".join(row)) for row in self.rows]
    lines = [
      _line([", ".join(self.heads), *names]),
      _line(["---", *["---:"] * len(names)]),
    ]
    for m in self.columns():
      cells = [
        _cell(row.get(m), self.units.get(m) == "%")
        for row in self.rows.values()
      ]
      lines.append(_line([self._title(m), *cells]))
    return "\n".join(lines) + "\n"

  def _title(self, metric: str) -> str:
    unit = self.units.get(metric, "")
    return _escaped(metric if unit in metric else f"{metric} ({unit})")

  def csv(self) -> str:
    """Returns CSV: three columns for each metric, shares between 0 and 1."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    metrics = self.columns()
    columns = [f"{m}{end}" for m in metrics for end in ("", " low", " high")]
    writer.writerow([*self.heads, *columns])
    for names, row in self.rows.items():
      cells = [x for m in metrics for x in row.get(m, ("", "", ""))]
      writer.writerow([*names, *cells])
    return file.getvalue()

  def json(self) -> str:
    """Returns a JSON list with an object for each row; NaN becomes null."""
    records = [
      dict(zip(self.heads, names, strict=True))
      | {
        metric: dict(
          zip(("value", "low", "high"), map(_json, cell), strict=True)
        )
        for metric, cell in row.items()
        if metric in self.columns()
      }
      for names, row in self.rows.items()
    ]
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"

  def columns(self) -> list[str]:
    """Returns the metrics of the columns, in order."""
    return list(self.metrics) or self._found()

  def _found(self) -> list[str]:
    found: dict[str, None] = {}
    for row in self.rows.values():
      found.update(dict.fromkeys(row))
    return list(found)


def _line(cells: Sequence[str]) -> str:
  return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
  return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _json(value: float) -> float | None:
  return value if math.isfinite(value) else None


def _cell(cell: Cell | None, is_percent: bool) -> str:
  if cell is None or not math.isfinite(cell[0]):
    return "-"
  value, low, high = (100 * x if is_percent else x for x in cell)
  return f"{value:.1f} [{low:.1f}, {high:.1f}]"
