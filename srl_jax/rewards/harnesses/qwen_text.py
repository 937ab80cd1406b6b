# SPDX-License-Identifier: Apache-2.0
"""How Qwen2.5-Math's evaluation finds an answer in a text and spells it."""

from __future__ import annotations

import re

from srl_jax.rewards.harnesses import hendrycks


def extract(text: str, keeps_units: bool) -> str:
  """Returns the final answer of a solution, spelt by `strip`.

  It stands between "final answer is $" and "$. I hope", in the last box, which
  need not close, after the last "he answer is" or "final answer is", or it is
  the last number.
  """
  text = text.replace("\u043a\u0438", "")
  if "final answer is $" in text and "$. I hope" in text:
    found = text.split("final answer is $", 1)[1].split("$. I hope", 1)[0]
    found = found.strip()
  elif "boxed" in text:
    found = _box(text.split("boxed")[-1])
  elif "he answer is" in text:
    found = text.split("he answer is")[-1].strip()
  elif "final answer is" in text:
    found = text.split("final answer is")[-1].strip()
  elif "\u7b54\u6848\u662f" in text:  # "The answer is" in Chinese.
    after = text.split("\u7b54\u6848\u662f")[1]
    found = after.strip().split("\n\n")[0].strip()
  else:
    numbers = re.findall(r"-?\d*\.?\d+", text.replace(",", ""))
    found = numbers[-1] if numbers else ""
  found = re.sub(r"\n\s*", "", found)
  found = found.removeprefix(":").removesuffix(".").removesuffix("/")
  return strip(found, keeps_units)


def _box(rest: str) -> str:
  """Returns what stands in a box, given the text after "boxed"."""
  if not rest.startswith("{"):
    return rest.split("$")[0].strip()
  depth = 0
  for i, character in enumerate(rest):
    depth += {"{": 1, "}": -1}.get(character, 0)
    if depth == 0:
      return rest[1:i]
  return rest[1:]


def last_letter(text: str) -> str:
  """Returns the last of the letters A to E that stands alone, or the text."""
  text = text.strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
  letters = re.findall(r"\b(A|B|C|D|E)\b", text.upper())
  found = letters[-1] if letters else text.strip().strip(".")
  return found.rstrip(".").rstrip("/")


def last_choice(text: str) -> str:
  """Returns the letter that a text chooses, or the text itself."""
  text = text.strip("\n")
  if max(text.count("choice is"), text.count("answer is")) > 1:
    text = text.split("\n\n")[0]
  parts = re.split("choice is|answer is", text)
  if len(parts) == 1:
    return last_letter(text)
  text = parts[-1].strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
  letters = re.findall(r"\b(A|B|C|D|E)\b", text.upper())
  found = letters[0] if letters else text.strip().strip(".")
  return found.rstrip(".").rstrip("/")


# Units of MathQA, in the harness's order; they are regular expressions there.
_UNITS = (
  "east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime"
  "|ratio|profit of rs|rd|o|gm|p . m|lb|tile|per|dm|lt|gain|ab|way|west|a ."
  "|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st"
  "|inches|noon|percent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|toy"
  "|coin|sq . m|gallon|° f|profit|minw|yr|women|feet|am|pm|hr|cu cm|square"
  "|v â € ™|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour|minute"
  "|min|second|man|woman|sec|cube|mt|sq inch|mp|∏ cm ³|hectare|more|sec|unit"
  "|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard|pure|year"
  "|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch"
)
_UNIT_PATTERNS = tuple(
  re.compile(rf"(^|\W){unit}{suffix}($|\W)")
  for suffix in ("", "s")
  for unit in _UNITS.split("|")
)
# What is replaced before the units go, between units and words of numbers, and
# after those. Each in this order.
_FIRST = (
  *(("tfrac", "frac"), ("dfrac", "frac"), ("\\neq", "\\ne")),
  *(("\\leq", "\\le"), ("\\geq", "\\ge"), ("\\left", ""), ("\\right", "")),
  *(("\\{", "{"), ("\\}", "}")),
)
_SECOND = (("\\$", ""), ("$", ""), ("\\(", ""), ("\\)", ""))
_THIRD = (
  *((f"{name}{sign}", "") for sign in ("=", "\\in", "\\to") for name in "xyz"),
  ("\\emptyset", "{}"),
  ("(-\\infty,\\infty)", "\\mathbb{R}"),
  *(("\\%", ""), ("%", ""), (" .", " 0."), ("{.", "{0.")),
)


