# SPDX-License-Identifier: Apache-2.0
"""What the answers to a suite amount to: rates, votes, lengths; by level.

  values    problems, answers -> one value per problem for each metric
  summary   the same -> an estimate over problems for each metric
  rows      values -> estimates for each level or subject

compare.py pairs the values of two models; seeds.py averages those of several
seeds. solve.py summarises episodes during a run by the same functions.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.estimates import (
  Estimate,
  bootstrap,
  g_pass_at_k,
  mean_g_pass_at_k,
  pass_at_k,
  share,
)
from srl_jax.evaluate.records import Answer
from srl_jax.evaluate.votes import count_votes, majority_at_k

# Thresholds of G-Pass that its paper reports.
_TAUS = (0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class Values:
  """One value per problem.

  Attributes:
    values_P: the values.
    outcomes: number of outcomes 0 and 1 behind each value; 0 if the values are
      not shares of such outcomes.
  """

  values_P: np.ndarray
  outcomes: int = 0

  @property
  def is_share(self) -> bool:
    return self.outcomes > 0

  def estimate(self) -> Estimate:
    """The mean over problems with its interval."""
    if not self.is_share:
      return bootstrap(self.values_P)
    outcomes = np.full(len(self.values_P), self.outcomes)
    return share(self.values_P * outcomes, outcomes)


def estimates(values: Mapping[str, Values]) -> dict[str, Estimate]:
  """Returns the estimate of each metric."""
  return {name: value.estimate() for name, value in values.items()}


def solve_rates(correct: Sequence[int], samples: int) -> dict[str, Values]:
  """Returns avg@n, and unbiased pass@k for k = 2, 4, ... n.

  pass@1 is avg@n, so it has no entry of its own.

  Args:
    correct: number of right samples of each problem.
    samples: number n of samples per problem.
  """
  rates = {f"avg@{samples}": Values(np.asarray(correct) / samples, samples)}
  for k in _powers(samples)[1:]:
    terms = [pass_at_k(int(c), samples, k) for c in correct]
    rates[f"pass@{k}"] = _draws(terms, samples, k)
  return rates


def _draws(terms: Sequence[float], samples: int, k: int) -> Values:
  """A problem tells what k samples do as well as so many separate draws."""
  return Values(np.asarray(terms, np.float64), samples // k)


def _powers(samples: int) -> list[int]:
  """Returns 1, 2, 4, ... and the number of samples."""
  powers = [1]
  while 2 * powers[-1] <= samples:
    powers.append(2 * powers[-1])
  return powers if powers[-1] == samples else [*powers, samples]


def values(
  problems: Sequence[Problem], answers: Sequence[Answer]
) -> dict[str, Values]:
  """Returns one value per problem, in their order, for each metric.

  Of greedy answers: "greedy", the accuracy. Of n sampled answers: "avg@n",
  "pass@k" for k = 1, 2, 4, ... n, "maj@k" for k = 4, 8, ... n (votes.py; 1 and
  2 votes are avg@n), and "G-Pass@k" at the thresholds 0.5, 0.75 and 1 and
  "mG-Pass@k", with k the largest power of 2 up to n/2. All of these are
  unbiased over the choice of k of the n samples.

  Of both, greedy ones with ", greedy" after the name: "cut", the share that the
  limit cut; "no answer", the share without a final answer; "tokens" and
  "words", the mean lengths. A word is what stands between white space.

  Args:
    problems: the problems of one suite.
    answers: the answers to them, in any order.

  Raises:
    ValueError: an answer is of another problem, occurs twice, or is missing.
  """
  found: dict[str, Values] = {}
  greedy = by_problem(problems, answers, "greedy")
  sampled = by_problem(problems, answers, "sampled")
  if greedy:
    found["greedy"] = per_answer(greedy, lambda a: a.is_correct, is_share=True)
  if sampled:
    samples = len(sampled[0])
    correct = [sum(a.is_correct for a in row) for row in sampled]
    rates = solve_rates(correct, samples)
    average = f"avg@{samples}"
    found |= {average: rates[average], "pass@1": rates[average], **rates}
    found |= _votes(sampled, samples) | _g_pass(correct, samples)
    found |= _shapes(sampled, "")
  if greedy:
    found |= _shapes(greedy, ", greedy")
  return found


def by_problem(
  problems: Sequence[Problem],
  answers: Sequence[Answer],
  decoding: Literal["greedy", "sampled"],
) -> list[list[Answer]]:
  """Returns the answers of one decoding to each problem, samples in order.

  The list is empty if there are no such answers.

  Raises:
    ValueError: an answer is of another problem, occurs twice, or is missing.
  """
  rows: dict[str, dict[int, Answer]] = {problem.id: {} for problem in problems}
  if len(rows) < len(problems):
    raise ValueError("two problems have the same id; ids are unique in a suite")
  for answer in answers:
    if answer.problem not in rows:
      raise ValueError(
        f"an answer of suite {answer.suite!r} is to problem "
        f"{answer.problem!r}, which is not among the {len(rows)} problems; "
        "give the problems that were asked"
      )
    if answer.decoding != decoding:
      continue
    if answer.sample in rows[answer.problem]:
      raise ValueError(
        f"problem {answer.problem!r} has two {decoding} answers with sample "
        f"{answer.sample}; give the answers of one checkpoint only"
      )
    rows[answer.problem][answer.sample] = answer
  samples = max((len(row) for row in rows.values()), default=0)
  for problem, row in rows.items():
    missing = [i for i in range(samples) if i not in row]
    if missing:
      raise ValueError(
        f"problem {problem!r} lacks the {decoding} answer {missing[0]} of "
        f"{samples}; finish the evaluation first, or leave the problem out"
      )
  if not samples:
    return []
  return [[row[i] for i in range(samples)] for row in rows.values()]


def per_answer(
  rows: Sequence[Sequence[Answer]],
  measure: Callable[[Answer], float],
  *,
  is_share: bool,
) -> Values:
  """Returns the means of a measure over the answers to each problem."""
  means = np.array([np.mean([measure(a) for a in row]) for row in rows])
  return Values(means, len(rows[0]) if is_share else 0)


def _votes(sampled, samples) -> dict[str, Values]:
  votes = [
    count_votes([a.final for a in row], [a.is_correct for a in row])
    for row in sampled
  ]
  found = {}
  for k in _powers(samples):
    if k > 2:
      terms = [majority_at_k(r, wrong, samples, k) for r, wrong in votes]
      found[f"maj@{k}"] = _draws(terms, samples, k)
  return found


def _g_pass(correct: Sequence[int], samples: int) -> dict[str, Values]:
  k = max((k for k in _powers(samples) if 2 * k <= samples), default=1)
  if k == 1:
    return {}
  found = {}
  for tau in _TAUS:
    terms = [g_pass_at_k(c, samples, k, tau) for c in correct]
    found[f"G-Pass@{k} tau={tau:g}"] = _draws(terms, samples, k)
  terms = [mean_g_pass_at_k(c, samples, k) for c in correct]
  found[f"mG-Pass@{k}"] = _draws(terms, samples, k)
  return found


def _shapes(rows, suffix: str) -> dict[str, Values]:
  """Values of how answers end and how long they are, right or not."""
  return {
    f"{name}{suffix}": per_answer(rows, measure, is_share=is_share)
    for name, measure, is_share in (
      ("cut", lambda a: not a.is_stopped, True),
      ("no answer", lambda a: not a.final, True),
      ("tokens", lambda a: a.tokens, False),
      ("words", lambda a: len(a.text.split()), False),
    )
  }


def summary(
  problems: Sequence[Problem], answers: Sequence[Answer]
) -> dict[str, Estimate]:
  """Returns the metrics of `values` with 95% intervals over problems."""
  return estimates(values(problems, answers))


def rows(
  problems: Sequence[Problem],
  found: Mapping[str, Values],
  by: Literal["level", "subject"],
) -> dict[str, dict[str, Estimate]]:
  """Returns estimates for each level or subject, in the order of their names.

  Numbers in names count as numbers: level 10 comes after level 9. Problems
  without a level (or subject) are under "".

  Args:
    problems: the problems of one suite.
    found: what `values` returned for them.
    by: what to group by.
  """
  groups: dict[str, list[int]] = {}
  for i, problem in enumerate(problems):
    groups.setdefault(getattr(problem, by), []).append(i)
  return {
    name: estimates(
      {
        metric: dataclasses.replace(v, values_P=v.values_P[groups[name]])
        for metric, v in found.items()
      }
    )
    for name in sorted(groups, key=_natural)
  }


def _natural(name: str) -> list[tuple[bool, int, str]]:
  parts = re.split(r"(\d+)", name)
  return [
    (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
    for part in parts
  ]


_COUNTS = ("think blocks", "equations", "markers per 100 words")


def unit_of(metric: str) -> str:
  """Returns the unit of a metric or behaviour, for tables.

  It is "%" for shares, "tokens" or "words" for lengths, and "" for counts.
  """
  name = metric.removesuffix(", greedy")
  if name in ("tokens", "words"):
    return name
  return "" if name in _COUNTS else "%"
