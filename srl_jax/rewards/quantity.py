# SPDX-License-Identifier: Apache-2.0
"""Reads a number with its unit from short text, exactly.

Understood are 1,234.5 and .5, 0.\\overline{3}, signs, 3/4, \\frac{3}{4} and
\\frac34, mixed numbers (1 1/2, 1\\frac12), 4.5e-3, 4.5 \\times 10^{-3}, 10^5, a
currency sign, a percent sign, degrees, and "million" and unit words after the
number. Not understood, on purpose: letters that touch a number (5x, 2pi), and
arithmetic.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Quantity(NamedTuple):
  """A number; unit is "", "%", "°" or the unit's name in the singular."""

  value: Fraction
  unit: str


_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_GROUP = rf"(?:\{{\s*-?{_DECIMAL}\s*\}}|\d)"
_FRACTION = rf"\\frac\s*{_GROUP}\s*{_GROUP}"
_REPEATING = rf"{_INTEGER}?\.\d*\\overline\s*(?:\{{\s*\d+\s*\}}|\d)"
_POWER = r"(?:10|\{10\})\s*\^\s*(?:\{\s*[-+]?\d+\s*\}|[-+]?\d+)"
_TIMES = r"\s*(?:\\times|\\cdot|\*|×|x)\s*"
_SCIENTIFIC = re.compile(
  rf"(.*?)(?:{_TIMES})?(?:10|\{{10\}})\s*\^\s*\{{?(.*?)\}}?"
)
_UNSIGNED = (
  rf"(?:(?:{_INTEGER}\s*)?{_FRACTION}"
  rf"|{_INTEGER}\s+\d+/\d+"
  rf"|{_REPEATING}"
  rf"|{_POWER}"
  rf"|{_DECIMAL}{_TIMES}{_POWER}"
  rf"|{_DECIMAL}[eE][-+]?\d+"
  rf"|{_DECIMAL}(?:\s*/\s*{_DECIMAL})?)"
)
# For looking through prose: a minus after a word or a bracket is a dash or a
# subtraction, not a sign.
NUMBER = re.compile(rf"(?:(?<![\w.)\]}}])-\s?)?{_UNSIGNED}(?:\s?%)?")

_MAGNITUDES = {
  "dozen": 12,
  "hundred": 100,
  "thousand": 1000,
  "million": 10**6,
  "billion": 10**9,
  "trillion": 10**12,
}
MAGNITUDE = re.compile(
  rf"\s*({'|'.join(_MAGNITUDES)})s?(?![A-Za-z])", re.IGNORECASE
)

