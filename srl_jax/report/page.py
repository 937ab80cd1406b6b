# SPDX-License-Identifier: Apache-2.0
"""Makes the page of a report: one file that needs no network.

The template, the style and the scripts are in assets/. Jinja escapes all text
but these, and JSON in a script element has no "<".
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import Any

import jinja2

from srl_jax.report import charts, series
from srl_jax.report.evaluations import Comparison, SuiteRow
from srl_jax.report.runs import RunFiles, paired_differences
from srl_jax.report.viewer import MOST_CHARS, read_rollouts

_ASSETS = importlib.resources.files("srl_jax.report") / "assets"
_SCRIPTS = ("texts.js", "trunk.js", "viewer.js", "charts.js")


def make_page(
  runs: Sequence[RunFiles],
  most_samples: int = 4000,
  evaluations: Sequence[SuiteRow] = (),
  comparisons: Sequence[Comparison] = (),
) -> str:
  """Returns a report on runs as HTML.

  Args:
    runs: what `read_runs` returned.
    most_samples: about how many samples of rollouts the page holds.
    evaluations: what `read_evaluations` returned.
    comparisons: what `compare_evaluations` returned.

  Raises:
    ValueError: a library is missing, or a file of rollouts is damaged.
  """
  viewer, counts, total = read_rollouts(runs, most_samples)
  kept = series.groups_kept(runs)
  data = {
    "curves": series.curves(runs),
    "charts": charts.specifications(runs, counts, kept),
    "rollouts": viewer.payload(),
    "runs": [run.label for run in runs],
  }
  environment = jinja2.Environment(autoescape=True, trim_blocks=True)
  template = environment.from_string(_asset("page.html"))
  return template.render(
    title=", ".join(dict.fromkeys(run.group for run in runs)),
    runs=[_summary(run) for run in runs],
    style=_asset("page.css"),
    library=_script(charts.library()),
    scripts=[_script(_asset(name)) for name in _SCRIPTS],
    data=data,
    evaluations=evaluations,
    comparisons=comparisons,
    samples=viewer.samples,
    total=total,
    most_chars=MOST_CHARS,
    has_failures=any(x["share"] for x in counts.failures),
    has_kept=bool(kept),
  )


def _asset(name: str) -> str:
  return (_ASSETS / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
  """A script that cannot end its own element."""
  return text.replace("</script", "<\\/script")


def _summary(run: RunFiles) -> dict[str, Any]:
  metrics: dict[str, None] = {}
  for of_moment in run.results.values():
    metrics.update(dict.fromkeys(of_moment))
  return {
    "label": run.label,
    "group": run.group,
    "workdir": str(run.workdir),
    "seed": run.config.get("seed", 0),
    "stages": " → ".join(run.config.get("stages", ())),
    "state": "finished" if run.is_finished else "not finished",
    "steps_done": run.steps_done,
    "update_steps": run.update_steps,
    "has_rollouts": bool(run.rollout_files),
    "moments": list(run.results),
    "rows": [
      (
        metric,
        [_cell(of_moment.get(metric)) for of_moment in run.results.values()],
      )
      for metric in metrics
    ],
    "differences": [
      (
        x,
        f"{x.estimate.value:+.3f}",
        f"{x.estimate.low:+.3f}",
        f"{x.estimate.high:+.3f}",
      )
      for x in paired_differences(run)
    ],
  }


def _cell(estimate: Sequence[float] | None) -> tuple[str, str]:
  """A value and its interval, as text."""
  if estimate is None:
    return "–", ""
  value, low, high = estimate
  return f"{value:.3f}", f"[{low:.3f}, {high:.3f}]"
