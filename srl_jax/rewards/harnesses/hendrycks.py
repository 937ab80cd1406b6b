# SPDX-License-Identifier: Apache-2.0
"""Spelling of TeX that harnesses took from MATH (Hendrycks et al. 2021)."""

from __future__ import annotations

import re

# Angles in degrees, which MATH's answers write or leave out.
_DEGREES = ("^{\\circ}", "^\\circ")


def last_box(text: str) -> str | None:
  """Returns the last \\boxed or \\fbox with its braces, or None.

  A box written "\\boxed 5" goes up to the next dollar sign.
  """
  if "\\boxed " in text:
    return "\\boxed " + text.split("\\boxed ")[-1].split("$")[0]
  start = text.rfind("\\boxed")
  if start < 0:
    start = text.rfind("\\fbox")
  if start < 0:
    return None
  depth = 0
  for i in range(start, len(text)):
    depth += {"{": 1, "}": -1}.get(text[i], 0)
    if text[i] == "}" and depth == 0:
      return text[start : i + 1]
  return None


def inside(box: str) -> str | None:
  """Returns what last_box found without the box; None of an \\fbox."""
  for left, right in (("\\boxed ", ""), ("\\boxed{", "}")):
    if left in box:
      if box.startswith(left) and box.endswith(right):
        return box[len(left) : len(box) - len(right)]
      return None
  return None


def brace_fractions(text: str) -> str:
  """Writes \\frac12 as \\frac{1}{2}; leaves text with a bare \\frac alone."""
  head, *parts = text.split("\\frac")
  for part in parts:
    if not part.startswith("{"):
      if len(part) < 2:
        return text
      rest = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
      part = f"{{{part[0]}}}{rest}"
    head += "\\frac" + part
  return head


def slash_fraction(text: str, keep_roots: bool) -> str:
  """Writes 1/2 as \\frac{1}{2}.

  Raises:
    ValueError: numerator or denominator is no whole number; with `keep_roots`
      it may also hold a root.
  """
  if text.count("/") != 1:
    return text
  a, b = (
    part if keep_roots and "sqrt" in part else str(int(part))
    for part in text.split("/")
  )
  return f"\\frac{{{a}}}{{{b}}}" if text == f"{a}/{b}" else text


def strip_degrees(text: str) -> str:
  """Drops the signs of degrees."""
  for sign in _DEGREES:
    text = text.replace(sign, "")
  return text


def drop_short_left_side(text: str) -> str:
  """Drops "k=" of an equation whose left side has one or two characters."""
  sides = text.split("=")
  return sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text


def spell(text: str) -> str:
  """Returns the spelling that lm-eval's AIME tasks compare.

  Raises:
    ValueError, IndexError: the text holds what the rules do not expect.
  """
  text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
  for size in ("tfrac", "dfrac"):
    text = text.replace(size, "frac")
  text = text.replace("\\left", "").replace("\\right", "")
  text = strip_degrees(text).replace("\\$", "")
  if text.count("\\text{ ") > 1:
    raise ValueError("two units")
  text = text.partition("\\text{ ")[0].replace("\\%", "")
  text = text.replace(" .", " 0.").replace("{.", "{0.")
  if not text:
    return text
  if text[0] == ".":
    text = "0" + text
  text = drop_short_left_side(text)
  if re.search(r"\\sqrt$|\\sqrt\\sqrt", text):
    raise IndexError("a root of nothing")
  text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
  if re.search(r"\\frac$|\\frac\\frac", text):
    raise IndexError("a fraction of nothing")
  text = brace_fractions(text)
  return slash_fraction(
    "\\frac{1}{2}" if text == "0.5" else text, keep_roots=False
  )
