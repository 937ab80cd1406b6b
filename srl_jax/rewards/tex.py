# SPDX-License-Identifier: Apache-2.0
"""TeX as people and models write it, in one spelling.

tidy       text without fences, spacing, sizes and fonts
normalise  the form in which answers are compared as text
spell      the form that the judge of expressions.py reads
"""

from __future__ import annotations

import re
import unicodedata

# Not the second backslash of a line break in a matrix.
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:!> ]|q?quad(?![A-Za-z]))|~")
_DIGIT_GROUP = re.compile(
  r"(?<=\d)(?:\\[,!; ]|\{,\}|\{\\,\}|[\u2009\u202f\u00a0])(?=\d{3}(?!\d))"
)
# The argument may hold groups, as m/s^{2} does.
_TEXT = re.compile(
  r"\\(?:text|text(?:bf|it|rm|sf|tt|normal)|math(?:rm|bf|it|sf|normal)|bm"
  r"|boldsymbol|mbox|hbox|operatorname\*?)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
# The sign of a millionth, before the upright name of a unit.
_MICRO = re.compile(r"\\mu\s*(\\(?:text|mathrm)\s*\{)\s*")
_UNICODE = {
  "−": "-",
  "–": "-",
  "⁄": "/",
  "÷": "/",
  "×": "\\times ",
  "·": "\\cdot ",
  "⋅": "\\cdot ",
  "π": "\\pi ",
  "θ": "\\theta ",
  "∞": "\\infty ",
  "∪": "\\cup ",
  "∈": "\\in ",
  "≤": "\\leq ",
  "≥": "\\geq ",
  "≠": "\\neq ",
  "±": "\\pm ",
  "∅": "\\emptyset ",
  "…": "...",
  "º": "°",
  "℃": "°C",
  "℉": "°F",
  "µ": "μ",
  "\u2126": "Ω",
  "\u212b": "Å",
  "\u00a0": " ",
  "\u2009": " ",
  "\u202f": " ",
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\w+))")


def _word(pattern: str) -> re.Pattern[str]:
  return re.compile(rf"\\(?:{pattern})(?![A-Za-z])")


_TIDY = (
  (re.compile(r"\\(?:left|right)(?![A-Za-z])\s*\.?"), ""),
  (_word("[Bb]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits"), ""),
  (_word("mathstrut|strut|nonumber|bf|rm|it"), ""),
  (_word("[dtc]frac|nicefrac|sfrac"), r"\\frac"),
  (_word("lbrace"), r"\\{"),
  (_word("rbrace"), r"\\}"),
  (_word("lbrack"), "["),
  (_word("rbrack"), "]"),
  (_word("lparen"), "("),
  (_word("rparen"), ")"),
  (_word("[lr]vert|vert|mid"), "|"),
  (_word("le|leqslant"), r"\\leq"),
  (_word("ge|geqslant"), r"\\geq"),
  (_word("lt"), "<"),
  (_word("gt"), ">"),
  (re.compile(r"\\not\s*=|\\ne(?![A-Za-z])"), r"\\neq "),
  (re.compile(r"\\not\s*\\"), r"\\not"),
  (re.compile(r"\\\{\s*\\\}|\\varnothing(?![A-Za-z])"), r"\\emptyset "),
  (_word("[lc]?dots"), "..."),
  (re.compile(r"(?<=[\d.])\\bar(?![A-Za-z])"), r"\\overline"),
  (_word("land|wedge"), r" and "),
  (_word("lor|vee"), r" or "),
  (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))"), "°"),
  (_word("degree|textdegree"), "°"),
  (_word("AA|angstrom"), "Å"),
  (re.compile(r"\\\$"), "\0"),
  (re.compile(r"\$|\\[()]|(?<!\\)\\[\[\]]"), ""),
  (re.compile("\0"), "$"),
  (re.compile(r"\\([%#&_])"), r"\1"),
)


def tidy(text: str) -> str:
  """Returns text without maths fences, TeX spacing, sizes and fonts.

  Dollar signs that fence maths go; an escaped one means money and stays.
  """
  if not text.isascii():
    text = _to_ascii(text)
  if "\\" in text or "~" in text or "{" in text:
    text = re.sub(r",\\!\s*", ",", text)
    text = _DIGIT_GROUP.sub("", text)
    text = _SPACING.sub(" ", text)
    text = _MICRO.sub(r"\1μ", text)
    text = _TEXT.sub(r" \1 ", text)
    for pattern, replacement in _TIDY:
      text = pattern.sub(replacement, text)
  else:
    text = text.replace("$", "")
  return text.strip()


