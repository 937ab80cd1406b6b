# SPDX-License-Identifier: Apache-2.0
"""Whether two final answers are the same.

Numbers are compared as exact rationals: 0.5, 1/2, \\frac12, 50% and "0.50 cm"
are one number; 0.33 and 1/3 are not. Lists, tuples, intervals, matrices and
equations are taken apart here, so that brackets, order and left sides count
where they mean something. What is left is compared as text, in one spelling
of TeX, and then by the judge of expressions.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from srl_jax.rewards.equations import (
  RELATION,
  forms_of,
  has_letters,
  is_plain,
  may_drop,
  sides_of,
)
from srl_jax.rewards.expressions import same_expression
from srl_jax.rewards.parts import (
  NAME,
  assignments_of,
  elements_of,
  is_balanced,
  matrix_of,
  parts_of,
  split_outside,
)
from srl_jax.rewards.quantity import parse_quantity, same_quantity, split_unit
from srl_jax.rewards.tex import normalise, spell, tidy

# A model may write a thousand brackets; lists are taken apart by recursion.
_MAX_CHARS = 400
_MAX_ELEMENTS = 40
_MAX_WORDS = 6


def same_answer(candidate: str, reference: str) -> bool:
  """Returns whether two answers are the same (see the module docstring).

  Units count only where both sides have one. Lists without brackets and sets
  have no order. An equation stands for its right side where that is a number.
  """
  return _same(_unwrap(candidate), _unwrap(reference))


def _same(a: str, b: str) -> bool:
  if not a or not b:
    return False
  number_a, number_b = parse_quantity(a), parse_quantity(b)
  if number_a is not None and number_b is not None:
    return same_quantity(number_a, number_b)
  text_a, text_b = normalise(a), normalise(b)
  if text_a == text_b:
    return True
  if max(len(a), len(b)) > _MAX_CHARS or _is_prose(a) or _is_prose(b):
    return False
  for rule in _RULES:
    verdict = rule(a, b)
    if verdict is not None:
      return verdict
  a, b = spell(a), spell(b)
  # A term with variables is no number; models write many, the judge is slow.
  if number_a is not None and has_letters(b):
    return False
  if number_b is not None and has_letters(a):
    return False
  return same_expression(a, b)


_PROSE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def _is_prose(text: str) -> bool:
  """Whether text is a sentence, which is compared as text only."""
  return len(_PROSE_WORD.findall(text)) > _MAX_WORDS


def _unwrap(text: str) -> str:
  """Returns tidy text without bold marks, full stop and the like."""
  text = ", ".join(_equations(text)) or tidy(text).strip(" \n\t")
  if re.fullmatch(r"\d{1,3}(?: \d{3})+", text):
    text = text.replace(" ", "")
  while True:
    bare = text.rstrip(".,;: \n\t")
    if ".." in text[len(bare) :]:  # They stand for more digits or elements.
      bare = text
    for mark in ("**", "__", "*", "`"):
      inner = bare.removeprefix(mark).removesuffix(mark)
      if inner and len(bare) - len(inner) == 2 * len(mark):
        bare = inner
    if bare.endswith("\\"):  # It was the backslash of a space.
      bare = bare[:-1]
    if len(bare) <= _MAX_CHARS and _is_group(bare):
      bare = bare[1:-1]
    bare = bare.strip()
    if bare == text:
      return text
    text = bare


def _is_group(text: str) -> bool:
  """Whether one pair of TeX's braces is around all of a text."""
  return text[:1] == "{" and text[-1:] == "}" and is_balanced(text[1:-1])


_CHOICE = re.compile(
  r"(?:(?i:option|choice)\s*)?(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])"
  r"((?:[\s\d].*)?)"
  r"|(?i:option|choice)\s+([A-J])",
  re.DOTALL,
)
# After a first choice; "(D) Both (A) and (B)" is one, and so are "(D) P(A)" and
# "(D) angle A: 30".
_OTHER_CHOICE = re.compile(
  r"(?i:,|;|/|&|and\b|or\b)|(?!(?i:all|both|neither|none|only)\b)"
  r"(?:.*?(?<![A-Za-z\\(])(?:\(\s*)?[A-J]\s*\)"
  r"|(?:.*?[,;\n\d]\s*)?[A-J]\s*[.:])",
  re.DOTALL,
)
# After a letter that is a term; the sign of "(A) -3" is the number's.
_OPERATOR = re.compile(
  r"[-+]\s|[+*/^!=<>]|\\(?:times|cdot|div|pm|mp|leq|geq|neq)(?![A-Za-z])"
)


