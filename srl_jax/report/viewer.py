# SPDX-License-Identifier: Apache-2.0
"""What the viewer of rollouts shows, as plain values for assets/viewer.js.

A page holds a limited number of samples and a limited part of long texts. It
says so where it leaves something out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from srl_jax.report.runs import RunFiles
from srl_jax.report.series import RolloutCounts
from srl_jax.rewards import format, matching_blocks

T = TypeVar("T")
# Of a thought or a step, and of a problem; the rest is counted and left out.
MOST_CHARS = 4000


class Viewer:
  """Gathers the samples of runs, file by file.

  The page gets `payload`: tables of texts, trajectories, groups and samples
  that refer to one another by index, so that no text is repeated.
  """

  def __init__(self) -> None:
    self._texts: dict[str, int] = {}
    self._trajectories: dict[tuple[Any, ...], int] = {}
    self._groups: dict[tuple[Any, ...], int] = {}
    self._samples: list[list[Any]] = []

  def add(self, label: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds the rows of a file of rollouts."""
    for row in rows:
      trajectory = _index(
        self._trajectories,
        (
          row["trajectory"],
          self.text(row["problem"]),
          tuple(
            (self.text(x["title"]), self.text(x["text"])) for x in row["steps"]
          ),
        ),
      )
      group = _index(
        self._groups,
        (
          label,
          row["stage"],
          row["split"],
          row["update_step"],
          trajectory,
          row["step"],
          self.text(row["target"].strip(format.WHITESPACE)),
          row["is_kept"],
        ),
      )
      self._samples.append(self._sample(group, row))

  def _sample(self, group: int, row: Mapping[str, Any]) -> list[Any]:
    thought, action = parts_of(row)
    target = row["target"].strip(format.WHITESPACE)
    # Of a broken format nothing was compared.
    blocks = () if row["failure"] else matching(action, target)
    return [
      group,
      row["sample"],
      self.text(thought),
      self.text(action),
      row["failure"],
      row["reward"],
      row["value"],
      row["tokens"],
      row["is_stopped"],
      blocks,
    ]

  def text(self, text: str) -> int:
    """Puts a text into the page's table and returns its index."""
    return _index(self._texts, text)

  @property
  def samples(self) -> int:
    return len(self._samples)

  def payload(self) -> dict[str, Any]:
    """Returns the tables, ready for JSON."""
    return {
      "texts": [_cut(text) for text in self._texts],
      "trajectories": list(self._trajectories),
      "groups": list(self._groups),
      "samples": self._samples,
    }


def parts_of(row: Mapping[str, Any]) -> tuple[str, str]:
  """The thought and the step of a sample; all is step if its format broke."""
  if row["failure"]:
    return "", row["text"]
  return format.split_lenient(row["text"])[:2]


@functools.lru_cache(maxsize=4096)
def matching(action: str, target: str) -> tuple[int, ...]:
  """Matching blocks of what is shown: start in each, length, and so on."""
  blocks = matching_blocks(action[:MOST_CHARS], target[:MOST_CHARS])
  return tuple(number for block in blocks for number in block)


def _index(table: dict[Any, int], key: Any) -> int:
  return table.setdefault(key, len(table))


def _cut(text: str) -> str | list[Any]:
  """A text, or its beginning and the number of characters left out."""
  if len(text) <= MOST_CHARS:
    return text
  return [text[:MOST_CHARS], len(text) - MOST_CHARS]


def read_rollouts(
  runs: Sequence[RunFiles], most: int
) -> tuple[Viewer, RolloutCounts, int]:
  """Reads all rollouts of runs, of which the viewer gets a part.

  Args:
    runs: the runs.
    most: number of samples in the viewer, about. Every file gives the same
      number, in whole trajectories; if that is less than one, files at equal
      distances give one.

  Returns:
    The viewer, the numbers for the charts, and how many samples there are.
  """
  viewer, counts, total = Viewer(), RolloutCounts(), 0
  files = [(run, file) for run in runs for file in run.rollout_files]
  share, room = most / max(1, len(files)), 0.0
  for run in runs:
    dots = []
    for file in run.rollout_files:
      rows = run.rollouts(file)
      total += len(rows)
      counts.add(run.label, rows)
      # What a file leaves is for the next ones.
      room += share
      some = some_of_each(
        rows, room, lambda row: row["trajectory"], least=not viewer.samples
      )
      room -= len(some)
      viewer.add(run.label, some)
      dots += [
        (row["split"], row["update_step"], len(thought), row["reward"])
        for row in rows
        if not row["failure"]
        for thought in [parts_of(row)[0]]
      ]
    counts.add_dots(run.label, dots)
  return viewer, counts, total


def some_of_each(
  items: Sequence[T],
  most: float,
  name_of: Callable[[T], str],
  *,
  least: int = 1,
) -> list[T]:
  """All items of a name, name by name, until there are `most`.

  Args:
    items: from the first name to the last one.
    most: the most items, if the first `least` names have no more.
    name_of: the name of an item.
    least: number of names that are there in any case.
  """
  by_name: dict[str, list[T]] = {}
  for item in items:
    by_name.setdefault(name_of(item), []).append(item)
  chosen: list[T] = []
  for number, of_name in enumerate(by_name.values()):
    if number >= least and len(chosen) + len(of_name) > most:
      break
    chosen += of_name
  return chosen
