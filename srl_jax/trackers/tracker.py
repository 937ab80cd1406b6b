# SPDX-License-Identifier: Apache-2.0
"""What a tracker is, and what is done to values before one gets them.

The trackers are in tensorboard.py, wandb_run.py and trackio_run.py, and
trackers.py hands the rows of a run to all of them. Names and update steps are
those of metrics.csv everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

# Columns of rollout/record.py that are shown of a sample.
SHOWN = (
  "trajectory",
  "step",
  "reward",
  "failure",
  "tokens",
  "text",
  "target",
  "problem",
)
_BINS = 40


class Shown(Protocol):
  """What is shown of a run."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Shows the numbers of a row; all are finite."""

  def histogram(self, step: int, name: str, values: np.ndarray) -> None:
    """Shows how values are spread; there are some, and all are finite."""

  def texts(
    self, step: int, name: str, rows: Sequence[Mapping[str, Any]]
  ) -> None:
    """Shows samples; rows have the columns `SHOWN`."""

  def close(self, failed: bool = False) -> None:
    """Waits until all is written.

    Args:
      failed: whether the run ends before its end, by an error or a signal.
    """


class Connection(Shown, Protocol):
  """A tracker that cannot take a row back; what a `Session` needs."""

  def open(self, run_id: str, is_resumed: bool) -> None:
    """Opens a run, before anything else.

    Args:
      run_id: identifies the run.
      is_resumed: whether it was opened before.
    """


class Tracker(Shown, Protocol):
  """A place where the rows of a run are shown.

  Any method may raise: `Trackers` then goes on without this one.
  """

  def begin(self, first_step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """A stage begins, or goes on.

    Args:
      first_step: rows of this update step and later ones will come. Rows that
        an attempt before wrote of these steps come again.
      rows: all rows before, in order; null where a value is not finite.
    """


def binned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (counts [40], edges [41]) of a histogram of equal bins."""
  return np.histogram(values, bins=_BINS)


def spread(
  rows: Sequence[Mapping[str, Any]], count: int
) -> list[dict[str, Any]]:
  """Chooses samples from the worst reward to the best, at equal distances.

  Args:
    rows: with the columns of rollout/record.py.
    count: how many to choose, at most.

  Returns:
    The chosen rows with the columns `SHOWN`, the worst one first. A reward of
    nan, of a sample that was not scored, counts as the worst.
  """
  order = sorted(rows, key=lambda row: np.nan_to_num(row["reward"], nan=-1e9))
  count = min(count, len(order))
  chosen = np.linspace(0, len(order) - 1, count).round().astype(int)
  return [{name: order[i][name] for name in SHOWN} for i in chosen]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns samples as Markdown that shows their texts letter by letter."""
  return "\n\n---\n\n".join(map(_sample, rows))


def _sample(row: Mapping[str, Any]) -> str:
  failure = f", {row['failure']}" if row["failure"] else ""
  head = (
    f"**reward {row['reward']:.3f}**{failure}, {row['tokens']} tokens, step "
    f"{row['step'] + 1} of {_inline(row['trajectory'])}"
  )
  parts = [
    f"{title}\n\n{_fenced(row[name])}"
    for title, name in (
      ("The model:", "text"),
      ("The expert:", "target"),
      ("The problem:", "problem"),
    )
  ]
  return "\n\n".join([head, *parts])


def _fenced(text: str) -> str:
  # A fence is closed by one as long, so it is longer than any in the text.
  runs = [len(run) for run in re.findall("`+", text)]
  fence = "`" * max(3, *(n + 1 for n in runs), 3)
  return f"{fence}\n{text}\n{fence}"


def _inline(text: str) -> str:
  return re.sub(r"([^\w\s-])", r"\\\1", " ".join(text.split()))
