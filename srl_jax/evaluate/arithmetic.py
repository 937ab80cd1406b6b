# SPDX-License-Identifier: Apache-2.0
"""Reads and evaluates arithmetic: a tokeniser and a parser of one side.

  tokens_of  text -> tokens of numbers, operators, words and marks
  Side       the value of a run of tokens, and how precisely it is written

Understood are + - * / ^ with brackets and braces, \\times, \\cdot, \\div and
\\frac, x between numbers, "20% of 50", commas of thousands, percent, currency
and units. Roots, factorials, functions and variables are not: whatever has
them has no value here. equations.py finds the equations of a text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from srl_jax.rewards.quantity import is_unit


class Token(NamedTuple):
  """A piece of text.

  Attributes:
    kind: "number"; "word" or "name" (what can be a variable); "=" or "~"
      (equal, about equal); an operator of "+-*/^", "(", ")", "%", "frac";
      "end" (of a sentence or line), "," (a mark within it), or "other".
    text: the piece itself.
    at: where it begins.
    is_glued: whether it touches the token before it.
  """

  kind: str
  text: str
  at: int
  is_glued: bool


# Every repetition is bounded, or no other alternative can match its text again.
_TOKEN = re.compile(
  r"""
  (?P<word>[^\W\d_]{2,}(?:[²³]|\^\{?\d\}?(?!\d))?)
  |(?P<space>[ \t\r]+)
  |(?P<tag></?[a-z]{1,20}>)
  |(?P<endless>\d{1,30}(?:\.\d{0,30})?
    (?:\.\.\.|…|\\(?:overline|bar|dot|l?dots)(?![A-Za-z])))
  |(?P<number>[1-9]\d{0,2}(?:(?:,(?:\\!)?|\{,\}|\\,)\d{3}){1,6}(?![\d,]\d)(?!\d)
    (?:\.\d+)?)
  |(?P<list>\d{1,30}(?:,\d{1,30}){1,20}|0\d{1,30}(?!\.))
  |(?P<decimal>\d+(?:\.\d+)?|\.\d+)
  |(?P<skip>[&~$£€]|\\[,;:!>\ $()]|\\q?quad(?![A-Za-z])
    |\\(?:left|right|[Bb]igg?[lr]?|displaystyle|boxed)(?![A-Za-z])
    |\^\s?\{?\\circ\}?|°|\*\*(?![\d(])|(?<![\d)])\*\*)
  |(?P<times>(?<=\d)[xX](?=\d)|(?<=\d[ ])[xX](?=[ ][\d($.])
    |\\(?:times|cdot|ast)(?![A-Za-z])|\*(?!\*)|[×·⋅])
  |(?P<power>\^|\*\*)
  |(?P<divide>\\div(?![A-Za-z])|/|[÷⁄])
  |(?P<plus>\+)
  |(?P<minus>-|[−–])
  |(?P<about>\\(?:approx|simeq)(?![A-Za-z])|[≈≃])
  |(?P<relation>[<>≤≥≠⇒→]|[!:=]=|=>|\\(?:leq?|geq?|neq?|lt|gt|implies|iff
    |[Rr]ightarrow|to|therefore|because)(?![A-Za-z]))
  |(?P<equals>(?<![<>!:=~])=(?![=>]))
  |(?P<percent>\\?%)
  |(?P<frac>\\[dtc]?frac(?![A-Za-z]))
  |(?P<open>[({])
  |(?P<close>[)}])
  |(?P<text>\\(?:text|mbox|math(?:rm|bf|it))\s?\{[^{}\n]{0,60}\})
  |(?P<end>\\\\|\\[\[\]]|[\n.;?!]|[。；？！])
  |(?P<mark>[,:"'`|]|[，：])
  |(?P<name>(?:\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega)
      (?![A-Za-z])|[A-Za-z](?![A-Za-z]))
    \d{0,3}'{0,3}(?:_(?:\{[^{}\n]{0,30}\}|\w))?(?:\^\{?\d\}?(?!\d)|[²³])?)
  |(?P<other>\\[A-Za-z]+|.)
  """,
  re.VERBOSE | re.DOTALL,
)
_KINDS = {
  "times": "*",
  "power": "^",
  "divide": "/",
  "plus": "+",
  "minus": "-",
  "about": "~",
  "equals": "=",
  "percent": "%",
  "open": "(",
  "close": ")",
  "text": "word",
  "tag": "end",
  "relation": ",",
  "mark": ",",
  "decimal": "number",
  "endless": "other",
  "list": "other",
}
# Longer numbers are no arithmetic of a solution.
_MAX_DIGITS = 30
_BULLET = re.compile(r"(?m)^[ \t]{0,8}(?:\d{1,3}[.)]|[-*+•])[ \t]+")


def tokens_of(text: str) -> list[Token]:
  """Returns the tokens of a text; bullets and numbers of a list are ends."""
  bullets = {match.start(): match.end() for match in _BULLET.finditer(text)}
  tokens = []
  at = last_end = 0
  while at < len(text):
    if at in bullets:
      tokens.append(Token("end", "", at, False))
      at = bullets[at]
      continue
    match = _TOKEN.match(text, at)
    assert match is not None  # The last alternative matches anything.
    group, piece = match.lastgroup or "other", match[0]
    if group not in ("skip", "space"):
      kind = _KINDS.get(group, group)
      if kind == "number" and len(piece) > _MAX_DIGITS:
        kind = "other"
      tokens.append(Token(kind, piece, at, at == last_end))
      last_end = match.end()
    at = match.end()
  return tokens


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of an equation.

  Attributes:
    value: its value.
    is_bare: whether it is a number alone, with no operation; 3.1 * 10^5 is one.
    last_digit: what one in the last written digit of a bare number is worth; 0
      if the side is not bare.
    is_rounded: whether a bare number has decimals or a power of ten, so that it
      may have been rounded.
    is_percent: whether a bare number has a percent sign.
    numbers: the numbers in it.
    units: units in it that are known, in the singular.
    text: its tokens, joined by spaces.
  """

  value: Fraction
  is_bare: bool
  last_digit: Fraction
  is_rounded: bool
  is_percent: bool
  numbers: tuple[Fraction, ...]
  units: frozenset[str]
  text: str


class NotArithmetic(ValueError):  # noqa: N818 - an outcome, not an error.
  """Tokens have no value: something in them is not understood."""


_MAX_TOKENS = 200
_MAX_DEPTH = 20
_MAX_EXPONENT = 64
_MAX_BITS = 2000
_OTHER_UNITS = re.compile(
  "day|week|month|year|hour|minute|second|dozen|cent|dollar|euro|percent"
  "|gallon|quart|pint|cup"
)


def unit_in(word: str) -> str:
  """Returns the unit that a word is, in the singular; "" if it is none."""
  bare = re.sub(r"^\\[a-z]+\s?\{|\}$", "", word).strip(" ~")
  bare = bare if len(bare) < 4 else bare.lower().removesuffix("s")
  return bare if _OTHER_UNITS.fullmatch(bare) or is_unit(bare) else ""


def evaluate(tokens: Sequence[Token]) -> Side | None:
  """Returns the side that tokens make; None if they have no value."""
  if not tokens or len(tokens) > _MAX_TOKENS:
    return None
  parser = _Parser(tokens)
  try:
    value = parser.sum(0)
    if parser.at < len(tokens):
      return None
  except (NotArithmetic, ZeroDivisionError):
    return None
  numbers = [token.text for token in tokens if token.kind == "number"]
  is_scientific = _is_scientific(tokens)
  is_bare = is_scientific or (not parser.operations and len(numbers) == 1)
  last_digit = Fraction(0)
  if is_bare:
    last_digit = Fraction(1, 10 ** len(numbers[0].partition(".")[2]))
  if is_scientific:
    last_digit *= value / parser.numbers[0]
  return Side(
    value,
    is_bare,
    abs(last_digit),
    is_scientific or (is_bare and "." in numbers[0]),
    is_bare and any(token.kind == "%" for token in tokens),
    tuple(parser.numbers),
    frozenset(parser.units),
    " ".join(token.text for token in tokens),
  )


def _is_scientific(tokens: Sequence[Token]) -> bool:
  """Whether tokens are a number such as 3.1 * 10^{-5}, perhaps with a unit."""
  kept = [t for t in tokens if t.kind not in ("(", ")", "-", "word")]
  kinds = [t.kind for t in kept]
  return (
    kinds == ["number", "*", "number", "^", "number"]
    and kept[2].text == "10"
    and kept[0].text.strip("0.") != ""
  )


class _Parser:
  """Recursive descent over the tokens of one side.

  Attributes:
    at: index of the next token.
    operations: number of operations so far.
    numbers: values of the numbers so far.
    units: known units so far.
  """

  def __init__(self, tokens: Sequence[Token]):
    self._tokens = tokens
    self.at = 0
    self.operations = 0
    self.numbers: list[Fraction] = []
    self.units: set[str] = set()

  def _kind(self, ahead: int = 0) -> str:
    place = self.at + ahead
    return self._tokens[place].kind if place < len(self._tokens) else ""

  def _take(self, kind: str) -> Token:
    if self._kind() != kind:
      raise NotArithmetic(kind)
    self.at += 1
    return self._tokens[self.at - 1]

  def sum(self, depth: int) -> Fraction:
    """A sum of products."""
    if depth > _MAX_DEPTH:
      raise NotArithmetic("too deep")
    before = len(self.units)
    value = self._product(depth)
    is_sum = False
    while self._kind() in ("+", "-"):
      is_sum = True
      sign = 1 if self._take(self._kind()).kind == "+" else -1
      self.operations += 1
      value = _small(value + sign * self._product(depth))
    if is_sum and len(self.units) - before > 1:
      raise NotArithmetic("hours and minutes are not added")
    return value

  def _product(self, depth: int) -> Fraction:
    value = self._signed(depth)
    while True:
      kind = self._kind()
      is_of = kind == "word" and self._tokens[self.at].text == "of"
      if kind in ("*", "/") or is_of:
        self.at += 1
        factor = self._signed(depth)
        value = value / factor if kind == "/" else value * factor
      elif kind == "(" and self._tokens[self.at - 1].kind != "word":
        value *= self._power(depth)
      else:
        return value
      value = _small(value)
      self.operations += 1

  def _signed(self, depth: int) -> Fraction:
    if self._kind() == "-" and self._kind(1) in ("number", "(", "frac"):
      self.at += 1
      return -self._power(depth)
    return self._power(depth)

  def _power(self, depth: int) -> Fraction:
    value = self._atom(depth)
    if self._kind() != "^":
      return value
    self.at += 1
    self.operations += 1
    exponent = self._signed(depth)
    if exponent.denominator != 1 or abs(exponent) > _MAX_EXPONENT:
      raise NotArithmetic("a root or a large power")
    return _small(value ** int(exponent))

  def _atom(self, depth: int) -> Fraction:
    if self._kind() == "(":
      self.at += 1
      value = self.sum(depth + 1)
      self._take(")")
    elif self._kind() == "frac":
      value = self._fraction(depth)
    else:
      value = _number(self._take("number").text)
      if self._kind() == "frac":
        # A mixed number such as 1 1/2; of anything else the sense is unclear.
        part = self._fraction(depth)
        if not 0 < part < 1:
          raise NotArithmetic("a number times a fraction without a sign")
        value += part
      self.numbers.append(value)
    if self._kind() == "%":
      self.at += 1
      value /= 100
    self._unit()
    return value

  def _fraction(self, depth: int) -> Fraction:
    self._take("frac")
    parts = []
    if self._kind() == "number":  # \frac12
      digits = self._take("number").text
      if len(digits) != 2 or not digits.isdecimal():
        raise NotArithmetic("a fraction without braces")
      parts = [Fraction(digits[0]), Fraction(digits[1])]
      self.numbers += parts
    while len(parts) < 2:
      self._take("(")
      parts.append(self.sum(depth + 1))
      self._take(")")
    self.operations += 1
    return parts[0] / parts[1]

  def _unit(self) -> None:
    """Reads the words after a number: apples, cm, dollars per hour, km/h."""
    while self._kind() == "word" and self._tokens[self.at].text != "of":
      word = self._take("word").text
      if unit_in(word):
        self.units.add(unit_in(word))
      if self._kind() == "/" and self._kind(1) == "word":
        self.at += 1


def _small(value: Fraction) -> Fraction:
  if max(value.numerator.bit_length(), value.denominator.bit_length()) > (
    _MAX_BITS
  ):
    raise NotArithmetic("too large")
  return value


def _number(text: str) -> Fraction:
  return Fraction(re.sub(r"[,{}!\\]", "", text))
