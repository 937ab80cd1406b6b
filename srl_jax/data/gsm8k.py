# SPDX-License-Identifier: Apache-2.0
"""Parses GSM8K: solutions of one step per line, ended by "#### answer"."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from srl_jax.data.schema import get
from srl_jax.trajectory import RecordError, Step, Trajectory

_MARK = re.compile(r"<<([^<>]*)>>")


def parse(
  record: Any, default_id: str, *, thoughts: bool = False
) -> Trajectory:
  """Builds a trajectory from a GSM8K record {"question": .., "answer": ..}.

  Each line of the solution is a step. The line "#### 72" needs no thought, so
  it ends the last step instead of being one. A model trained step by step then
  says when it is done.

  Raises:
    RecordError: the record does not have that form.
  """
  if not isinstance(record, dict):
    raise RecordError("(record)", "is no object with question and answer")
  text = get(record, "answer", str, required=True)
  solution, mark, answer = text.rpartition("####")
  answer = answer.strip()
  if not mark or not answer:
    raise RecordError("answer", "does not end in '#### <answer>'; add it")
  lines = [line.strip() for line in solution.split("\n") if line.strip()]
  if not lines:
    raise RecordError("answer", "has no step before '####'; write one per line")
  steps = []
  for line in lines:
    thought = "; ".join(_MARK.findall(line)) or "nothing to compute"
    steps.append(
      Step(_MARK.sub("", line), thought=thought if thoughts else None)
    )
  steps[-1] = dataclasses.replace(
    steps[-1], text=f"{steps[-1].text}\n#### {answer}"
  )
  return Trajectory(
    id=get(record, "id", str) or default_id,
    domain="math",
    problem=get(record, "question", str, required=True),
    steps=tuple(steps),
    answer=answer,
  )
