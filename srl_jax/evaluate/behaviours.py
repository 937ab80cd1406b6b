# SPDX-License-Identifier: Apache-2.0
"""How answers reason: think blocks, plans, wrong steps, corrections, checks.

The paper (section 4.3) shows three patterns: planning first, adjusting mid-way,
and verifying before answering, in several think blocks. Here each has a
definition that a program decides, with no model as judge; `Behaviour` has them.
They are lower bounds: what is said in words only is not seen. The rate of
markers such as "wait" is a secondary measure, because words are cheap.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.equations import Equation, Scan, scan
from srl_jax.evaluate.estimates import Estimate, bootstrap, share
from srl_jax.evaluate.records import Answer
from srl_jax.evaluate.summary import Values, by_problem, estimates
from srl_jax.evaluate.thoughts import think_blocks
from srl_jax.rewards.quantity import parse_quantity
from srl_jax.rewards.tex import tidy

# Frozen, so that figures of different times can be compared.
MARKERS = (
  "wait",
  "hmm",
  "let me check",
  "let me verify",
  "let me double-check",
  "let me reconsider",
  "let me try",
  "let's check",
  "let's verify",
  "double-check",
  "alternatively",
  "on second thought",
  "actually",
  "instead",
  "mistake",
  "that's not right",
  "that is not right",
  "to verify",
  "to check",
  "going back",
)
_MARKER = re.compile(
  r"\b(?:" + "|".join(map(re.escape, MARKERS)) + r")\b", re.IGNORECASE
)
_OUTLINE = re.compile(
  r"\b(?:(?:i|we)(?:'ll| will| need to| should| can first)|(?:i am|i'm|we are"
  r"|we're) going to|my plan|the plan|(?:the )?(?:first|next) step is"
  r"|to solve this|to find (?:this|the))\b",
  re.IGNORECASE,
)
_LISTED = re.compile(r"(?m)^[ \t]{0,8}(?:\*\*)?(?:Step )?\d{1,2}[.):]")
_MIN_LISTED = 2


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """What one answer does.

  Attributes:
    words: its length; a word is what stands between white space.
    thought_words: words inside think blocks.
    places: for each think block, the share of the text before it, in
      characters.
    equations: number of equations that could be recomputed (equations.py).
    wrong: how many of them are wrong.
    corrected: how many of the wrong ones stand again later with the same left
      side and are right there.
    is_restated: whether a name gets another value in a later sentence than
      it had in all before: "x = 5 ..", then "x = 7". Values in one sentence
      ("x = 5 or x = 7") are alternatives, and so are supposed ones ("if x =
      5"); an unmarked loop over n counts.
    is_checked: whether the final answer is put to the test: it stands alone on
      one side of an equation (or as the value of a name), and a later equation
      that is right computes with it. For a small number that may be chance.
    is_planned: whether an outline stands before the first sign of equality: two
      lines of a numbered list, or a phrase such as "we need to" or "I will".
      Without any equality there is no plan, only text.
    markers: number of MARKERS in it.
  """

  words: int
  thought_words: int
  places: tuple[float, ...]
  equations: int
  wrong: int
  corrected: int
  is_restated: bool
  is_checked: bool
  is_planned: bool
  markers: int


def behaviour(text: str, final: str) -> Behaviour:
  """Returns what an answer does, in time linear in its length.

  Args:
    text: what the model wrote.
    final: its final answer; "" if it has none.
  """
  blocks = think_blocks(text)
  found = scan(text)
  return Behaviour(
    words=len(text.split()),
    thought_words=sum(
      len(text[b.inner_start : b.inner_end].split()) for b in blocks
    ),
    places=tuple(block.start / len(text) for block in blocks),
    equations=len(found.equations),
    wrong=sum(not e.is_right for e in found.equations),
    corrected=_corrected(found.equations),
    is_restated=_is_restated(found),
    is_checked=_is_checked(found, final),
    is_planned=_is_planned(text, found.first_equality),
    markers=len(_MARKER.findall(text)),
  )


def _corrected(equations: Sequence[Equation]) -> int:
  right_later: set[str] = set()
  corrected = 0
  for equation in reversed(equations):
    if equation.is_right:
      right_later.add(equation.left.text)
    else:
      corrected += equation.left.text in right_later
  return corrected


def _is_restated(found: Scan) -> bool:
  # {name: (sentence of the last statement, values there, values before)}
  known: dict[str, tuple[int, set, set]] = {}
  for statement in found.statements:
    sentence, here, before = known.get(statement.name, (-1, set(), set()))
    if statement.sentence != sentence:
      sentence, here, before = statement.sentence, set(), before | here
    if before and statement.value not in before:
      return True
    here.add(statement.value)
    known[statement.name] = (sentence, here, before)
  return False


def _is_checked(found: Scan, final: str) -> bool:
  answer = parse_quantity(tidy(final))
  if answer is None:
    return False
  value = answer.value
  places = [s.at for s in found.statements if s.value == value]
  places += [
    e.at
    for e in found.equations
    if any(x.is_bare and x.value == value for x in (e.left, e.right))
  ]
  first = min(places, default=None)
  return first is not None and any(
    e.at > first
    and e.is_right
    and any(not x.is_bare and value in x.numbers for x in (e.left, e.right))
    for e in found.equations
  )


def _is_planned(text: str, first_equality: int | None) -> bool:
  if first_equality is None:
    return False
  before = text[:first_equality]
  listed = len(_LISTED.findall(before))
  return listed >= _MIN_LISTED or _OUTLINE.search(before) is not None


def _rows(
  problems: Sequence[Problem], answers: Sequence[Answer]
) -> list[list[Behaviour]]:
  rows = by_problem(problems, answers, "sampled")
  rows = rows or by_problem(problems, answers, "greedy")
  return [[behaviour(a.text, a.final) for a in row] for row in rows]


def _values(rows: Sequence[Sequence[Behaviour]]) -> dict[str, Values]:
  samples = len(rows[0]) if rows else 1
  return {
    name: Values(
      np.array([np.mean([measure(b) for b in row]) for row in rows]),
      samples if is_share else 0,
    )
    for name, is_share, measure in (
      ("think blocks", False, lambda b: len(b.places)),
      ("several think blocks", True, lambda b: len(b.places) > 1),
      ("planned", True, lambda b: b.is_planned),
      ("equations", False, lambda b: b.equations),
      ("with a wrong equation", True, lambda b: b.wrong > 0),
      ("with a corrected equation", True, lambda b: b.corrected > 0),
      ("with a restated value", True, lambda b: b.is_restated),
      ("final answer checked", True, lambda b: b.is_checked),
    )
  }


def summary(
  problems: Sequence[Problem], answers: Sequence[Answer]
) -> dict[str, Estimate]:
  """Returns behaviours with 95% intervals over problems.

  They are of the sampled answers; of the greedy ones if none is sampled.
  Besides means per answer there are "place of think blocks" (mean share of the
  text before a block), "words in think blocks" (share of all words), "wrong
  equations" (share of the recomputed ones), "wrong ones corrected" (share of
  the wrong ones) and "markers per 100 words" (secondary). These are ratios of
  sums over all answers; NaN if there is nothing to divide by.
  """
  rows = _rows(problems, answers)

  def sums(measure):
    return np.array([sum(map(measure, row)) for row in rows], np.float64)

  words = sums(lambda b: b.words)
  wrong = sums(lambda b: b.wrong)
  return estimates(_values(rows)) | {
    "place of think blocks": bootstrap(
      sums(lambda b: sum(b.places)), sums(lambda b: len(b.places))
    ),
    "words in think blocks": bootstrap(sums(lambda b: b.thought_words), words),
    "wrong equations": share(wrong, sums(lambda b: b.equations)),
    "wrong ones corrected": share(sums(lambda b: b.corrected), wrong),
    "markers per 100 words": bootstrap(100 * sums(lambda b: b.markers), words),
  }
