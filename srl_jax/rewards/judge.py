# SPDX-License-Identifier: Apache-2.0
"""The process of expressions.py: `python -m srl_jax.rewards.judge`.

It answers ["", candidate, reference, within] by true or false, and [harness,
task, text, answer, solution] by the final answer and true or false, as
harnesses/ finds them; either by the text of an error.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

from srl_jax.optional import needed_for
from srl_jax.processes.children import serve_lines

# CPU seconds for one message, after which the system kills this process.
# Harnesses allow 3 to 5 seconds for each part of their rules.
_LIMIT_S = 6.0
_MAX_BYTES = 4 << 30
# Values for the check by numbers, for as many variables as answers have.
_POINTS = ((31, 17), (43, 29), (59, 23))
# Relative; equal expressions differ by rounding of 30 digits only.
_TOLERANCE = 1e-15
_INDEXED_E = re.compile(r"\\[A-Za-z]+|[Ee](?=\s*_)")


def main() -> None:
  """Answers messages until the parent hangs up."""
  serve_lines(_start, _LIMIT_S, _MAX_BYTES)


def _start() -> Callable[[Any], Any]:
  error = _import_error()

  def answer(message: Any) -> Any:
    harness, *question = message
    if error:
      return error
    return by_harness(harness, *question) if harness else same(*question)

  return answer


def _import_error() -> str:
  try:
    with needed_for("Answers that are expressions", "math-verify"):
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


def same(candidate: str, reference: str, within: float) -> bool:
  """Returns whether math-verify and a check by numbers both say so.

  Numbers that may differ `within` a share of the reference are only checked.
  """
  import math_verify

  _keep_capitals()
  candidate, reference = _without_indexed_e(candidate, reference)
  try:
    gold, ours = _parse(reference), _parse(candidate)
    if gold is None or ours is None:
      return False
    if within:
      return bool(abs(gold - ours).evalf() <= within * abs(gold))
    # The reference first: the comparison is not symmetric.
    return _agree(gold, ours) and math_verify.verify(
      gold, ours, allow_set_relation_comp=True, timeout_seconds=None
    )
  except (Exception, RecursionError):
    return False


@functools.cache
def _keep_capitals() -> None:
  """Lets math-verify tell R from r, for which it has no option."""
  from latex2sympy2_extended import latex2sympy2
  from math_verify import parser

  parser.latex2sympy = functools.partial(
    latex2sympy2.latex2sympy,
    conversion_config=latex2sympy2.ConversionConfig(lowercase_symbols=False),
  )


def _without_indexed_e(*texts: str) -> list[str]:
  """Gives E_1 and e_1 letters of their own: the parser takes both for 2.718."""
  free = [c for c in "WZKHYVUBLMJDwzkhyvu" if c not in "".join(texts)]
  letters = dict(zip("Ee", free, strict=False))
  return [
    _INDEXED_E.sub(lambda m: letters.get(m[0], m[0]), text) for text in texts
  ]


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
  found = parsed[0] if parsed else None
  return None if isinstance(found, str) else _unified(found)


def _unified(found: Any) -> Any:
  """Takes the letter i for the imaginary unit, and a letter for one variable.

  The parser takes i for a variable, and one letter for two variables, by what
  stands before it. A derivative such as dx/dt, of what does not name t, is a
  variable of its own: SymPy would make it 0.
  """
  import sympy

  if not hasattr(found, "xreplace"):
    return found
  # Not real: SymPy would make x^2 = -3 and x^2 = -5 both False.
  found = found.xreplace(
    {
      letter: sympy.I if letter.name == "i" else sympy.Symbol(letter.name)
      for letter in found.free_symbols
    }
  )
  return found.xreplace(
    {
      derivative: sympy.Symbol(str(derivative))
      for derivative in found.atoms(sympy.Derivative)
      if not derivative.expr.is_Number
      and derivative.expr.free_symbols.isdisjoint(derivative.variables)
    }
  )


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
  main()