def strip(text: str, keeps_units: bool) -> str:
  """Returns an answer in the spelling in which the harness compares it."""
  text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
  text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text)
  text = re.sub(r"\\end\{array\}", r"\\end{pmatrix}", text)
  text = _replace(text.replace("bmatrix", "pmatrix"), _FIRST)
  text = re.sub(r"\\text{.*?}$", "", text).strip() or text
  if not keeps_units:
    for pattern in _UNIT_PATTERNS * 2:
      text = pattern.sub(r"\1\2", text) or text
  text = _replace(hendrycks.strip_degrees(text), _SECOND)
  text = _number_in_words(text)
  text = re.sub(r"\\text\{(.*?)\}", r"\1", text)
  text = _replace(text, _THIRD).replace("infinity", "\\infty")
  if "\\infty" not in text:
    text = text.replace("inf", "\\infty")
  text = text.replace("+\\inity", "\\infty")
  text = text.replace("and", "").replace("\\mathbf", "")
  text = re.sub(r"\\mbox{.*?}", "", text)
  if "j" in text and "i" not in text:
    text = text.replace("j", "i")
  text = re.sub(r"(\d+)\.0*([^\d])", r"\1\2", text)
  text = re.sub(r"(\d+)\.0*$", r"\1", text)
  if not text:
    return text
  text = hendrycks.drop_short_left_side("0" * (text[0] == ".") + text)
  text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
  text = hendrycks.brace_fractions(text)
  try:
    return hendrycks.slash_fraction(text, keep_roots=True)
  except ValueError:
    return text


def _replace(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
  for old, new in pairs:
    text = text.replace(old, new)
  return text


_SMALL = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen"
  " fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {
  **{word: value for value, word in enumerate(_SMALL.split())},
  **{word: 10 * value for value, word in enumerate(_TENS.split(), 2)},
  "hundred": 100,
}
_SCALES = {"billion": 10**9, "million": 10**6, "thousand": 1000}


def _number_in_words(text: str) -> str:
  """Returns "twenty-one" as 21, by the rules of the library word2number.

  All other words of the text are dropped then. A text without words of
  numbers, or with such as make no number, stays as it is.
  """
  bare = text.replace("-", " ").lower()
  if bare.isdecimal():
    return str(int(bare))
  known = {*_VALUES, *_SCALES, "point"}
  words = [word for word in bare.split() if word in known]
  counts = {word: words.count(word) for word in (*_SCALES, "point")}
  if not words or max(counts.values()) > 1:
    return text
  whole, decimals = words, []
  if counts["point"]:
    at = words.index("point")
    whole, decimals = words[:at], words[at + 1 :]
  places = [whole.index(word) for word in _SCALES if word in whole]
  if places != sorted(places):
    return text
  try:
    total = _whole_number(whole)
  except IndexError:
    return text
  if decimals:
    digits = [str(_VALUES.get(word, "no digit")) for word in decimals]
    if all(len(digit) == 1 for digit in digits):
      total += float("0." + "".join(digits))
  return str(total)


def _whole_number(words: list[str]) -> int:
  """Returns the number of words; IndexError if a scale has no number."""
  if not words:
    return 0
  if len(words) == 1:
    return _VALUES.get(words[0]) or _SCALES.get(words[0], 0)
  total = 0
  for scale, value in _SCALES.items():
    if scale in words:
      at = words.index(scale)
      total += _hundreds(words[:at]) * value
      words = words[at + 1 :]
      if not words:
        return total
  return total + _hundreds(words)


def _hundreds(words: list[str]) -> int:
  values = [_VALUES[word] for word in words]
  if len(values) == 4:
    return values[0] * values[1] + values[2] + values[3]
  if len(values) == 3:
    return values[0] * values[1] + values[2]
  if len(values) == 2:
    return values[0] * values[1] if 100 in values else sum(values)
  return values[0]
