# SPDX-License-Identifier: Apache-2.0
"""The charts of a report, as Vega-Lite specifications made by Altair.

They follow the page's signals `run` and `split`. Colours, fonts and widths are
set in the browser (assets/charts.js), which knows dark from light.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from srl_jax.optional import needed_for
from srl_jax.report.runs import RunFiles
from srl_jax.report.series import NO_CAUSE, RolloutCounts

_HEIGHT = 170
# The part of a scheme that can be seen on dark and on light.
_SCHEME = [0.3, 0.9]


def library() -> str:
  """Returns the JavaScript of Vega, Vega-Lite and Vega-Embed in one text.

  Raises:
    ValueError: the library that holds it is missing.
  """
  with needed_for("Reports", "altair vl-convert-python"):
    import vl_convert
  return vl_convert.javascript_bundle()


def specifications(
  runs: Sequence[RunFiles],
  counts: RolloutCounts,
  kept: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
  """Returns the specifications of all charts, by the names that assets use.

  Raises:
    ValueError: Altair is missing.
  """
  with needed_for("Reports", "altair vl-convert-python"):
    import altair as alt

  charts = {
    "curve": _curve(alt, sorted({run.group for run in runs})),
    "results": _results(alt, runs),
    "kept": _kept(alt, kept),
    "histogram": _histogram(alt, counts.histogram),
    "depths": _depths(alt, counts.depths),
    "failures": _failures(alt, counts.failures),
    "thoughts": _thoughts(alt, counts.dots),
  }
  return {name: chart.to_dict() for name, chart in charts.items()}


def _data(alt: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
  return alt.Data(values=list(rows))


def _signals(alt: Any, chart: Any, *names: str) -> Any:
  """Shows the rows of the chosen run (and split) only."""
  for name in names:
    chart = chart.add_params(alt.param(name=name, value=""))
    chart = chart.transform_filter(f"datum.{name} == {name}")
  return chart.properties(width="container", height=_HEIGHT)


def _step(alt: Any) -> Any:
  return alt.X("update_step:Q", title="update step").axis(
    tickMinStep=1, format="d"
  )


def _curve(alt: Any, groups: Sequence[str]) -> Any:
  """A metric of all runs; the browser fills in the points of one metric."""
  base = alt.Chart(alt.NamedData("points")).encode(
    x=alt.X("x:Q", title=None).axis(format="~s", tickCount=6).scale(nice=False),
    color=alt.Color("group:N", legend=None).scale(domain=groups),
    detail=["name:N", "stage:N"],
  )
  tooltip = [
    alt.Tooltip("name:N"),
    alt.Tooltip("stage:N"),
    alt.Tooltip("update_step:Q"),
    alt.Tooltip("y:Q", format=".4~g"),
  ]
  y = alt.Y("y:Q", title=None).scale(zero=False).axis(tickCount=4)
  band = base.mark_area(opacity=0.2).encode(
    y=alt.Y("low:Q", title=None), y2="high:Q"
  )
  lines = base.mark_line(interpolate="linear").encode(
    y=y,
    strokeWidth=alt.condition("datum.is_thin", alt.value(0.8), alt.value(2)),
    opacity=alt.condition("datum.is_thin", alt.value(0.55), alt.value(1)),
  )
  dots = base.mark_point(filled=True, size=22).encode(
    y=y,
    tooltip=tooltip,
    opacity=alt.condition("datum.is_lone", alt.value(1), alt.value(0)),
  )
  return (
    alt.layer(
      band.transform_filter("isValid(datum.low)"),
      lines,
      dots,
    )
    .properties(width="container", height=130)
    .properties(datasets={"points": []})
  )


def _results(alt: Any, runs: Sequence[RunFiles]) -> Any:
  """What was found before and after, with 95% intervals."""
  rows = [
    {
      "run": run.label,
      "moment": moment,
      "metric": metric,
      "value": estimate[0],
      "low": estimate[1],
      "high": estimate[2],
    }
    for run in runs
    for moment, of_moment in run.results.items()
    for metric, estimate in of_moment.items()
    if "_step_" not in metric and math.isfinite(estimate[0])
  ]
  base = alt.Chart(_data(alt, rows)).encode(
    y=alt.Y("metric:N", title=None, sort=None).axis(labelLimit=220),
    yOffset=alt.YOffset("moment:N", sort=None),
    color=alt.Color("moment:N", sort=None).legend(orient="top", title=None),
  )
  tooltip = ["metric:N", "moment:N"] + [
    alt.Tooltip(f"{x}:Q", format=".3f") for x in ("value", "low", "high")
  ]
  layers = alt.layer(
    base.mark_rule(strokeWidth=2).encode(
      x=alt.X("low:Q", title="value, with its 95% interval"), x2="high:Q"
    ),
    base.mark_point(filled=True, size=55, opacity=1).encode(
      x="value:Q", tooltip=tooltip
    ),
  )
  chart = _signals(alt, layers, "run")
  names = {(row["metric"], row["moment"]) for row in rows}
  return chart.properties(height=max(40, 11 * len(names)))


def _kept(alt: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
  chart = (
    alt.Chart(_data(alt, rows))
    .mark_area(interpolate="step", line=False)
    .encode(
      x=_step(alt),
      y=alt.Y("count:Q", title="groups").stack("zero"),
      color=alt.Color("groups:N")
      .scale(domain=["kept", "dropped"])
      .legend(orient="top", title=None),
      order=alt.Order("groups:N", sort="descending"),
      tooltip=["update_step:Q", "groups:N", "count:Q"],
    )
  )
  return _signals(alt, chart, "run")


def _histogram(alt: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
  chart = (
    alt.Chart(_data(alt, rows))
    .mark_rect()
    .transform_calculate(high="datum.low + 0.1")
    .encode(
      x=alt.X("update_step:O", title="update step").axis(labelOverlap=True),
      y=alt.Y("low:Q", title="reward").axis(tickCount=5),
      y2="high:Q",
      color=alt.Color("share:Q", title="share of samples")
      .scale(scheme="tealblues", domainMin=0)
      .legend(orient="top", format="%", tickCount=3),
      tooltip=[
        "update_step:O",
        alt.Tooltip("low:Q", title="reward from", format=".1f"),
        alt.Tooltip("high:Q", title="to", format=".1f"),
        alt.Tooltip("share:Q", format=".1%"),
      ],
    )
  )
  return _signals(alt, chart, "run", "split")


def _depths(alt: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
  chart = (
    alt.Chart(_data(alt, rows))
    .mark_line(point=True)
    .encode(
      x=_step(alt),
      y=alt.Y("reward:Q", title="mean reward").scale(zero=False),
      color=alt.Color("step:O", title="expert's step")
      .scale(scheme=alt.SchemeParams(name="viridis", extent=_SCHEME))
      .legend(orient="top", symbolLimit=12),
      tooltip=[
        "update_step:Q",
        "step:O",
        alt.Tooltip("reward:Q", format=".3f"),
        alt.Tooltip("count:Q", title="samples"),
      ],
    )
  )
  return _signals(alt, chart, "run", "split")


def _failures(alt: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
  causes = sorted({row["cause"] for row in rows if row["cause"] != NO_CAUSE})
  chart = (
    alt.Chart(_data(alt, rows))
    .mark_bar()
    .encode(
      x=alt.X("update_step:O", title="update step").axis(labelOverlap=True),
      y=alt.Y("share:Q", title="share of samples").axis(format="%"),
      color=alt.Color("cause:N")
      .scale(domain=causes)
      .legend(orient="top", title=None, columns=3),
      tooltip=[
        "update_step:O",
        "cause:N",
        alt.Tooltip("share:Q", format=".1%"),
      ],
    )
  )
  return _signals(alt, chart, "run", "split")


def _thoughts(alt: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
  chart = (
    alt.Chart(_data(alt, rows))
    .mark_circle(size=22, opacity=0.5)
    .encode(
      x=alt.X("chars:Q", title="characters of the thought"),
      y=alt.Y("reward:Q").axis(tickCount=5),
      color=alt.Color("update_step:Q", title="update step")
      .scale(scheme=alt.SchemeParams(name="viridis", extent=_SCHEME))
      .legend(orient="top", tickCount=3),
      tooltip=[
        "update_step:Q",
        "chars:Q",
        alt.Tooltip("reward:Q", format=".3f"),
      ],
    )
  )
  return _signals(alt, chart, "run", "split")
