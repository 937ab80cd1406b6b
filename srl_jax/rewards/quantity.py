# SPDX-License-Identifier: Apache-2.0
"""Reads a number with its unit from short text, exactly.

Understood are 1,234.5 and .5, signs, 3/4, \\frac{3}{4} and \\frac34, mixed
numbers (1 1/2, 1\\frac12), 4.5e-3, 4.5 \\times 10^{-3}, 10^5, a currency sign,
a percent sign, degrees, and unit words after the number. Not understood, on
purpose: letters that touch a number (5x, 2pi), and arithmetic.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Quantity(NamedTuple):
  """A number; unit is "", "%" or the unit's letters without plural s."""

  value: Fraction
  unit: str


_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_GROUP = rf"(?:\{{\s*-?{_DECIMAL}\s*\}}|\d)"
_FRACTION = rf"\\frac\s*{_GROUP}\s*{_GROUP}"
_POWER = r"10\s*\^\s*(?:\{\s*[-+]?\d+\s*\}|[-+]?\d+)"
_TIMES = r"\s*(?:\\times|\\cdot|\*|×)\s*"
_UNSIGNED = (
  rf"(?:(?:{_INTEGER}\s*)?{_FRACTION}"
  rf"|{_INTEGER}\s+\d+/\d+"
  rf"|{_POWER}"
  rf"|{_DECIMAL}{_TIMES}{_POWER}"
  rf"|{_DECIMAL}[eE][-+]?\d+"
  rf"|{_DECIMAL}(?:\s*/\s*{_DECIMAL})?)"
)
# For looking through prose: a minus after a word or a bracket is a dash or a
# subtraction, not a sign.
NUMBER = re.compile(rf"(?:(?<![\w.)\]}}])-\s?)?{_UNSIGNED}(?:\s?%)?")

_QUANTITY = re.compile(
  rf"(?P<sign>[-+]?)\s*[€£]?\s*(?P<sign2>[-+]?)(?P<number>{_UNSIGNED})"
  r"(?P<rest>.*)",
  re.DOTALL,
)
_UNIT_WORD = re.compile(r"[A-Za-zµμΩ]+(?:\^?\{?-?\d\}?)?")
_SINGLE_LETTER_UNITS = frozenset("mghsLJNVWKACF")
_NOT_UNITS = re.compile(
  "or|and|to|mod|times|over|pi|sqrt|exp|log|ln|sin|cos|tan", re.IGNORECASE
)
# Beyond these a number is not an answer but an attack on the checker.
_MAX_CHARS = 200
_MAX_EXPONENT = 400


def parse_quantity(text: str) -> Quantity | None:
  """Returns the number that text is, or None if it is anything else."""
  match = _QUANTITY.fullmatch(text.strip())
  if match is None or len(match["number"]) > _MAX_CHARS:
    return None
  unit = _unit(match["rest"])
  value = _value(match["number"])
  if unit is None or value is None or (match["sign"] and match["sign2"]):
    return None
  if "-" in (match["sign"], match["sign2"]):
    value = -value
  return Quantity(value, unit)


def same_quantity(a: Quantity, b: Quantity) -> bool:
  """Returns whether two quantities are equal.

  Units count only where both have one. A percent sign on one side only may
  mean a hundredth or nothing: 50% is 1/2, and is 50 where percent is asked.
  """
  if a.unit and b.unit:
    return a == b
  if a.value == b.value:
    return True
  hundredths = [q.value / 100 if q.unit == "%" else q.value for q in (a, b)]
  return hundredths[0] == hundredths[1]


def _value(number: str) -> Fraction | None:
  number = number.replace(",", "")
  whole, frac, parts = number.partition("\\frac")
  try:
    if frac:
      top, bottom = re.findall(r"\{([^{}]*)\}|(\d)", parts)
      ratio = Fraction(_plain("".join(top))) / Fraction(_plain("".join(bottom)))
      return _plain(whole) + ratio if whole.strip() else ratio
    mixed = re.fullmatch(r"(\d+)\s+(\d+)/(\d+)", number)
    if mixed:
      whole, top, bottom = map(int, mixed.groups())
      return whole + Fraction(top, bottom)
    power = re.fullmatch(rf"(.*?)(?:{_TIMES})?10\s*\^\s*\{{?(.*?)\}}?", number)
    if power:
      return _scaled(power[1] or "1", power[2])
    mantissa, e, exponent = number.lower().partition("e")
    if e:
      return _scaled(mantissa, exponent)
    top, slash, bottom = number.partition("/")
    return _plain(top) / _plain(bottom) if slash else _plain(top)
  except ZeroDivisionError:
    return None


def _plain(decimal: str) -> Fraction:
  decimal = decimal.strip()
  return Fraction(decimal + "0" if decimal.endswith(".") else decimal)


def _scaled(mantissa: str, exponent: str) -> Fraction | None:
  power = int(exponent)
  if abs(power) > _MAX_EXPONENT:
    return None
  return _plain(mantissa) * Fraction(10) ** power


def _unit(rest: str) -> str | None:
  """Returns the unit that rest is, or None if rest is something else."""
  text = rest.strip()
  if not text:
    return ""
  if text in ("%", "percent"):
    return "%"
  if text.startswith("°"):
    return "°" + text[1:].strip()
  if not rest[0].isspace():
    return None
  words = re.split(r"\s*(?:/|\\cdot|\*)\s*|\s+", text)
  for word in words:
    if not _UNIT_WORD.fullmatch(word) or _NOT_UNITS.fullmatch(word):
      return None
  if len(words[0]) == 1 and words[0] not in _SINGLE_LETTER_UNITS:
    return None
  joined = re.sub(r"\s", "", text)
  return joined.removesuffix("s") if len(joined) > 3 else joined