def _choice(a: str, b: str) -> bool | None:
  """Compares lettered choices: (D), D. 23, and 23 where that is the text."""
  choice_a, choice_b = _letter(a), _letter(b)
  if not choice_a and not choice_b:
    return None
  if choice_a and choice_b:
    (letter_a, text_a), (letter_b, text_b) = choice_a, choice_b
    if letter_a != letter_b:
      return False
    return not (text_a and text_b) or _same(_unwrap(text_a), _unwrap(text_b))
  (_, text), other = (choice_a, b) if choice_a else (choice_b, a)
  if not text:
    return None if len(other) > 1 else False
  return _same(_unwrap(text), other)


def _letter(text: str) -> tuple[str, str] | None:
  """Returns the letter and the text of a lettered choice."""
  if len(text) == 1 and "A" <= text <= "J":
    return text, ""
  match = _CHOICE.fullmatch(text)
  if match is None:
    return None
  rest = (match[3] or "").strip()
  if rest and (_OTHER_CHOICE.match(rest) or _OPERATOR.match(rest)):
    return None
  return match[1] or match[2] or match[4], rest


def _equations(text: str) -> list[str]:
  """Returns the equations of lines that each give a name its value, else [].

  They are a list and no chain. A line whose value the next one says in other
  words, as x = 2 + 3 before x = 5, is working and left out.
  """
  kept: list[tuple[str, str]] = []
  for name, value in assignments_of(text) if len(text) <= _MAX_CHARS else ():
    if kept and name == kept[-1][0] and _same(kept[-1][1], _unwrap(value)):
      del kept[-1]
    kept.append((name, _unwrap(value)))
  return [f"{name} = {value}" for name, value in kept]


def _equation(a: str, b: str) -> bool | None:
  """Compares equations, and an equation with what may be its right side."""
  if "=" not in a and "=" not in b:
    return None
  sides_a, sides_b = sides_of(a), sides_of(b)
  if sides_a is None or sides_b is None:
    return None
  if len(sides_a) > 1 and len(sides_b) > 1:
    ends_a, ends_b = (sides_a[0], sides_a[-1]), (sides_b[0], sides_b[-1])
    if all(map(_same, ends_a, ends_b)) or all(map(_same, ends_a, ends_b[::-1])):
      return True
    return same_expression(spell(a), spell(b)) if is_plain(a, b) else False
  if len(sides_a) > 1:
    return may_drop(sides_a) and _same(_unwrap(sides_a[-1]), b)
  if not NAME.fullmatch(sides_b[0]) or has_letters(sides_b[-1]):
    return False
  return _same(a, sides_b[-1])


def _approximation(a: str, b: str) -> bool | None:
  """Compares x \\approx y as x, and as the equation x = y."""
  forms_a, forms_b = forms_of(a), forms_of(b)
  if forms_a == [a] and forms_b == [b]:
    return None
  return any(_same(x, y) for x in forms_a for y in forms_b)


_MEMBER = re.compile(
  r"(?:\\?[A-Za-z]\w*|\([A-Za-z, ]+\))\s*\\in(?![A-Za-z])\s*"
)
_BUILDER = re.compile(
  r"\\\{\s*\\?[A-Za-z]\w*\s*(?:\\in\s*(?:\\mathbb\s*)?(?:\{R\}|R)\s*)?"
  r"[|:]\s*(.*)\\\}",
  re.DOTALL,
)


def _member(a: str, b: str) -> bool | None:
  """Compares sets of which an answer says "x in", or what holds in them."""
  built_a, built_b = _BUILDER.fullmatch(a), _BUILDER.fullmatch(b)
  if built_a or built_b:
    a, b = (m[1].strip() if m else x for m, x in ((built_a, a), (built_b, b)))
    return _same(a, b)
  bare_a, bare_b = _MEMBER.sub("", a, count=1), _MEMBER.sub("", b, count=1)
  if bare_a == a and bare_b == b:
    return None
  if bare_a != a and bare_b != b and a.split()[0] != b.split()[0]:
    name_a, name_b = a.partition("\\in")[0], b.partition("\\in")[0]
    if normalise(name_a) != normalise(name_b):
      return False
  return _same(bare_a, bare_b)