_QUANTITY = re.compile(
  rf"(?P<sign>[-+]?)\s*(?P<currency>[€$£]?)\s*(?P<sign2>[-+]?)(?P<number>{_UNSIGNED})"
  r"(?P<rest>.*)",
  re.DOTALL,
)
# One spelling for each unit, then the others; SI prefixes are spelt out.
_UNITS = {
  "m": "meter metre",
  "cm": "centimeter centimetre",
  "mm": "millimeter millimetre",
  "km": "kilometer kilometre",
  "nm": "nanometer nanometre",
  "in": "inch inche",
  "ft": "foot feet",
  "yd": "yard",
  "mi": "mile",
  "g": "gram",
  "kg": "kilogram",
  "mg": "milligram",
  "lb": "pound £",
  "oz": "ounce",
  "s": "second sec",
  "ms": "millisecond",
  "min": "minute",
  "h": "hour hr",
  "L": "liter litre",
  "mL": "ml milliliter millilitre",
  "J": "joule",
  "kJ": "kilojoule",
  "N": "newton",
  "V": "volt",
  "W": "watt",
  "kW": "kilowatt",
  "K": "kelvin",
  "A": "amp ampere",
  "C": "coulomb",
  "F": "farad",
  "Hz": "hertz",
  "kHz": "",
  "MHz": "",
  "GHz": "",
  "eV": "",
  "keV": "",
  "MeV": "",
  "GeV": "",
  "Pa": "pascal",
  "kPa": "",
  "mol": "mole",
  "rad": "radian",
  "sr": "steradian",
  "pc": "parsec",
  "kpc": "",
  "Mpc": "",
  "AU": "",
  "erg": "",
  "dyn": "dyne",
  "mph": "",
  "sq": "square",
  "cu": "cubic",
  "dollar": "$ USD usd buck",
  "cent": "",
  "euro": "€",
  "°": "degree deg",
  "%": "percent",
  "ly": "",
  "dB": "",
  "cal": "calorie",
  "kcal": "",
  "atm": "",
  "bar": "",
  "T": "tesla",
  "unit": "",
  "Angstrom": "angstrom Å",
  "Ω": "ohm",
  "μm": "micrometer micrometre micron",
  "μs": "microsecond",
  "μg": "microgram",
  **{
    f"μ{unit}": "" for unit in ("A", "C", "F", "J", "L", "N", "V", "W", "mol")
  },
}
_SPELLING = {
  other: unit
  for unit, others in _UNITS.items()
  for other in (unit, *others.split())
}
_UNIT_WORD = re.compile(r"(?:\\?([A-Za-zμΩÅ]+)|([$€£]))(?:\^(-?\d)|(\d))?")
# Upright letters, around which `tidy` leaves spaces: others are variables.
_RATIO = re.compile(r"\\frac\s*\{\s+([^{}]*)\}\s*\{\s+([^{}]*)\}")
_DOT = re.compile(r"(?<=[A-Za-z]{2})\.(?=\s)")  # As of "sq. cm".
_A = re.compile(r"\ban?(?=\s+[a-z]{3})")  # As of "a day".
_POWERS = re.compile(r"\s*\^\s*(?:\{\s*(-?\d)\s*\}|(-?\d))")
# A lone "T" is more often a variable.
_SINGLE_LETTER_UNITS = frozenset("mghsLJNVWKACF")
# More often products, such as a weight 2mg; units only after a space.
_PRODUCTS = frozenset(("mg", "nm", "ms", "in"))
_NOT_UNITS = re.compile(
  "or|and|to|mod|over|pi|sqrt|exp|log|ln|sin|cos|tan|cot|sec|csc|"
  "arcsin|arccos|arctan|sinh|cosh|tanh|frac|cdot|pm|mp|in|infty|"
  "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|lambda|mu|nu|rho|sigma|tau|"
  "phi|chi|psi|omega|hbar|odot|leq|geq|neq|not|nor|but|plus|minus|"
  "than|between|either|maybe|perhaps|possibly|about|if|when|where|for|from|"
  "then|is|was|be|through|until|versus|vs|with|without|half|dozen|hundred|"
  "thousand|million|billion|trillion|factorial|squared|cubed|quad|begin|end|"
  "halve|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|"
  "thousandth|millionth|base|choose|below|above|zero",
  re.IGNORECASE,
)
# Beyond these a number is not an answer but an attack on the checker.
_MAX_CHARS = 200
_MAX_EXPONENT = 400


def parse_quantity(text: str) -> Quantity | None:
  """Returns the number that text is, or None if it is anything else."""
  match = _QUANTITY.fullmatch(text.strip())
  if match is None or len(match["number"]) > _MAX_CHARS:
    return None
  value, rest = _value(match["number"]), match["rest"]
  magnitude = MAGNITUDE.match(rest)
  if magnitude and value is not None:
    value *= _MAGNITUDES[magnitude[1].lower()]
    rest = rest[magnitude.end() :]
  unit = _unit(rest)
  if match["currency"] and unit == "":
    unit = _SPELLING[match["currency"]]
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
    return _in_cents(a) == _in_cents(b)
  if a.value == b.value:
    return True
  hundredths = [q.value / 100 if q.unit == "%" else q.value for q in (a, b)]
  return hundredths[0] == hundredths[1]


def _in_cents(a: Quantity) -> Quantity:
  return Quantity(100 * a.value, "cent") if a.unit == "dollar" else a


def is_unit(text: str) -> bool:
  """Whether text is a unit, and not only a word such as apples."""
  first = re.split(r"[\s/*^{\\]", text, maxsplit=1)[0]
  singular = _singular(first)
  known = first in _SPELLING or singular in _SPELLING or first[:1] in ("%", "°")
  return known and _unit(" " + text) is not None


_MAX_UNIT_WORDS = 3


