# SPDX-License-Identifier: Apache-2.0
"""Answers to the toy repository's issues, and cells of results, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def edit(search: str, replace: str, path: str = "parts/cutting.py") -> str:
  """Returns an edit as a block of an answer."""
  return (
    f"```python\n### {path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n"
    ">>>>>>> REPLACE\n```\n"
  )


HALF = '  """Returns half of a number."""\n  return count // '
FIX = edit(f"{HALF}3", f"{HALF}2")
WRONG = edit(f"{HALF}3", f"{HALF}4")
BROKEN = edit(f"{HALF}3", f"{HALF}(")


def by_name(**answers: str | list[str]) -> Callable[[str, int], str]:
  """Returns a function (prompt, sample) -> answer.

  Args:
    **answers: the answer to each instance, or one for each sample.
  """

  def answer(prompt: str, sample: int) -> str:
    [name] = [x for x in answers if f"This is {x}." in prompt]
    said = answers[name]
    return said[sample] if isinstance(said, list) else said

  return answer


def cell(
  results: dict[str, Any], row: str, metric: str, table: str = "answers"
) -> float | None:
  """Returns the value of a metric in results.json; None if it has none."""
  heads = {"without_patch": "without a patch", "failed_edits": "failed edits"}
  head = heads.get(table, table)
  [found] = [x for x in results[table] if x[head] == row]
  return found[metric]["value"] if metric in found else None
