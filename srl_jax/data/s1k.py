# SPDX-License-Identifier: Apache-2.0
r"""Parses s1K-1.1: DeepSeek-R1's solutions in numbered, bold-titled steps.

A step begins with a line such as "3. **Title**" and ends where step 4 begins:

  To find x, use the sine rule.        belongs to step 1, as in the paper
  1. **Set up**: Let ...               title "Set up", text "Let ..."
     1. **Nested** items are deeper    indented: part of step 1
  1. plain items have no bold title    part of step 1
  2. **Solve**
     ...
  The answer is \boxed{7}.             belongs to the last step

No step begins inside a code block or display math. Solutions in another form
are refused with the reason (paper section 4: they are excluded). Solutions
whose numbering leaves open where a step begins are refused too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from srl_jax.data.schema import get
from srl_jax.rewards.answers import last_boxed
from srl_jax.trajectory import RecordError, Step, Trajectory

_FIELD = "deepseek_attempt"
# The colon may be inside or outside of the bold title.
_HEAD = re.compile(r"( *)(\d+)\.[ \t]+\*\*(?!\s)(.+?)\*\*[ \t]*:?[ \t]*(.*)")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_MATH = re.compile(r"(?<!\\)(?:\$\$|\\[\[\]])")


def parse(record: Any, default_id: str) -> Trajectory:
  """Builds a trajectory from one s1K-1.1 record; ignores its other columns.

  The answer is the first of these that exists: the last \\boxed{} of
  `solution`; a `solution` of one short line; the last \\boxed{} of an attempt
  that was graded right; None.

  Raises:
    RecordError: the record cannot be used; the message names the field, what
      is wrong and what to do.
  """
  if not isinstance(record, dict):
    raise RecordError("(record)", "is no object; write one per line")
  attempt = get(record, _FIELD, str, required=True)
  solution = (get(record, "solution", str) or "").strip()
  grade = get(record, "deepseek_grade", str) or ""
  right = grade.strip().lower() == "yes"
  answer = _boxed(solution)
  if answer is None and 0 < len(solution) <= 40 and "\n" not in solution:
    answer = solution
  if answer is None and right:
    answer = _boxed(attempt)
  metadata = {"source_type": get(record, "source_type", str), "grade": grade}
  return Trajectory(
    id=get(record, "id", str) or default_id,
    domain=get(record, "cot_type", str) or "math",
    problem=get(record, "question", str, required=True),
    steps=split_steps(attempt),
    answer=answer,
    metadata={name: value for name, value in metadata.items() if value},
  )


def _boxed(text: str) -> str | None:
  inside = last_boxed(text)
  return None if inside is None else inside.strip()


def split_steps(text: str) -> tuple[Step, ...]:
  """Splits a solution into its steps (see the module docstring).

  Raises:
    RecordError: there are no steps, or it is not clear where they begin.
  """
  lines = text.replace("\r\n", "\n").split("\n")
  starts: list[int] = []
  heads: list[re.Match[str]] = []
  nested = 0  # Current number of a list that restarted inside this step.
  for index, head in _heads(lines):
    if heads and head[1] != heads[0][1]:
      continue  # Another indent than the first head: not in this list.
    number, expected = int(head[2]), len(heads) + 1
    if number == expected and not (nested and number == nested + 1):
      starts.append(index)
      heads.append(head)
      nested = 0
    elif heads and number != expected and number in (1, nested + 1):
      nested = number
    else:
      why = (
        "could also go on with the list that restarts inside the step before"
        if number == expected
        else f"stands where step {expected} was expected"
      )
      raise RecordError(
        _FIELD, f"has a step {number} at line {index + 1} that {why}; renumber"
      )
  if not heads:
    raise RecordError(
      _FIELD,
      "has no numbered, bold-titled steps; they must look like '1. **Title**'"
      " at the start of a line",
    )
  preamble = "\n".join(lines[: starts[0]]).strip()
  steps = []
  for head, start, end in zip(
    heads, starts, [*starts[1:], len(lines)], strict=True
  ):
    rest = textwrap.dedent("\n".join(lines[start + 1 : end]))
    parts = [] if steps else [preamble]
    parts.append(f"{head[4]}\n{rest}".strip())
    body = "\n\n".join(part for part in parts if part)
    steps.append(Step(body, title=head[3].strip().rstrip(":").rstrip()))
  return tuple(steps)


def _heads(lines: list[str]) -> Iterator[tuple[int, re.Match[str]]]:
  """Yields the lines that look like "1. **Title**", outside code and math."""
  fence = math = ""
  opened = 0
  for index, line in enumerate(lines):
    mark = _FENCE.match(line)
    if fence:
      closes = mark and mark[1].startswith(fence)
      if closes and not line[mark.end() :].strip():
        fence = ""
      continue
    if mark and not math:
      fence, opened = mark[1], index
      continue
    if not math and (head := _HEAD.fullmatch(line.rstrip())):
      yield index, head
    for delimiter in _MATH.findall(line):
      if not math and delimiter != r"\]":
        math, opened = {"$$": "$$", r"\[": r"\]"}[delimiter], index
      elif delimiter == math:
        math = ""
  if fence or math:
    raise RecordError(
      _FIELD,
      f"opens {'a code block' if fence else 'display math'} at line"
      f" {opened + 1} and never closes it; close it",
    )
