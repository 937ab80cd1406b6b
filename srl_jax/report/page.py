# SPDX-License-Identifier: Apache-2.0
"""Makes the page of a report: one file that needs no network.

The template, the style and the scripts are in assets/. Jinja escapes all text
but these, and JSON in a script element has no "<".
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from srl_jax import storage
from srl_jax.evaluate import seeds
from srl_jax.report import charts, series
from srl_jax.report.differences import group_differences, paired_differences
from srl_jax.report.episodes import read_episodes
from srl_jax.report.evaluations import Comparison, SuiteRow
from srl_jax.report.results_table import label
from srl_jax.report.runs import RunFiles
from srl_jax.report.viewer import MOST_CHARS, read_rollouts

_ASSETS = importlib.resources.files("srl_jax.report") / "assets"
_SCRIPTS = ("texts.js", "trunk.js", "viewer.js", "episodes.js")
_CHARTS = "charts.js"


def make_page(
  runs: Sequence[RunFiles],
  most_samples: int = 4000,
  evaluations: Sequence[SuiteRow] = (),
  comparisons: Sequence[Comparison] = (),
  trajectories: Sequence[str] = (),
  most_episodes: int = 300,
) -> str:
  """Returns a report on runs as HTML.

  Args:
    runs: what `read_runs` returned.
    most_samples: about how many samples of rollouts the page holds.
    evaluations: what `read_evaluations` returned.
    comparisons: what `compare_evaluations` returned.
    trajectories: files or folders of agents' trajectories to show.
    most_episodes: about how many episodes the page holds.

  Raises:
    ValueError: a library is missing, a file of rollouts is damaged, or no
      trajectory of a path can be read.
  """
  viewer, counts, total = read_rollouts(runs, most_samples)
  episodes = read_episodes(runs, trajectories, most_episodes, viewer.text)
  kept = series.groups_kept(runs)
  data = {
    "curves": series.curves(runs),
    "charts": charts.specifications(runs, counts, kept) if runs else {},
    "rollouts": viewer.payload(),
    "episodes": episodes.payload,
    "runs": [run.label for run in runs],
  }
  names = [run.group for run in runs] or [
    *(storage.path(path).name for path in trajectories),
    *(row.folder for row in evaluations),
  ]
  environment = jinja2.Environment(autoescape=True, trim_blocks=True)
  template = environment.from_string(_asset("page.html"))
  return template.render(
    title=", ".join(dict.fromkeys(names)),
    runs=[_summary(run) for run in runs],
    groups=[(x, *_signed(x.estimate)) for x in group_differences(runs)],
    style=_asset("page.css"),
    scripts=[_script(text) for text in _scripts(has_charts=bool(runs))],
    data=_finite(data),
    evaluations=evaluations,
    comparisons=comparisons,
    samples=viewer.samples,
    total=total,
    most_chars=MOST_CHARS,
    episodes=episodes,
    has_failures=any(x["share"] for x in counts.failures),
    has_kept=bool(kept),
  )


def _finite(value: Any) -> Any:
  """A value in which null stands for NaN and infinity, which JSON lacks."""
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, Mapping):
    return {name: _finite(x) for name, x in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(x) for x in value]
  return value


def _scripts(*, has_charts: bool) -> list[str]:
  texts = [_asset(name) for name in _SCRIPTS]
  return [*texts, charts.library(), _asset(_CHARTS)] if has_charts else texts


def _asset(name: str) -> str:
  return (_ASSETS / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
  """A script that cannot end its own element."""
  return text.replace("</script", "<\\/script")


def _summary(run: RunFiles) -> dict[str, Any]:
  results = {name: found for name, found in run.results.items() if found}
  metrics: dict[str, None] = {}
  for of_moment in results.values():
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
    "moments": list(results),
    "rows": [
      (
        label(metric),
        [_cell(of_moment.get(metric)) for of_moment in results.values()],
      )
      for metric in metrics
    ],
    "differences": [(x, *_signed(x.estimate)) for x in paired_differences(run)],
  }


def _signed(x: seeds.Difference | None) -> tuple[str, str]:
  """A difference and its interval, as text; nothing of nothing."""
  if x is None:
    return "", ""
  return f"{x.value:+.3f}", f"[{x.low:+.3f}, {x.high:+.3f}]"


def _cell(estimate: Sequence[float] | None) -> tuple[str, str]:
  """A value and its interval, as text."""
  if estimate is None or not math.isfinite(estimate[0]):
    return "–", ""
  value, low, high = estimate
  return f"{value:.3f}", f"[{low:.3f}, {high:.3f}]"
