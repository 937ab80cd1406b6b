# SPDX-License-Identifier: Apache-2.0
"""Summarises folders of evaluations for a report, and compares them.

Folders may be under way: what is answered so far is counted. Short answers come
first, so accuracies and lengths are told of finished suites only.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from srl_jax import storage
from srl_jax.evaluate.compare import Result
from srl_jax.evaluate.estimates import Estimate, share
from srl_jax.evaluate.journal import read_results
from srl_jax.evaluate.records import Answer
from srl_jax.report.suite_tables import difference_cells, differences


@dataclasses.dataclass(frozen=True)
class SuiteRow:
  """What a folder has of one suite in one decoding.

  Attributes:
    folder: of the evaluation.
    suite: name of the suite.
    decoding: "greedy" or "sampled".
    problems: number of problems with an answer.
    answers: number of answers.
    of_problems: number of problems of the suite.
    of_answers: number of answers when the evaluation is finished.
    accuracy: share of right answers, with its interval over problems; None
      while answers are missing, as the following are.
    stopped: share of answers that the model ended itself.
    tokens: mean length of an answer.
  """

  folder: str
  suite: str
  decoding: str
  problems: int
  answers: int
  of_problems: int
  of_answers: int
  accuracy: Estimate | None = None
  stopped: float | None = None
  tokens: float | None = None

  @property
  def is_finished(self) -> bool:
    return self.answers >= self.of_answers


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One evaluation beside another, paired by problem.

  Attributes:
    base: folder of the evaluation that is compared with.
    folder: folder of the other.
    cells: what `suite_tables.difference_cells` returned.
    reason: why they are not compared; "" if they are.
  """

  base: str
  folder: str
  cells: Sequence[tuple[str, ...]] = ()
  reason: str = ""


def read_evaluations(
  folders: Sequence[str | os.PathLike],
) -> list[SuiteRow]:
  """Reads evaluations, finished or under way.

  Args:
    folders: what the command's --out was.

  Raises:
    ValueError: there is no evaluation in a folder, or a line is damaged.
  """
  return [row for folder in folders for row in _rows(storage.path(folder))]


def compare_evaluations(
  folders: Sequence[str | os.PathLike],
) -> list[Comparison]:
  """Compares the first evaluation with each of the others."""
  found = []
  for folder in folders[1:]:
    names = str(folders[0]), str(folder)
    try:
      base, other = (read_results(storage.path(x)) for x in names)
      cells = difference_cells(differences(base, other))
      reason = "" if cells else "no suite is in both"
      found.append(Comparison(*names, cells, reason))
    except ValueError as error:
      found.append(Comparison(*names, reason=str(error)))
  return found


def _rows(folder: pathlib.Path) -> Iterator[SuiteRow]:
  for result in sorted(read_results(folder), key=lambda x: x.suite):
    for decoding in sorted(
      result.protocol["decodings"], key=lambda x: x["name"]
    ):
      yield _row(str(folder), result, decoding["name"], decoding["samples"])


def _row(folder: str, result: Result, decoding: str, samples: int) -> SuiteRow:
  answers = [x for x in result.answers if x.decoding == decoding]
  by_problem: dict[str, list[Answer]] = {}
  for answer in answers:
    by_problem.setdefault(answer.problem, []).append(answer)
  row = SuiteRow(
    folder=folder,
    suite=result.suite,
    decoding=decoding,
    problems=len(by_problem),
    answers=len(answers),
    of_problems=len(result.problems),
    of_answers=len(result.problems) * samples,
  )
  if not row.is_finished:
    return row
  return dataclasses.replace(
    row,
    accuracy=share(
      [sum(x.is_correct for x in xs) for xs in by_problem.values()],
      [len(xs) for xs in by_problem.values()],
    ),
    stopped=float(np.mean([x.is_stopped for x in answers])),
    tokens=float(np.mean([x.tokens for x in answers])),
  )
