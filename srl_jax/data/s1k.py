# SPDX-License-Identifier: Apache-2.0
r"""Parses s1K-1.1: DeepSeek-R1's solutions in numbered, bold-titled steps.

A step begins with a line such as "3. **Title**" and ends where step 4 begins:

  To find x, use the sine rule.        belongs to step 1, as in the paper
  1. **Set up**: Let ...               title "Set up", text "Let ..."
     1. **Nested** items are deeper    indented: part of step 1
  1. plain items have no bold title    part of step 1
   2. **Solve**                        less indented than the text of step 1
     ...
  ## Part 2                            a heading above step 3 belongs to it
  3. **Check**
  The answer is \boxed{7}.             belongs to the last step

What is in a list, and how deep, is as in Markdown (markdown.py). No step begins
inside code, HTML, a quote or display math. Solutions in another form are
refused with the reason (paper section 4: they are excluded). Solutions whose
numbering leaves open where a step begins are refused too.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import textwrap
from typing import Any

from srl_jax.data import markdown
from srl_jax.data.schema import bare_thought, bare_title, get
from srl_jax.rewards.answers import last_boxed
from srl_jax.rewards.format import THINK_TAG
from srl_jax.trajectory import RecordError, Step, Trajectory

_FIELD = "deepseek_attempt"
_REASONING = "deepseek_thinking_trajectory"
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)
# The colon may be inside or outside of the bold title.
_HEAD = re.compile(
  r"([ \t]*)([0-9]{1,9})([.)])[ \t]+"
  # Three asterisks are bold and italic.
  r"(\*{2,3})(?!\s)(.+?)\4(?!\*)[ \t]*:?[ \t]*(.*)"
)
_HEADING_OR_BLANK = re.compile(r"#{1,6}[ \t].*|\s*")
# What is indented under the first line of a list item.
_INDENTED = re.compile(r"(?:[ \t].*\n?|\n)*+")


def parse(
  record: Any, default_id: str, *, reasoning: bool = False
) -> Trajectory:
  """Builds a trajectory from one s1K-1.1 record; ignores its other columns.

  With `reasoning`, what DeepSeek-R1 thought before it wrote the solution is the
  thought before the first step (the paper's "R1 reasoning").

  A think block in which the attempt begins is left out.

  The answer is the first of these that exists: `answer`, which s1K itself
  lacks; the last \\boxed{} of `solution`; a `solution` of one line and at most
  40 characters; the last \\boxed{} of an attempt that was graded right; None.
  The grade is in the metadata as "resolved": "true" or "false", or absent if
  there is none.

  Raises:
    RecordError: the record cannot be used; the message names the field, what
      is wrong and what to do.
  """
  if not isinstance(record, dict):
    raise RecordError("(record)", "is no object; write one per line")
  attempt = _without_thought(get(record, _FIELD, str, required=True))
  solution = (get(record, "solution", str) or "").strip()
  grade = (get(record, "deepseek_grade", str) or "").strip().lower()
  answer = (get(record, "answer", str) or "").strip() or _boxed(solution)
  if answer is None and 0 < len(solution) <= 40 and "\n" not in solution:
    answer = solution
  if answer is None and grade == "yes":
    answer = _boxed(attempt)
  steps = split_steps(attempt)
  if reasoning:
    thought = get(record, _REASONING, str, required=True).strip()
    thought = bare_thought(thought, _REASONING)
    steps = (dataclasses.replace(steps[0], thought=thought), *steps[1:])
  metadata = {
    "source_type": get(record, "source_type", str),
    "resolved": {"yes": "true", "no": "false"}.get(grade),
  }
  return Trajectory(
    id=get(record, "id", str) or default_id,
    domain=get(record, "cot_type", str) or "math",
    problem=get(record, "question", str, required=True),
    steps=steps,
    answer=answer,
    metadata={name: value for name, value in metadata.items() if value},
  )


def _without_thought(attempt: str) -> str:
  """What a teacher wrote after the think block in which its answer begins."""
  attempt = _THOUGHT.sub("", attempt, count=1)
  if tag := THINK_TAG.search(attempt):
    raise RecordError(
      _FIELD,
      f"has a {tag[0]} that is no part of a block at its start; leave thoughts"
      " out",
    )
  return attempt


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
  # Current numbers of lists that restarted inside this step, by their indents.
  nested: dict[int, int] = {}
  for index, head in _heads(lines):
    if heads and head[3] != heads[0][3]:
      continue  # "1)" is not in the list of "1.".
    number, expected, indent = int(head[2]), len(heads) + 1, _width(head[1])
    goes_on = number == nested.get(indent, 0) + 1
    if number == expected and not (goes_on and indent in nested):
      starts.append(index)
      heads.append(head)
      nested = {}
    elif heads and (
      (number != expected and (goes_on or number == 1))
      or (goes_on and indent != _width(heads[0][1]))
    ):
      nested[indent] = number
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
  begins = [0, *(_heading_above(lines, x) for x in starts[1:]), len(lines)]
  steps = []
  for head, start, (begin, end) in zip(
    heads, starts, itertools.pairwise(begins), strict=True
  ):
    before = "\n".join(lines[begin:start]).strip()
    after = _dedent("\n".join(lines[start + 1 : end]))
    parts = before, f"{head[6]}\n{after}".strip()
    body = "\n\n".join(filter(None, parts))
    title = bare_title(head[5].strip().rstrip(":"), int(head[2]), _FIELD)
    steps.append(Step(body, title=title))
  return tuple(steps)


def _heading_above(lines: list[str], start: int) -> int:
  """Returns where the headings directly above a line begin, if any do."""
  while _HEADING_OR_BLANK.fullmatch(lines[start - 1]):
    start -= 1
  return start


def _dedent(text: str) -> str:
  """Takes off the indent that the lines of a list item have.

  The first line without an indent ends the item: a conclusion, or code whose
  own indents must stay.
  """
  indented = _INDENTED.match(text)[0]
  return textwrap.dedent(indented) + text[len(indented) :]


def _heads(lines: list[str]) -> list[tuple[int, re.Match[str]]]:
  """Returns the lines like "1. **Title**" at the outermost level."""
  try:
    outer, indented = markdown.outer_lines(lines)
  except markdown.UnclosedError as error:
    raise RecordError(
      _FIELD,
      f"opens {error.what} at line {error.line + 1} and never closes it;"
      " close it",
    ) from None

  def among(numbers):
    found = ((n, _HEAD.fullmatch(lines[n].rstrip())) for n in numbers)
    return [(n, head) for n, head in found if head]

  # An indent may also be that of the whole list.
  return among(outer) or among(indented)


def _width(indent: str) -> int:
  return len(indent.expandtabs(4))
