# SPDX-License-Identifier: Apache-2.0
"""Takes lists, sets, intervals and matrices apart into texts."""

from __future__ import annotations

import re
from typing import NamedTuple

from srl_jax.rewards.tex import tidy

# What an equation gives a value: x, \alpha, x_{1}, f(x), f'.
NAME = re.compile(
  r"\\?[A-Za-z]+(?:\s*_\s*(?:\w|\{[^{}]*\}))?(?:\s*\([^()=]*\)|')?'*"
)


class Listing(NamedTuple):
  brackets: str
  elements: list[str]


_AND = re.compile(
  r"\s*(?:[,;]\s*(?:and|or)\b|[,;]|(?<![A-Za-z\\])(?:and|or)\b)\s*"
)
_PM = re.compile(r"\\pm(?![A-Za-z])")


def elements_of(text: str) -> Listing | None:
  """Returns the brackets around a list ("" if none) and its elements.

  None if text is no list: one element without brackets of a set.
  """
  inner, brackets = text, ""
  if text.startswith("\\{") and text.endswith("\\}"):
    inner, brackets = text[2:-2], "{}"
  elif text[0] in "([" and text[-1] in ")]":
    inner, brackets = text[1:-1], text[0] + text[-1]
  if brackets and not is_balanced(inner):
    inner, brackets = text, ""
  ordered = brackets not in ("", "{}")
  elements = parts_of(inner, words=not ordered)
  if not ordered:
    elements = [e for part in elements for e in _plus_and_minus(part)]
  if len(elements) > 1 or brackets == "{}":
    return Listing(brackets, elements)
  return None


def is_balanced(text: str) -> bool:
  depth = 0
  for c in text.replace("\\{", "(").replace("\\}", ")"):
    depth += (c in "([{") - (c in ")]}")
    if depth < 0:
      return False
  return depth == 0


_COMMA = re.compile(r"[,;]")
# Commas within numbers; in a list, if other separators stand between them.
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_OTHER = re.compile(r"[,;]\s|;|(?<![A-Za-z\\])(?:and|or)\b")


def parts_of(text: str, words: bool = True) -> list[str]:
  """Returns the elements of a list: between commas, "and" and "or"."""
  thousands = THOUSANDS.sub("", text)
  if thousands != text and _OTHER.search(thousands):
    text = thousands
  parts = [p.strip() for p in split_outside(text, _AND if words else _COMMA)]
  return parts if len(parts) == 1 else [p for p in parts if p] or [text]


def _plus_and_minus(text: str) -> list[str]:
  """Returns both values of 1 \\pm \\sqrt 2."""
  if len(_PM.findall(text)) != 1:
    return [text]
  return [_PM.sub(sign, text).strip() for sign in ("+", "-")]


def split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
  """Splits text where a separator stands outside of all brackets."""
  matches = list(separator.finditer(text))
  if not matches:
    return [text]
  parts, start, at, depth = [], 0, 0, 0
  for match in matches:
    for c in text[at : match.start()]:
      depth += (c in "([{") - (c in ")]}")
    at = match.start()
    if depth == 0:
      parts.append(text[start:at])
      start = match.end()
  return [*parts, text[start:]]


_LINE_END = re.compile(r"\n|\\\\(?:\[[^\]]*\])?|\\q?quad(?![A-Za-z])")
# Of a list, or of the columns of an alignment.
_MARK = re.compile(r"^\s*[-*+•>]\s+|&")
_ASSIGNMENT = re.compile(rf"({NAME.pattern})\s*=(?!=)\s*(.*)", re.DOTALL)


def assignments_of(text: str) -> list[tuple[str, str]]:
  """Returns names and values if each of several lines gives one, else []."""
  lines = [
    tidy(_MARK.sub("", line)).strip("*` ")
    for line in split_outside(text, _LINE_END)
  ]
  found = [_ASSIGNMENT.fullmatch(line) for line in lines if line]
  if len(found) < 2 or not all(found):
    return []
  return [(match[1], match[2]) for match in found]


_MATRIX = re.compile(
  r"\\begin\{([pbBvV]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(.*)"
  r"\\end\{\1\}",
  re.DOTALL,
)
# A row may end with the space below it, as in \\[0.5em].
_ROW_END = re.compile(r"\\\\(?:\[\s*-?[\d.]*\s*[a-z]{2}\s*\])?|\\cr\b")
_BRACKETED_MATRIX = re.compile(
  r"[(\[]\s*(\\begin\{(matrix|array)\}.*\})\s*[)\]]", re.DOTALL
)


def matrix_of(text: str) -> tuple[str, list[list[str]]] | None:
  """Returns the kind ("" or "v" of a determinant) and the rows."""
  bracketed = _BRACKETED_MATRIX.fullmatch(text)
  match = _MATRIX.fullmatch(bracketed[1] if bracketed else text)
  if match is None:
    return None
  kind = match[1][0].lower() if match[1][0] in "vV" else ""
  rows = _ROW_END.split(match[2])
  return kind, [
    [entry.strip() for entry in row.split("&")] for row in rows if row.strip()
  ]