def _to_ascii(text: str) -> str:
  """Returns text with TeX for signs, and digits of other scripts as ours."""
  text = re.sub(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}(?!\d))", "", text)
  text = _SUPERSCRIPT.sub(
    lambda run: "^{" + run[0].translate(_SUPERSCRIPTS) + "}", text
  )
  text = _ROOT.sub(lambda root: f"\\sqrt{{{root[1] or root[2]}}}", text)
  characters = []
  for c in text:
    if c in _UNICODE:
      c = _UNICODE[c]
    elif unicodedata.category(c) == "Nd":
      c = str(unicodedata.digit(c))
    elif "\uff01" <= c <= "\uff5e":  # Full width, as in Chinese text.
      c = chr(ord(c) - 0xFEE0)
    elif unicodedata.category(c) == "No":  # Such as a half.
      c = unicodedata.normalize("NFKC", c).replace("\u2044", "/")
      if "/" in c and characters and characters[-1][-1:].isdigit():
        c = f" {c}"  # One and a half, and not eleven halves.
    characters.append(c)
  return "".join(characters)


# Commands whose arguments may stand without braces, and how many they take.
_ARGUMENTS = re.compile(r"\\frac(?![A-Za-z])|\\sqrt(?![A-Za-z])|[\^_]")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
# Deeper text is no answer, and taken apart by recursion.
_MAX_DEPTH = 20


def brace(text: str, depth: int = 0) -> str:
  """Returns TeX with braces around every argument: \\frac12, x^2, \\sqrt 2."""
  parts = []
  at = 0
  for match in _ARGUMENTS.finditer(text):
    if match.start() < at or depth > _MAX_DEPTH:
      continue
    parts.append(text[at : match.start()] + match.group())
    at = match.end()
    if match.group() == "\\sqrt":
      root = re.compile(r"\s*(\[[^\[\]]*\])").match(text, at)
      if root:
        parts.append(root[1])
        at = root.end()
    for _ in range(2 if match.group() == "\\frac" else 1):
      argument, at = _argument(text, at)
      parts.append("{" + brace(argument, depth + 1).strip() + "}")
  return "".join(parts) + text[at:]


def _argument(text: str, at: int) -> tuple[str, int]:
  """Returns the argument that begins at a position, and where it ends."""
  while at < len(text) and text[at].isspace():
    at += 1
  if not text.startswith("{", at):
    token = _TOKEN.match(text, at)
    return (token[0], token.end()) if token else ("", at)
  depth = 0
  for token in _TOKEN.finditer(text, at):
    depth += (token[0] == "{") - (token[0] == "}")
    if not depth:
      return text[at + 1 : token.start()], token.end()
  return text[at + 1 :], len(text)


_SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
# Words have three letters, one of them a vowel: mgh and Mgh are products, aabb
# and Aabb are genotypes. "NO" is a word if it is all of the answer.
_WORDS = re.compile(
  r"\b(?:[Nn]o|(?<!.)NO(?!.*\w)|(?=\w*[AEIOUYaeiouy])(?!(?i:(?:(\w)\1)+)\b)"
  r"(?:[A-Z]?[a-z]{2,}|[A-Z]{3,}))\b"
)


def normalise(text: str) -> str:
  """Returns the form in which answers that are no numbers are compared.

  Spaces go, arguments get their braces, and words of an answer in words lose
  their capitals.
  """
  text = tidy(text)
  if re.fullmatch(r"[A-Za-z\s'.-]+", text):
    text = _WORDS.sub(lambda word: word[0].lower(), text)
  text = brace(text).replace("^{\\prime}", "'")
  return _SPACES.sub("", text).removeprefix("+")


_FUNCTIONS = re.compile(
  r"(?<![A-Za-z\\])(?:(?:np|math|sympy)\.)?"
  r"(arc(?:sin|cos|tan)|a(?:sin|cos|tan)|sinh|cosh|tanh|sin|cos|tan|cot|sec"
  r"|csc|exp|log|ln|sqrt|pi)(?![A-Za-z])"
)

# Alone, as 1e-8: within a term e is a number itself.
_E_NOTATION = re.compile(r"([-+]?[\d.,]+)[eE]([-+]?\d+)")


def spell(text: str) -> str:
  """Returns TeX for the judge: braces everywhere, functions as commands."""
  if _E_NOTATION.fullmatch(text):
    text = _E_NOTATION.sub(r"\1\\cdot 10^{\2}", text)
  text = _FUNCTIONS.sub(
    lambda m: "\\" + re.sub("^a(?=sin|cos|tan)", "arc", m[1]) + " ", text
  )
  text = text.replace("**", "^").replace("*", "\\cdot ").replace("$", " ")
  text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
  return brace(text)