def split_unit(text: str) -> tuple[str, str]:
  """Returns a term and its unit, of two letters or more; "" if it has none."""
  words = re.sub(r"\s*\^\s*", "^", text).split()
  for count in range(min(_MAX_UNIT_WORDS, len(words) - 1), 0, -1):
    unit = " ".join(words[-count:])
    if re.match("[A-Za-z]{2}", unit) and is_unit(unit):
      return " ".join(words[:-count]), unit
  return text, ""


def _value(number: str) -> Fraction | None:
  number = number.replace(",", "")
  whole, frac, parts = number.partition("\\frac")
  try:
    if frac:
      top, bottom = re.findall(r"\{([^{}]*)\}|(\d)", parts)
      ratio = Fraction(_plain("".join(top))) / Fraction(_plain("".join(bottom)))
      return _plain(whole) + ratio if whole.strip() else ratio
    once, bar, repeated = re.sub(r"[{}\s]", "", number).partition("\\overline")
    if bar:
      unit = Fraction(1, 10 ** len(once.partition(".")[2]))
      return _plain(once) + unit * int(repeated) / (10 ** len(repeated) - 1)
    mixed = re.fullmatch(r"(\d+)\s+(\d+)/(\d+)", number)
    if mixed:
      whole, top, bottom = map(int, mixed.groups())
      return whole + Fraction(top, bottom)
    power = _SCIENTIFIC.fullmatch(number)
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
  if text in ("%", "percent", "per cent"):
    return "%"
  if text[0] == "°":
    # What follows a degree sign otherwise is a term or another angle.
    scale = text[1:].strip()
    return "°" + scale if scale in ("", "C", "F", "K") else None
  joined = _POWERS.sub(r"^\1\2", _A.sub("per", _DOT.sub("", text)))
  joined = _RATIO.sub(
    lambda m: f"{m[1].strip()}/{'/'.join(m[2].split())}", joined
  )
  words = re.split(r"\s*(/|\\cdot\b|\*|\\times\b)\s*|\s+", joined)
  if not rest[0].isspace() and not _may_touch(words[0]):
    return None
  powers: dict[str, int] = {}
  sign, next_power = 1, 1
  for word in words:
    if word is None or word in ("/", "per", "*", "\\cdot", "\\times"):
      sign = -1 if word in ("/", "per") else sign
      continue
    unit, power = _one_unit(word)
    if not unit:
      return None
    if unit in ("sq", "cu"):  # Square metres: the power stands first.
      next_power = 2 if unit == "sq" else 3
      continue
    if unit != "unit":
      powers[unit] = powers.get(unit, 0) + sign * power * next_power
    sign, next_power = 1, 1
  return ".".join(
    unit if power == 1 else f"{unit}^{power}"
    for unit, power in sorted(powers.items())
  )


def _one_unit(word: str) -> tuple[str, int]:
  """Returns the name and power of a unit; the name is "" if it is none."""
  match = _UNIT_WORD.fullmatch(word)
  if match is None:
    return "", 0
  name, power = match[1] or match[2], match[3] or match[4]
  if len(name) == 1 and name not in _SINGLE_LETTER_UNITS | {*"$€£ΩÅ"}:
    return "", 0
  singular = _singular(name)
  unit = _SPELLING.get(name) or _SPELLING.get(singular)
  if unit is None and len(singular) > 2:
    unit = _SPELLING.get(singular.lower())
  if unit is None:
    # Counted things: apples, but neither variables nor words of mathematics.
    is_word = len(name) > 2 and not any(
      _NOT_UNITS.fullmatch(x) for x in (name, singular)
    )
    if not is_word or power or word.startswith("\\"):
      return "", 0
    unit = singular.lower()
  elif word.startswith("\\"):
    return "", 0
  return unit, int(power or 1)


def _singular(name: str) -> str:
  """Without the s of a plural; exact names such as ms are looked up first."""
  return name.removesuffix("s") if len(name) > 2 else name


def _may_touch(word: str) -> bool:
  """Whether a unit may follow its number without a space: 5cm, not 5m."""
  name = word.partition("^")[0]
  return len(name) > 1 and name in _UNITS and name not in _PRODUCTS
