# SPDX-License-Identifier: Apache-2.0
"""Finds the equations of a text and recomputes them.

A chain a + b = c = d is read link by link. A side counts up to where words or
marks end it: "so 48 + 24 = 72 clips" is 48 + 24 = 72. A side with a variable, a
root or a function has no value, and its links are left out; so are links
between different units (2 hours = 120 minutes) and between two bare numbers,
unless something was computed earlier in the chain.

Equal is: the exact values are equal; or one side is a number written with
decimals, and the other rounds to it; or the sign is one of approximation, and
they differ by less than one in the last digit written. A percent sign on one
side may stand for a hundredth or for nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from srl_jax.evaluate.arithmetic import (
  Side,
  Token,
  evaluate,
  tokens_of,
  unit_in,
)

_ARITHMETIC = frozenset(["number", "+", "-", "*", "/", "^", "(", ")", "%"])
_ARITHMETIC |= {"frac"}
# Words that compute: what stands beside them is a part of something.
_COMPUTING = re.compile(
  "mod|modulo|times|plus|minus|by|over|divided|multiplied|squared|cubed|log|ln"
  "|sin|cos|tan|cot|sec|sqrt|gcd|lcm|max|min|choose|exp",
  re.IGNORECASE,
)
# Words that are no unit of the number before them.
_LINKING = re.compile(
  "and|or|so|then|is|are|was|were|be|to|from|in|for|with|but|because|since"
  "|which|that|the|this|as|at|on|if|when|of",
  re.IGNORECASE,
)
_ARTICLES = frozenset(["a", "A", "I"])
# A name after one of these has its value for the sake of argument.
_SUPPOSING = re.compile(
  "if|when|for|cases?|let|suppose|assum(?:e|ing)|try(?:ing)?|at|where|with|say"
  "|consider|using|take|plugging|substituting",
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Equation:
  """One link of a chain of equations: left = right.

  Attributes:
    at: where its left side begins in the text.
    left: the left side.
    right: the right side.
    is_right: whether the two are equal, as the module's docstring defines it.
  """

  at: int
  left: Side
  right: Side
  is_right: bool


@dataclasses.dataclass(frozen=True)
class Statement:
  """A value that a text gives to a name.

  Attributes:
    at: where the name stands in the text.
    name: the name: a letter, perhaps with an index, or a Greek letter.
    value: its value.
    sentence: number of the sentence; a line is a sentence too.
  """

  at: int
  name: str
  value: Fraction
  sentence: int


@dataclasses.dataclass(frozen=True)
class Scan:
  """What a text computes.

  Attributes:
    equations: the equations whose two sides have values, in order.
    statements: the values that it gives to names, in order. "x = 3 + 4 = 7"
      gives x the value 7. A name that is supposed to have a value ("if x = 5",
      "case n = 2", "let") gets none.
    first_equality: where the first sign of equality stands; None without any.
  """

  equations: list[Equation]
  statements: list[Statement]
  first_equality: int | None


def scan(text: str) -> Scan:
  """Finds the equations and statements of a text, in linear time."""
  tokens = tokens_of(text)
  equations: list[Equation] = []
  statements: list[Statement] = []
  for clause, sentence in _clauses(tokens):
    sides, signs = _split(clause)
    equations += _links(sides, signs)
    statements += _statements(sides, signs, sentence)
  signs_at = (token.at for token in tokens if token.kind in ("=", "~"))
  return Scan(equations, statements, next(signs_at, None))


def _statements(
  sides: Sequence[Sequence[Token]], signs: Sequence[str], sentence: int
) -> list[Statement]:
  found = []
  # The value at the end of the chain that goes on from each side.
  value: Side | None = None
  for i in range(len(signs) - 1, -1, -1):
    side, head = sides[i], _head(sides[i + 1])
    if value is None or head is None or evaluate(sides[i + 1]) is None:
      value = head
    if value is not None and signs[i] == "=" and _ends_in_name(side):
      name = side[-1]
      found.append(Statement(name.at, name.text, value.value, sentence))
  return found[::-1]


def _clauses(tokens: Sequence[Token]) -> Iterator[tuple[list[Token], int]]:
  """Yields the clauses that hold an equality, and the number of the sentence.

  An equality at the beginning of a line goes on with the line before.
  """
  clause: list[Token] = []
  sentence = 0
  tokens = _without_breaks(tokens)
  tokens.append(Token("end", "", 0, False))
  for token, after in itertools.pairwise(tokens):
    if token.text == ":" and _is_ratio(clause, token, after):
      clause.append(token._replace(kind="other"))
    elif token.kind in ("end", ","):
      if any(t.kind in ("=", "~") for t in clause):
        yield clause, sentence
      clause = []
      sentence += token.kind == "end"
    else:
      clause.append(token)
  if any(t.kind in ("=", "~") for t in clause):
    yield clause, sentence


def _without_breaks(tokens: Sequence[Token]) -> list[Token]:
  """Returns the tokens without line breaks before signs of equality."""
  kept: list[Token] = []
  for token in reversed(tokens):
    is_break = token.text in ("\n", "\\\\")
    if not (is_break and kept and kept[-1].kind in ("=", "~")):
      kept.append(token)
  return kept[::-1]


def _is_ratio(clause, token: Token, after: Token) -> bool:
  """Whether a colon divides, as in 8 : 2; after "Step 1" it does not."""
  if not clause or clause[-1].kind != "number" or after.kind != "number":
    return False
  return token.is_glued == after.is_glued


def _split(clause: Sequence[Token]) -> tuple[list[list[Token]], list[str]]:
  """Returns the sides of a chain and the signs between them."""
  sides: list[list[Token]] = [[]]
  signs = []
  for token in clause:
    if token.kind in ("=", "~"):
      signs.append(token.kind)
      sides.append([])
    else:
      sides[-1].append(token)
  return sides, signs


def _links(
  sides: Sequence[Sequence[Token]], signs: Sequence[str]
) -> Iterator[Equation]:
  heads = [_head(side) if i else None for i, side in enumerate(sides)]
  tails = [_tail(side) for side in sides[:-1]]
  has_computed = False
  for i, sign in enumerate(signs):
    tail, right = tails[i], heads[i + 1]
    if tail is None or right is None:
      has_computed = False
      continue
    at, left = tail
    if i and left is not None and heads[i] != left:
      has_computed = False  # Words stand between: a chain of its own.
    has_computed |= not (left.is_bare and right.is_bare)
    if not i and left.is_bare and any(t.kind == "word" for t in sides[0][-1:]):
      continue  # The score of all 4 subjects = 80 + 90.
    if has_computed:
      is_right = _is_equal(left, right, sign)
      if is_right is not None:
        yield Equation(at, left, right, is_right)


def _head(side: Sequence[Token]) -> Side | None:
  """Returns the arithmetic at the beginning of a side."""
  end = 0
  depth = 0
  while end < len(side) and _belongs(side, end):
    kind = side[end].kind
    depth += (kind in "(") - (kind in ")")
    if depth < 0:
      return evaluate(side[:end])
    end += 1
  if end < len(side):
    stop = side[end]
    is_word = stop.kind == "word" and not stop.is_glued
    is_word &= not _COMPUTING.fullmatch(stop.text) and stop.text != "of"
    is_article = stop.text in _ARTICLES and not stop.is_glued
    if not (is_word or is_article):
      return None
    end += bool(end and is_word and _is_unit_word(stop))
  return evaluate(side[:end])


def _tail(side: Sequence[Token]) -> tuple[int, Side] | None:
  """Returns the arithmetic at the end of a side, and where it begins."""
  start = len(side)
  depth = 0
  while start and _belongs(side, start - 1):
    kind = side[start - 1].kind
    depth += (kind in ")") - (kind in "(")
    if depth < 0:
      break
    start -= 1
  if start == len(side):
    return None
  if start and not _may_precede(side[start - 1], side[start]):
    return None
  if depth < 0 and start > 1 and not _may_precede(side[start - 2], None):
    return None
  if start > 1 and side[start - 1].text == "and":
    is_part = [t.kind for t in side[start : start + 2]] == ["number", "/"]
    if is_part and side[start - 2].kind == "number":
      return None  # It is 1 and 1/4.
  if side[start].kind == "-" and start and not _is_sign(side, start):
    return None
  value = evaluate(side[start:])
  return None if value is None else (side[start].at, value)


def _is_unit_word(token: Token) -> bool:
  """Whether a word can be the unit of the number before it."""
  if _COMPUTING.fullmatch(token.text) or _LINKING.fullmatch(token.text):
    return False
  # 4xy is a product of variables, 4cm a length.
  return not token.is_glued or bool(unit_in(token.text))


def _belongs(side: Sequence[Token], i: int) -> bool:
  """Whether a token of a side can be part of its arithmetic."""
  token = side[i]
  if token.kind in _ARITHMETIC:
    return True
  if token.kind != "word" or not i:
    return False
  if token.text == "of":
    return side[i - 1].kind in ("%", ")") and i + 1 < len(side)
  before = side[i - 1]
  after = side[i + 1] if i + 1 < len(side) else None
  if before.kind == "/" or before.text == "per":
    return i > 1 and side[i - 2].kind == "word"
  if not _is_unit_word(token):
    return False
  if before.kind not in ("number", ")", "%"):
    return token.text == "per" and before.kind == "word"
  return (
    after is None
    or after.kind in ("+", "-", "*", "/", ")")
    or "per" in (token.text, after.text)
  )


def _may_precede(token: Token, first: Token | None) -> bool:
  """Whether arithmetic may begin after a token: after a word it may."""
  if first is not None and first.is_glued and token.kind in ("word", "name"):
    return False
  if token.kind == "(":
    return True
  if token.kind == "word":
    return not _COMPUTING.fullmatch(token.text)
  return token.text in _ARTICLES


def _is_sign(side: Sequence[Token], i: int) -> bool:
  """Whether a minus after a word is a sign: so -3 + 5, but not cats - 3 + 5."""
  return (
    i + 1 < len(side) and side[i + 1].is_glued and not side[i].is_glued
  ) or side[i - 1].kind == "("


def _ends_in_name(side: Sequence[Token]) -> bool:
  if not side or side[-1].kind != "name" or side[-1].text in ("I", "A"):
    return False
  words = (token.text for token in side[:-1] if token.kind == "word")
  if any(map(_SUPPOSING.fullmatch, words)):
    return False
  return len(side) == 1 or (
    side[-2].kind == "word"
    and not side[-1].is_glued
    and not _COMPUTING.fullmatch(side[-2].text)
  )


def _is_equal(left: Side, right: Side, sign: str) -> bool | None:
  """Whether two sides are equal; None if that cannot be said."""
  if left.units and right.units:
    if not (left.units <= right.units or right.units <= left.units):
      return None
  elif "cent" in left.units | right.units:
    return None  # Dollars may be meant.
  if sign == "~" and not (left.is_bare or right.is_bare):
    return None
  shown = [_times_100(x) if x.is_percent else x for x in (left, right)]
  if _rounds(*shown, sign):
    return True
  if left.is_percent == right.is_percent:
    return False
  return _rounds(*map(_times_100, (left, right)), sign)


def _times_100(side: Side) -> Side:
  """A side in percent; the digits of a percentage stand as they are."""
  scale = 1 if side.is_percent else 100
  return dataclasses.replace(
    side, value=100 * side.value, last_digit=scale * side.last_digit
  )


def _rounds(left: Side, right: Side, sign: str) -> bool:
  apart = abs(left.value - right.value)
  if not apart:
    return True
  if sign == "~":
    return apart < max(_uncertain(x) for x in (left, right))
  return any(2 * apart <= x.last_digit for x in (left, right) if x.is_rounded)


def _uncertain(side: Side) -> Fraction:
  """One in the last digit of a bare number; about 1200 may be 1234."""
  unit = side.last_digit
  while unit >= 1 and side.value and side.value % (unit * 10) == 0:
    unit *= 10
  return unit