_UNION = re.compile(r"\\(?:big)?cup(?![A-Za-z])|(?<=[)\]}])\s*U\s*(?=[(\[\\{])")
# Commas are read as the words beside them.
_MAY_BE_UNION = re.compile(
  r"(?!.*(?<![A-Za-z\\])and\b).*(?<![A-Za-z\\])or\b", re.DOTALL
)


def _union(a: str, b: str) -> bool | None:
  """Compares unions of sets, in any order."""
  parts_a, parts_b = split_outside(a, _UNION), split_outside(b, _UNION)
  if len(parts_a) == len(parts_b) == 1:
    return None
  # The other may be "x < 2 or x > 3".
  if len(parts_a) == 1 and _MAY_BE_UNION.match(a):
    parts_a = parts_of(a)
  if len(parts_b) == 1 and _MAY_BE_UNION.match(b):
    parts_b = parts_of(b)
  if len(parts_a) == len(parts_b):
    return _same_bag([p.strip() for p in parts_a], [p.strip() for p in parts_b])
  # One of them may be an inequality.
  return None if RELATION.search(a + b) else False


def _lists(a: str, b: str) -> bool | None:
  """Compares lists, sets, tuples and intervals element by element.

  The comma of 58,500 is no list's.
  """
  list_a, list_b = (
    elements_of(x) if parse_quantity(x) is None else None for x in (a, b)
  )
  if list_a is None or list_b is None:
    one, other = (list_a, b) if list_a else (list_b, a)
    if one is None:
      return None
    if one.brackets in ("", "{}") and len(one.elements) == 1:
      return _same(one.elements[0], other)
    # An interval may be told by an inequality.
    return None if one.brackets not in ("", "{}") else False
  unordered = ("", "{}")
  if list_a.brackets in unordered and list_b.brackets in unordered:
    return _same_bag(list_a.elements, list_b.elements)
  if list_a.brackets != list_b.brackets:
    return False
  return len(list_a.elements) == len(list_b.elements) and all(
    map(_same, list_a.elements, list_b.elements)
  )


def _same_bag(a: list[str], b: list[str]) -> bool:
  """Whether two lists have the same elements, in any order."""
  if len(a) != len(b) or len(a) > _MAX_ELEMENTS:
    return False
  left = sorted(b, key=normalise)
  for element in sorted(a, key=normalise):
    found = next(
      (i for i, other in enumerate(left) if _same(element, other)), None
    )
    if found is None:
      return False
    del left[found]
  return True


def _matrices(a: str, b: str) -> bool | None:
  """Compares matrices entry by entry; determinants are not matrices."""
  matrix_a, matrix_b = matrix_of(a), matrix_of(b)
  if matrix_a is None and matrix_b is None:
    return None
  if "=" in a or "=" in b:
    return None
  if matrix_a is None or matrix_b is None or matrix_a[0] != matrix_b[0]:
    return False
  rows_a, rows_b = matrix_a[1], matrix_b[1]
  return [len(row) for row in rows_a] == [len(row) for row in rows_b] and all(
    _same(x, y)
    for row_a, row_b in zip(rows_a, rows_b, strict=True)
    for x, y in zip(row_a, row_b, strict=True)
  )


def _units(a: str, b: str) -> bool | None:
  """Compares terms with units, such as 12 \\pi cm."""
  (term_a, unit_a), (term_b, unit_b) = split_unit(a), split_unit(b)
  if not unit_a and not unit_b:
    return None
  if unit_a and unit_b and not _same("1 " + unit_a, "1 " + unit_b):
    return False
  return _same(_unwrap(term_a), _unwrap(term_b))


_Rule = Callable[[str, str], bool | None]
# The first that knows, in this order, decides.
_RULES: tuple[_Rule, ...] = (
  _choice,
  _matrices,
  _approximation,
  _member,
  _equation,
  _union,
  _lists,
  _units,
)
