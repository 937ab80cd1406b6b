# SPDX-License-Identifier: Apache-2.0
"""Compares two models on the same problems.

What was not measured alike is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.records import Answer
from srl_jax.evaluate.seeds import Difference, difference
from srl_jax.evaluate.summary import Values, values


@dataclasses.dataclass(frozen=True)
class Result:
  """The answers of one checkpoint to one suite.

  Attributes:
    name: what tables call it: the checkpoint, the moment or the seed.
    suite: name of the suite.
    protocol: facts that must be alike wherever results are compared: mode,
      decoding, limits, samples; as JSON. The checkpoint, its template and the
      seed are not among them.
    problems: the problems of the suite.
    answers: the answers to all of them.
  """

  name: str
  suite: str
  protocol: Mapping[str, Any]
  problems: Sequence[Problem]
  answers: Sequence[Answer]


def compare(
  base: Sequence[Result], other: Sequence[Result]
) -> dict[str, Difference]:
  """Returns "other minus base" for each metric, paired by problem.

  Args:
    base: the results of one model, one for each seed.
    other: those of the other. Two checkpoints, two moments of a run and two
      seeds are compared alike; the numbers of seeds may differ.

  Raises:
    ValueError: names what differs: suite, facts of the protocol, problems, or
      number of samples.
  """
  check_alike([*base, *other])
  base_values, other_values = (
    [_in_order(base[0], result) for result in side] for side in (base, other)
  )
  return {
    name: difference(
      _stack(base_values, name),
      _stack(other_values, name),
      is_share=value.is_share,
    )
    for name, value in base_values[0].items()
  }


def check_alike(results: Sequence[Result]) -> None:
  """Refuses results that were not measured alike.

  Raises:
    ValueError: names everything that differs from the first result.
  """
  if not results:
    raise ValueError("no results; give at least one for each side")
  first = results[0]
  for result in results[1:]:
    differences = [
      *_facts({"suite": first.suite}, {"suite": result.suite}),
      *protocol_differences(first.protocol, result.protocol),
      *_problem_differences(first.problems, result.problems),
      *_facts(_samples(first), _samples(result)),
    ]
    if differences:
      raise ValueError(
        f"{first.name!r} and {result.name!r} were not measured alike: "
        + "; ".join(differences)
        + ". Evaluate both by the same protocol on the same problems"
      )


# The fact of a protocol that names the code of verdicts.
RULES = "rules_sha256"
_MEANINGS = {RULES: f"the version of the code that judges answers ({RULES})"}


def _facts(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
  absent = object()
  found = []
  for key in dict.fromkeys([*first, *second]):
    one, two = first.get(key, absent), second.get(key, absent)
    if one != two:
      one, two = ("absent" if x is absent else repr(x) for x in (one, two))
      found.append(f"{_MEANINGS.get(key, key)} is {one} and {two}")
  return found


def protocol_differences(
  first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[str]:
  """Returns what differs; of two known protocols their names or changes."""
  names = [x.get("name") for x in (first, second)]
  if None not in names and names[0] != names[1]:
    return _facts({"protocol": names[0]}, {"protocol": names[1]})
  changes = [
    ", ".join(x.get("differences", ())) or "none" for x in (first, second)
  ]
  if changes[0] != changes[1]:
    return [f"changes of the protocol are ({changes[0]}) and ({changes[1]})"]
  return _facts(first, second)


def _problem_differences(
  first: Sequence[Problem], second: Sequence[Problem]
) -> list[str]:
  one, two = ({p.id: p for p in problems} for problems in (first, second))
  found = []
  only = [key for key in [*one, *two] if (key in one) != (key in two)]
  if only:
    found.append(f"{len(only)} problems are on one side only: {_few(only)}")
  changed = [
    key
    for key in one
    if key in two
    and (one[key].text, one[key].answer) != (two[key].text, two[key].answer)
  ]
  if changed:
    found.append(
      f"{len(changed)} problems have another text or answer: {_few(changed)}"
    )
  return found


def _few(names: Sequence[str]) -> str:
  return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _samples(result: Result) -> dict[str, int]:
  """The largest number of answers to a problem, by decoding."""
  found = {}
  for decoding in ("greedy", "sampled"):
    indices = [a.sample for a in result.answers if a.decoding == decoding]
    found[f"number of {decoding} answers"] = max(indices, default=-1) + 1
  return found


def _in_order(first: Result, result: Result) -> dict[str, Values]:
  """Measures a result with its problems in the order of the first."""
  by_id = {problem.id: problem for problem in result.problems}
  problems = [by_id[problem.id] for problem in first.problems]
  return values(problems, result.answers)


def _stack(found: Sequence[dict[str, Values]], name: str) -> np.ndarray:
  return np.stack([of_seed[name].values_P for of_seed in found])
