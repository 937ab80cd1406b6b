# SPDX-License-Identifier: Apache-2.0
"""Draws metrics over the update steps with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from srl_jax.optional import needed_for

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def plot_metrics(
  rows: Sequence[Mapping[str, float | None]], names: Sequence[str]
) -> Figure:
  """Draws metrics over the update steps, one panel each.

  Needs matplotlib, which the extra "colab" installs.

  Args:
    rows: rows of a run's metrics.jsonl (see `metrics.read_rows`).
    names: names of metrics, such as "srl/reward". A panel leaves out rows
      without its metric.

  Raises:
    ValueError: no row has a metric of that name; the message lists the names
      that exist.
  """
  with needed_for("Plots of metrics", "matplotlib"):
    from matplotlib.figure import Figure

  figure = Figure(figsize=(4.5 * len(names), 3), layout="constrained")
  panels = figure.subplots(1, len(names), squeeze=False)[0]
  for panel, name in zip(panels, names, strict=True):
    points = [
      (r["update_step"], r[name]) for r in rows if r.get(name) is not None
    ]
    if not points:
      known = sorted({key for row in rows for key in row} - {"update_step"})
      raise ValueError(
        f"no row has the metric {name!r}; choose from {', '.join(known)}"
      )
    panel.plot(*zip(*points, strict=True), marker=".")
    panel.set(title=name, xlabel="update step")
    panel.grid(alpha=0.3)
  return figure
