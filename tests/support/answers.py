# SPDX-License-Identifier: Apache-2.0
"""Problems and answers as evaluation has them, without a model."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Sequence

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.records import Answer


def numbered_problems(count: int, **fields) -> list[Problem]:
  """Returns problems "p0", "p1", ... whose answer is "1"."""
  return [
    Problem(f"p{i}", **{"text": f"What is {i}?", "answer": "1", **fields})
    for i in range(count)
  ]


def answer(problem: str, sample: int = 0, **fields) -> Answer:
  """Returns a sampled answer, right if its final answer is "1"."""
  final = fields.get("final", "1")
  return Answer(
    **{
      "suite": "sums",
      "problem": problem,
      "decoding": "sampled",
      "sample": sample,
      "text": f"It is {final}.",
      "tokens": 5,
      "is_stopped": True,
      "final": final,
      "is_correct": final == "1",
      **fields,
    }
  )


def with_finals(
  finals: Sequence[Sequence[str]], **fields
) -> tuple[list[Problem], list[Answer]]:
  """Returns problems, and an answer for each of their final answers."""
  answers = [
    answer(f"p{i}", sample, **{"final": final, **fields})
    for i, row in enumerate(finals)
    for sample, final in enumerate(row)
  ]
  return numbered_problems(len(finals)), answers


def by_last_letter(text: str, problem: Problem) -> tuple[str, bool]:
  """Judges by the last letter alone, as worker processes can import it."""
  return text[-1:], text[-1:] == problem.answer


def fatal(text: str, problem: Problem) -> tuple[str, bool]:
  """Judges by the last letter, but some texts end the process.

  "die" does so always; "once PATH" does so unless PATH is there, and makes it.
  "fail" is an exception.
  """
  word, _, path = text.partition(" ")
  if word == "fail":
    raise KeyError(text)
  if word == "die" or (word == "once" and not pathlib.Path(path).exists()):
    if word == "once":
      pathlib.Path(path).touch()
    os.kill(os.getpid(), signal.SIGKILL)
  return by_last_letter(text, problem)
