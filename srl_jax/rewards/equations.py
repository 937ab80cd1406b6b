# SPDX-License-Identifier: Apache-2.0
"""Takes equations and approximations apart, and says which sides may go."""

from __future__ import annotations

import re

from srl_jax.rewards.expressions import same_expression
from srl_jax.rewards.parts import NAME, THOUSANDS, parts_of, split_outside
from srl_jax.rewards.quantity import parse_quantity, split_unit
from srl_jax.rewards.tex import spell

RELATION = re.compile(
  r"[<>≠]|\\(?:leq|geq|neq|not[a-z]*|approx|equiv|sim)(?![A-Za-z])"
)
_EQUALS = re.compile(r"(?<![<>!:=/\\])=(?!=|[/\\]=)")


def is_plain(*texts: str) -> bool:
  """Whether each text has one equals sign: chains are not for the judge."""
  return all(len(_EQUALS.findall(text)) == 1 for text in texts)


def sides_of(text: str) -> list[str] | None:
  """Returns what stands between equals signs; None of other relations."""
  sides = [side.strip() for side in split_outside(text, _EQUALS)]
  if not all(sides) or (len(sides) > 1 and RELATION.search(text)):
    return None
  parts = parts_of(THOUSANDS.sub("", text))
  return None if len(parts) > 1 and len(sides) > 1 else sides


def has_letters(text: str) -> bool:
  """Whether text has variables; pi, e and i are numbers, and so is 5 cm."""
  if parse_quantity(text) is not None:
    return False
  bare = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+", " ", text)
  return bool(re.search(r"[A-DF-Za-df-hj-z]", bare))


_GREEK = (
  r"(?i:(?:var)?(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa"
  r"|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|chi|psi|omega)|ell)(?![A-Za-z])"
)
# Commands and the number e, which are passed over, and variables; x_{1} and
# f(3) are others than x and f.
_TERMS = re.compile(
  rf"\\(?!{_GREEK})[A-Za-z]+|e|((?:\\{_GREEK}|[A-Za-z])"
  r"(?:\s*_\s*(?:\w|\{[^{}]*\}))?(?:\([^()]*\))?)"
)
_INNER = re.compile(r"\([^()]*\)|_\s*(?:\{[^{}]*\}|\w)|\\[A-Za-z]+")
# f(3), f'(3), E[X], P(X = 3), \sin x, \overline{AB}, x°; but no operation on an
# unknown such as \sqrt{x}, \log(x) and x(x+1).
_VALUE = re.compile(
  rf"{NAME.pattern}|[A-Za-z][^A-Za-z()\[\]]*[(\[].*[)\]]|\|.*\||\\\|.*\\\|"
  rf"|\$?(?:\\[A-Za-z]+\s*)?\{{?\s*{NAME.pattern}\s*\}}?\s*[°%]?",
  re.DOTALL,
)
_OPERATION = re.compile(
  r"\\?(?:sqrt|log|ln|lg|exp)(?![A-Za-z])"
  r"|([A-Za-z])[^A-Za-z()\[\]]*[(\[](?:.*[^A-Za-z])?\1(?![A-Za-z(])",
  re.DOTALL,
)
_DERIVATIVE = re.compile(r"\\frac\s*\{d.*\}\s*\{d", re.DOTALL)


def may_drop(sides: list[str]) -> bool:
  """Whether a chain of equations says what its right side is.

  So do x = 6, f(4) = 6, |AB| = 6, m + n = 6 and 2 + 4 = 6, but not 2x = 6, and
  not what is said of one unknown: -x = 6, x + x = 6, e^x = 6.
  """
  left = sides[0].strip("& ")
  if _VALUE.fullmatch(left) and not _OPERATION.match(left):
    return True
  variables = {re.sub(r"\s", "", x) for x in _TERMS.findall(left) if x}
  has_greek = any(x.startswith("\\") for x in variables)
  if _DERIVATIVE.match(left) or not (has_greek or has_letters(left)):
    return True
  if left.startswith("-") or len(variables) < 2:
    return False
  bare = _INNER.sub("", left)
  return not re.search(r"\d", bare) or bool(re.search(r"\w\s*[-+]", bare))


_ABOUT = re.compile(r"\\(?:approx|simeq|sim)(?![A-Za-z])|≈")
# Relative; what a number may differ by from one that it is about.
_MAX_ROUNDING = 0.1
_DEGREES = re.compile(r"([\d.]+)\s*°")


def forms_of(text: str) -> list[str]:
  """Returns what x \\approx y says: x, and x = y; else the text alone."""
  sides = [side.strip() for side in split_outside(text, _ABOUT)]
  if len(sides) != 2 or not sides[1] or has_letters(sides[1]):
    return [text]
  if len(parts_of(text)) > 1 or "=" in sides[1]:
    return [text]
  exact, rounded = sides
  if not exact:
    return [rounded]
  value = split_outside(exact, _EQUALS)[-1].strip()
  if not has_letters(value) and not _is_about(value, rounded):
    return [exact]
  equation = f"{exact} = {rounded}"
  return [equation] if NAME.fullmatch(exact) else [exact, equation]


def _is_about(exact: str, rounded: str) -> bool:
  """Whether a number may be another one rounded."""
  number, other = parse_quantity(exact), parse_quantity(rounded)
  if number and other:
    error = abs(number.value - other.value)
    return error <= _MAX_ROUNDING * abs(number.value)
  exact, rounded = (
    spell(_DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", split_unit(x)[0]))
    for x in (exact, rounded)
  )
  return same_expression(rounded, exact, _MAX_ROUNDING)
