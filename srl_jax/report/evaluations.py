# SPDX-License-Identifier: Apache-2.0
"""Summarises folders of evaluations for a report: a row per suite and decoding.

Not for: comparisons, or metrics of several samples.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax.evaluate.estimates import Estimate, share
from srl_jax.metrics import read_rows

_ANSWERS = "answers.jsonl"


@dataclasses.dataclass(frozen=True)
class SuiteRow:
  """What a folder has of one suite in one decoding.

  Attributes:
    folder: of the evaluation.
    suite: name of the suite.
    decoding: "greedy" or "sampled".
    problems: number of problems with an answer.
    answers: number of answers.
    accuracy: share of right answers, with its interval over problems.
    stopped: share of answers that the model ended itself.
    tokens: mean length of an answer.
  """

  folder: str
  suite: str
  decoding: str
  problems: int
  answers: int
  accuracy: Estimate
  stopped: float
  tokens: float


def read_evaluations(
  folders: Sequence[str | os.PathLike],
) -> list[SuiteRow]:
  """Reads evaluations, finished or under way.

  Args:
    folders: each with the lines of `evaluate.records.Answer`s.

  Raises:
    ValueError: there are no answers in a folder, or a line is damaged.
  """
  return [row for folder in folders for row in _rows(pathlib.Path(folder))]


def _rows(folder: pathlib.Path) -> Iterator[SuiteRow]:
  path = folder / _ANSWERS
  if not path.is_file():
    raise ValueError(
      f"there is no evaluation in {folder} (no {_ANSWERS}); give the folder of "
      "an evaluation's answers"
    )
  parts: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
  for answer in read_rows(path):
    part = parts.setdefault((answer["suite"], answer["decoding"]), {})
    part.setdefault(answer["problem"], []).append(answer)
  for (suite, decoding), by_problem in sorted(parts.items()):
    answers = [x for of_problem in by_problem.values() for x in of_problem]
    yield SuiteRow(
      folder=str(folder),
      suite=suite,
      decoding=decoding,
      problems=len(by_problem),
      answers=len(answers),
      accuracy=share(
        [sum(x["is_correct"] for x in xs) for xs in by_problem.values()],
        [len(xs) for xs in by_problem.values()],
      ),
      stopped=float(np.mean([x["is_stopped"] for x in answers])),
      tokens=float(np.mean([x["tokens"] for x in answers])),
    )
