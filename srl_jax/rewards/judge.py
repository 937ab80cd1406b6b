# SPDX-License-Identifier: Apache-2.0
"""The process of expressions.py: `python -m srl_jax.rewards.judge`.

It reads lines of JSON and answers each by a line. ["", candidate, reference]
is answered by true or false; [harness, task, text, answer, solution] by the
final answer and true or false, as harnesses/ finds them; either by the text of
an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import logging
import os
import re
import resource
import signal
import sys
from typing import Any

from srl_jax.optional import needed_for

# CPU seconds for one pair, after which the system kills this process.
_LIMIT_S = 5.0
# The same for a harness's rules; harnesses allow 3 to 5 seconds for each part.
_HARNESS_LIMIT_S = 6.0
_MAX_BYTES = 4 << 30
# Values for the check by numbers, for as many variables as answers have.
_POINTS = ((31, 17), (43, 29), (59, 23))
# Relative; equal expressions differ by rounding of 30 digits only.
_TOLERANCE = 1e-15


def main() -> None:
  """Answers lines until the parent hangs up."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)  # What libraries print is no answer.
  logging.disable(logging.CRITICAL)
  resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  error = _import_error()
  for line in sys.stdin:
    harness, *question = json.loads(line)
    # Its default action ends the process, whatever runs.
    limit_s = _HARNESS_LIMIT_S if harness else _LIMIT_S
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    if error:
      verdict = error
    elif harness:
      verdict = by_harness(harness, *question)
    else:
      verdict = same(*question)
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(verdict), file=answers, flush=True)


def _import_error() -> str:
  try:
    with needed_for(
      "Answers that are expressions", "'math-verify[antlr4_13_2]'"
    ):
      import math_verify  # noqa: F401
  except ValueError as error:
    return str(error)
  return ""


def by_harness(harness: str, task: str, *texts: str) -> tuple[str, bool]:
  """Returns the final answer that a harness reads, and whether it is right."""
  module = importlib.import_module(f"srl_jax.rewards.harnesses.{harness}")
  try:
    return module.judge(task, *texts)
  except (Exception, RecursionError):
    return "", False


def same(candidate: str, reference: str) -> bool:
  """Returns whether math-verify and a check by numbers both say so."""
  import math_verify

  try:
    gold, ours = _parse(reference), _parse(candidate)
    if gold is None or ours is None:
      return False
    # The reference first: the comparison is not symmetric.
    return _agree(gold, ours) and math_verify.verify(
      gold, ours, allow_set_relation_comp=True, timeout_seconds=None
    )
  except (Exception, RecursionError):
    return False


def _parse(text: str) -> Any:
  """Returns SymPy's object, or None if the text is not read as a whole."""
  import math_verify

  # Exact: math-verify rounds decimals to six digits.
  text = re.sub(
    r"(?<![\d.])(\d*)\.(\d+)(?![\d.])",
    lambda m: f"\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}",
    text,
  )
  parsed = math_verify.parse(
    f"${text}$",
    extraction_config=[_extraction()],
    fallback_mode="no_fallback",
    parsing_timeout=None,
  )
  return parsed[0] if parsed and not isinstance(parsed[0], str) else None


@functools.cache
def _extraction() -> Any:
  """How math-verify reads TeX: it must not take letters for units."""
  import math_verify

  usual = math_verify.LatexExtractionConfig().normalization_config
  return math_verify.LatexExtractionConfig(
    boxed_match_priority=-1,
    normalization_config=dataclasses.replace(
      usual, units=False, nits=False, boxed="none"
    ),
  )


def _agree(gold: Any, ours: Any) -> bool:
  """Returns whether two objects that may be the same agree in numbers."""
  import sympy

  relations = sympy.core.relational.Relational
  if isinstance(gold, sympy.Eq) and isinstance(ours, sympy.Eq):
    return _proportional(gold.lhs - gold.rhs, ours.lhs - ours.rhs)
  if isinstance(gold, sympy.Eq) or isinstance(ours, sympy.Eq):
    return False
  if isinstance(gold, relations) and isinstance(ours, relations):
    strict = (sympy.StrictLessThan, sympy.StrictGreaterThan)
    return isinstance(gold, strict) == isinstance(ours, strict)
  if isinstance(gold, sympy.Expr) and isinstance(ours, sympy.Expr):
    return all(
      _close(a, b)
      for a, b in zip(_values(gold, ours), _values(ours, gold), strict=True)
    )
  return True


def _proportional(a: Any, b: Any) -> bool:
  """Whether a / b is one number that is not 0, as of the same equation."""
  values_a, values_b = _values(a, b), _values(b, a)
  return bool(values_a[0] != 0 and values_b[0] != 0) and all(
    _close(x * values_b[0], y * values_a[0])
    for x, y in zip(values_a, values_b, strict=True)
  )


def _values(expression: Any, other: Any) -> list[Any]:
  """Returns an expression's values where its variables have fixed ones."""
  import sympy

  symbols = sorted(
    expression.free_symbols | other.free_symbols, key=lambda s: s.name
  )
  values = []
  for start, step in _POINTS:
    at = {
      s: sympy.Rational(start + step * i, 37 + i) for i, s in enumerate(symbols)
    }
    values.append(expression.subs(at).doit().evalf(30))
  return values


def _close(a: Any, b: Any) -> bool:
  """Whether two values are equal up to rounding; also if neither is known."""
  if not (a.is_number and b.is_number):
    return a == b or (a - b).simplify() == 0
  scale = max(abs(a), abs(b))
  return bool(scale == 0 or abs(a - b) <= _TOLERANCE * scale)


if __name__ == "__main__":
  with contextlib.suppress(BrokenPipeError):
    main()
