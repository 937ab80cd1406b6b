# SPDX-License-Identifier: Apache-2.0
"""Finds the final answer in a solution and compares it with the reference.

Numbers are compared as exact rationals: 0.5, 1/2, \\frac12, 50% and "0.50 cm"
are one number; 0.33 and 1/3 are not. Everything else is compared as text after
a normalisation that knows common LaTeX habits. There is no algebra: x+1 and
1+x differ.

  extract_answers   solution text -> candidate answers, most explicit first
  same_answer       candidate, reference -> bool
  answer_reward     solution text, reference -> 1.0 or 0.0
"""

from __future__ import annotations

import re

from srl_jax.rewards.format import split_lenient
from srl_jax.rewards.quantity import NUMBER, parse_quantity, same_quantity

_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
# An escaped brace is a set bracket, not a group; it is matched to be skipped.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*(\S.*)")
_ANSWER_IS = re.compile(
  r"\banswer\b[\s:*]{0,9}(?:is|=|:)[\s:*]{0,9}(?=\S)", re.IGNORECASE
)
# A model may write a thousand brackets; lists are taken apart by recursion.
_MAX_LIST_CHARS = 300
_SENTENCE_END = re.compile(r"[.;](?:\s|$)")


def answer_reward(text: str, reference: str) -> float:
  """Returns 1.0 if the solution's final answer is the reference, else 0.0.

  Think blocks are dropped first. If the answer is not marked, either the last
  line or the last number may be it.
  """
  answers = extract_answers(split_lenient(text).action)
  return float(any(same_answer(answer, reference) for answer in answers))


def extract_answers(text: str) -> list[str]:
  """Returns what may be the final answer, by the first rule that applies.

  1. the last \\boxed{..} that closes; 2. the last "#### ..", to the end of its
  line; 3. after the last "answer is", "answer:" or "answer =": the line, its
  first sentence, or its first number; 4. the last line or the last number.
  """
  boxed = last_boxed(text)
  if boxed is not None:
    return [boxed]
  hashes = _HASHES.findall(text)
  if hashes:
    return [hashes[-1].strip()]
  marks = list(_ANSWER_IS.finditer(text))
  if marks:
    line = tidy(text[marks[-1].end() :].partition("\n")[0])
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    return [line, sentence, *NUMBER.findall(line)[:1]]
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  for line in reversed(lines):
    numbers = NUMBER.findall(tidy(line))
    if numbers:
      return [lines[-1], numbers[-1]]
  return lines[-1:]


def last_boxed(text: str) -> str | None:
  """Returns the inside of the last \\boxed{..} that closes, or None."""
  inner_starts = {match.end() for match in _BOXED.finditer(text)}
  if not inner_starts:
    return None
  opened: list[int] = []
  start, end = -1, -1
  for brace in _BRACE.finditer(text):
    if brace.group() == "{":
      opened.append(brace.end())
    elif brace.group() == "}" and opened:
      inner = opened.pop()
      if inner in inner_starts and inner > start:
        start, end = inner, brace.start()
  return None if start < 0 else text[start:end]


def same_answer(candidate: str, reference: str) -> bool:
  """Returns whether two answers are the same (see the module docstring).

  Units count only where both sides have one. Lists such as (1, \\frac12) are
  compared element by element, brackets included.
  """
  a, b = _unwrap(candidate), _unwrap(reference)
  if not a or not b:
    return False
  number_a, number_b = parse_quantity(a), parse_quantity(b)
  if number_a is not None and number_b is not None:
    return same_quantity(number_a, number_b)
  if max(len(a), len(b)) > _MAX_LIST_CHARS:
    return normalise(a) == normalise(b)
  (brackets_a, list_a), (brackets_b, list_b) = _elements(a), _elements(b)
  if brackets_a == "()" and len(list_a) == 1:  # multiple choice: (A)
    return same_answer(list_a[0], b)
  if brackets_b == "()" and len(list_b) == 1:
    return same_answer(a, list_b[0])
  if len(list_a) == len(list_b) > 1:
    same = all(map(same_answer, list_a, list_b))
    return same and brackets_a == brackets_b
  return normalise(a) == normalise(b)


_SPACING = re.compile(r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~")
_DIGIT_GROUP = re.compile(r"(?<=\d)(?:\\[,!]|\{,\})(?=\d{3}(?!\d))")
_TEXT = re.compile(
  r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_TIDY = (
  (re.compile(r"\\(?:left|right)(?![A-Za-z])\.?"), ""),
  (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
  (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree"), "°"),
  (re.compile("[−–]"), "-"),
  (re.compile(r"\\?\$|\\[()\[\]]"), ""),
  (re.compile(r"\\%"), "%"),
)


def tidy(text: str) -> str:
  """Returns text without maths fences, LaTeX spacing, sizes and fonts.

  Dollar signs go too, whether they fence maths or mean money.
  """
  text = text.replace(",\\!", ",")
  text = _DIGIT_GROUP.sub("", text)
  text = _SPACING.sub(" ", text)
  text = _TEXT.sub(r" \1 ", text)
  for pattern, replacement in _TIDY:
    text = pattern.sub(replacement, text)
  return text.strip()


_ASSIGNMENT = re.compile(r"\\?[A-Za-z]+(?:_\w|_\{\w+\})?\s*=([^=<>]+)")


def _unwrap(text: str) -> str:
  """Returns tidy text without bold marks, full stop and a leading "x =" ."""
  text = tidy(text).rstrip(".,;: ")
  text = text.removeprefix("**").removesuffix("**").rstrip(".,;: ").lstrip()
  assignment = _ASSIGNMENT.fullmatch(text)
  return assignment.group(1).strip() if assignment else text


def _elements(text: str) -> tuple[str, list[str]]:
  """Returns the brackets around a list ("" if none), and its elements."""
  text = text.replace("\\{", "{").replace("\\}", "}")
  if text[0] in "([{" and text[-1] in ")]}":
    elements = _split_at_commas(text[1:-1])
    if elements is not None:
      return text[0] + text[-1], elements
  return "", _split_at_commas(text) or [text]


def _split_at_commas(text: str) -> list[str] | None:
  """Returns the parts between commas outside brackets.

  None if a bracket closes that did not open, as within (1,2),(3,4).
  """
  parts = [""]
  depth = 0
  for c in text:
    depth += (c in "([{") - (c in ")]}")
    if depth < 0:
      return None
    if c == "," and not depth:
      parts.append("")
    else:
      parts[-1] += c
  return parts


_SHORT_FRACTION = re.compile(
  r"\\frac\s*(\d|[A-Za-z]|\{[^{}]*\})\s*(\w|\{[^{}]*\})"
)
_ATOM = re.compile(r"\\?\w+|[\d.]+")
_BRACED_CHARACTER = re.compile(r"(\^|_|\\sqrt)\{(\w)\}")


def _slash(match: re.Match[str]) -> str:
  parts = [part.strip("{} ") for part in match.groups()]
  return "/".join(p if _ATOM.fullmatch(p) else f"({p})" for p in parts)


def normalise(text: str) -> str:
  """Returns the form in which answers that are no numbers are compared.

  Spaces go, x^{2} becomes x^2, \\frac{a}{b} becomes a/b, \\frac12 becomes 1/2,
  and an answer in words loses its capitals.
  """
  text = tidy(text)
  if re.fullmatch(r"[A-Za-z\s'-]+", text) and len(text) > 1:
    text = text.lower()
  text = _SHORT_FRACTION.sub(_slash, text)
  text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
  return _BRACED_CHARACTER.sub(r"\1\2", text)
