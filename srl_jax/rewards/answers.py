# SPDX-License-Identifier: Apache-2.0
"""Finds the final answer in a solution and compares it with the reference.

  extract_answers   solution text -> candidate answers, most explicit first
  same_answer       candidate, reference -> bool (equality.py)
  answer_reward     solution text, reference -> 1.0 or 0.0

A solution that names several answers has given all of them, or none: where
one answer is asked for, "8 or 11" is wrong whichever is right.
"""

from __future__ import annotations

import re

from srl_jax.rewards.equality import same_answer
from srl_jax.rewards.format import split_lenient
from srl_jax.rewards.quantity import (
  MAGNITUDE,
  NUMBER,
  is_unit,
  parse_quantity,
)
from srl_jax.rewards.tex import normalise, tidy

_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
# An escaped brace is a set bracket, not a group; it is matched to be skipped.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_HEADING = re.compile(
  r"(?:steps?|parts?|cases?|solution|(?:final )?answer|results?|conclusion"
  r"|summary|final|work(?:ing)?|check|verification|explanation|analysis"
  r"|approach|problem|given|method|proof|calculations?)\b",
  re.IGNORECASE,
)
_MAX_MARK_WORDS = 4
_ANSWER_IS = re.compile(
  r"\b(?:answer|(?:correct|right|best) (?:option|choice))\b"
  r"[\s:*]{0,9}(?:is(?![a-z'’])|=|:)[\s:*]{0,9}(?=\S)",
  re.IGNORECASE,
)
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
# A later line that says why the answer is right.
_CHECK = re.compile(
  r"^[^\w\n]*(?:check|verif|explanation|reason|justif|because|proof|note\b"
  r"|why\b)",
  re.IGNORECASE | re.MULTILINE,
)
# A line that ends a solution: it is reckoned, or concludes.
_COMES_TO = re.compile(
  r"[\d)%][^=\n\d)%]*(?:=|\bequals\b)\s*[$€£]?\s*-?[.\d]"
  r"|^[^\w\n]*(?:so|thus|hence|therefore|in total|altogether|finally)\b.*\d",
  re.IGNORECASE | re.MULTILINE,
)
# A line with nothing but a fence of mathematics or code.
_FENCE = re.compile(
  r"```\w*|\$\$|\\[\[\]()]|\\(?:begin|end)\{[a-z]+\*?\}", re.IGNORECASE
)
# Marks of lists and quotes, which would be read as a minus or an inequality.
_LIST_MARK = re.compile(r"^\s*(?:[-*+•>]\s+)+")
_SENTENCE_END = re.compile(r"[.;](?:\s|$)")
# What follows says why, and is not the answer.
_WHY = re.compile(
  r",?\s*\b(?:because|since|so that|so|which|as)\b"
  r"|(?:(?<=yes)|(?<=no)|(?<=true)|(?<=false)),"
  r"\s+(?=(?:it|they|he|she|we|this|that|there)\b)",
  re.IGNORECASE,
)
# A remark, also one that a full stop cut; none is f(x) or 3(x+1).
_REMARK = re.compile(r"\s\((?:[^()]|\([^()]*\))*(?:\)|$)")
# What makes a number before it part of a term, and a number after it.
_TERM = re.compile(
  r"\s*[-+/^_=<>{(\[!\\]|\s*\*(?!\*)|[a-z]"
  r"|\s(?!an?\s+[a-z]{3}|I\s)[A-Za-z](?![\w'])"
)
_OPERAND = re.compile(r"(?:[A-Za-z)\]}]|[-+*/^=_(\[{<>\\]\s*[$€£]?\s*)$")
# What makes a last number part of a term, a ratio or a range. A capital may
# touch it, as in G0531, and what is equal to it or leads to it is none; nor is
# 41.7 that is rounded to it, what goes from 30 to it, or "Box 2 : " before it.
# In "12 apples and Bob has 30" and "a = 2, b = 5" it is one of two answers.
_PART = re.compile(
  r"(?:[a-z)\]}^_(\[{\\,]|[-+/<^_(\[{\\]\s*[$€£]?\s*|(?<![-=>])>\s*"
  r"|[\w)\]}]\s*\*\s*|\d\s*x\s*|\d\s*[,;&]\s*|[(\[{][^()\[\]{}]*,\s*"
  r"|\d:|^(?=.*\b(?i:ratio|is|are)\b|[^A-Za-z]*$).*\d\s+:\s*"
  r"|^(?!.*\b(?i:round|simplif|reduc|chang|convert|from\s+\S+\s+to\b))"
  r".*\d\s+to\s+[$€£]?"
  r"|\\(?:sqrt|frac|times|cdot|div|pm|mp|leq|geq|neq|sin|cos|tan)\s*"
  r"|\d[^.;=\d]{0,30}(?:\band\b(?! (?:then|so|hence|thus|therefore)\b)"
  r"[^.,;=\d]{0,20}|(?:\band\b|,)\s*\$?\\?[A-Za-z]\s*=\s*)"
  r"|\\[bp]?mod\s*[{(]?\s*|\b(?:log|ln)\s*(?:_\s*(?:\w|\{[^{}]*\})\s*)?)$"
)
# Words around a number that make another one of it, or of its sign.
_NEGATIVE = re.compile(r"(?:\bnegative|(?:^|\bis|\bbe|=)\s*minus)\s+$", re.I)
_CHANGED_BEFORE = re.compile(
  r"(?:\b(?:minus|plus|times|twice|thrice|double|triple|half|least|most|than"
  r"|over|under|above|below|exceeds|mod|modulo|not|cannot|nor|divided by"
  r"|out of|base|steps?|figures?|theorem|lemma|equations?|case|section"
  r"|(?:square|cube) root"
  r"|(?:root|square|cube|half|third|quarter|multiple|power|logarithm"
  r"|reciprocal|inverse|opposite|double|triple)s? of)|n['’]t)"
  r"(?:\s+(?:the|an?|be|about|exactly|only))?\s*[$€£(*]*\s*$",
  re.IGNORECASE,
)
_CHANGED_AFTER = re.compile(
  r"\s*(?:squared|cubed|factorial|hal(?:f|ves)|thirds?|fourths?|fifths?|sixths?"
  r"|sevenths?|eighths?|ninths?|tenths?|hundredths?|thousandths?|millionths?"
  r"|plus|minus|times\s+[\d\\$]|divided|over\s+\d|choose|modulo|mod|base"
  r"|below zero|degrees? below)\b|\.\.",
  re.IGNORECASE,
)
_HEDGE = re.compile(
  r"\b(?:or|either|between|maybe|perhaps|possibly|not|isn't|neither|nor)\b"
  r"|\d[^.;]{0,30}\band\s+[-$\\]*\d",
  re.IGNORECASE,
)

# Words that take back what is said, wherever they stand in the line.
_DOUBT = re.compile(
  r"\b(?:or|either|maybe|perhaps|possibly|not|cannot|neither|nor)\b|n't\b",
  re.IGNORECASE,
)
# A sum of numbers whose result comes next: "20 and 28 clips, so 20+28 = ".
_SUM = re.compile(
  r"[$€£(]*\d[\d.,]*[%)]*(?:\s*[-+*/x×÷–]+\s*[$€£(]*\d[\d.,]*[%)]*)+"
  r"\s*=\s*[$€£]?\s*$"
)
_MAX_SUM_CHARS = 200
_LISTS_NEXT = re.compile(
  r"\b(?:and|between|to|from)[^A-Za-z,;:]*$", re.IGNORECASE
)


def answer_reward(text: str, reference: str) -> float:
  """Returns 1.0 if the solution's final answer is the reference, else 0.0.

  Think blocks are dropped first. If the answer is not marked, either the last
  line or the last number may be it.
  """
  answers = extract_answers(split_lenient(text).action)
  return float(any(same_answer(answer, reference) for answer in answers))


def extract_answers(text: str) -> list[str]:
  """Returns what may be the final answer, by the first rule that applies.

  1. what stands in \\boxed{..}, as a list if boxes differ; 2. the last <answer>
  block, and what the rules below find in it if it has words; 3. "#### .." in
  the last line; 4. after the last "answer is", "answer:" or "answer =": the
  line, its first sentence, that without its reason, or its only number, unless
  "answer:" heads a whole solution; 5. the last line or the last number. Fences
  of blocks are no lines, and marks of lists and quotes belong to none.
  """
  boxes = all_boxed(text)
  if boxes:
    return [_join(boxes)]
  closed = text.rpartition("</answer>")[0]
  _, opening, inside = closed.rpartition("<answer>")
  if not opening:
    return _without_box(text)
  block = inside.partition("</answer>")[0].strip()
  found = _without_box(block) if _WORDS.search(block) else []
  return list(dict.fromkeys([block, *found]))


def _without_box(text: str) -> list[str]:
  """Returns what rules 3 to 5 of `extract_answers` find."""
  marked = hash_mark(text)
  if marked is not None:
    return [marked]
  lines = [_LIST_MARK.sub("", x).strip() for x in text.splitlines()]
  lines = [line for line in lines if line and not _FENCE.fullmatch(line)]
  text = "\n".join(lines)
  line = _marked_line(text)
  if line:
    if line.count("**") % 2:  # The mark took the other half.
      line = line.replace("**", "", 1)
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    clause = _WHY.split(sentence, maxsplit=1)[0]
    found = [line, sentence, clause, *_only_number(clause)]
    return [x for x in dict.fromkeys(found) if x]
  for line in reversed(lines):
    numbers = list(NUMBER.finditer(tidy(line)))
    if numbers:
      hedged = len(numbers) > 1 and _HEDGE.search(line)
      hedged = hedged and not _is_result(tidy(line), numbers)
      hedged = hedged or _is_part(tidy(line), numbers[-1])
      number = [] if hedged else _with_unit(tidy(line), numbers[-1])
      return [lines[-1], *number]
  return lines[-1:]


def _marked_line(text: str) -> str:
  """Returns the line after the last "answer is", tidy; "" if there is none.

  Nor is there one if "answer:" heads a solution: this line is neither a number,
  nor a term, nor a few words, and what follows comes to a result.
  """
  marks = list(_ANSWER_IS.finditer(text))
  if not marks:
    return ""
  line, _, later = text[marks[-1].end() :].partition("\n")
  line = tidy(line)
  later = tidy(_CHECK.split(later, maxsplit=1)[0])
  if ":" not in marks[-1][0] or not _COMES_TO.search(later):
    return line
  said = _REMARK.sub("", line).strip(" *.")
  words = [x for x in _WORDS.findall(said) if x not in ("and", "or")]
  if re.search(r"\d", said):
    is_step = bool(words) or bool(re.search(r"[\d)]\s*=", said))
    return "" if is_step and parse_quantity(said) is None else line
  return "" if len(words) > _MAX_MARK_WORDS else line


def _is_part(line: str, number: re.Match[str]) -> bool:
  """Whether what stands before a last number makes it part of a term."""
  before = line[: number.start()]
  is_subtracted = re.match(r"-\s", number[0]) and re.search(r"\w\s*$", before)
  return bool(is_subtracted or _PART.search(before))


def _is_result(line: str, numbers: list[re.Match[str]]) -> bool:
  """Whether the last number is what the numbers before it are reckoned to.

  Such a line may list numbers, as in "20 and 28 clips are 20 + 28 = 48 clips",
  or compare them, as in "the difference between them is 28 - 20 = 8".
  """
  start = numbers[-1].start()
  if _DOUBT.search(line) or numbers[-1][0] in {n[0] for n in numbers[:-1]}:
    return False
  before = line[max(0, start - _MAX_SUM_CHARS) : start]
  found = _SUM.search(before)
  return found is not None and not _LISTS_NEXT.search(before[: found.start()])


def _only_number(clause: str) -> list[str]:
  """Returns the number of a clause if it has one outside of remarks."""
  clause = _REMARK.sub(" ", clause)
  numbers = list(NUMBER.finditer(clause))
  if len(numbers) != 1 or _HEDGE.search(clause):
    return []
  if _OPERAND.search(clause[: numbers[0].start()]):
    return []
  return _with_unit(clause, numbers[0])


def _with_unit(line: str, number: re.Match[str]) -> list[str]:
  """Returns a number in prose with sign, magnitude and unit.

  It is [] if the number is part of a term, or words make another one of it.
  """
  before, rest = line[: number.start()], line[number.end() :]
  if _TERM.match(rest) or _CHANGED_AFTER.match(rest):
    return []
  found = number[0]
  if _NEGATIVE.search(before) and found[0] != "-":
    found = "-" + found
  elif _CHANGED_BEFORE.search(before):
    return []
  magnitude = MAGNITUDE.match(rest)
  if magnitude:
    found += magnitude[0]
    rest = rest[magnitude.end() :]
  word = re.match(r"\s*[^\s,;:!?*]+", rest)
  if word is None or not is_unit(word[0].strip(" .")):
    return [found]
  return [found + word[0].rstrip(" .")]


def hash_mark(text: str) -> str | None:
  """Returns the answer after #### in the last line, or None.

  Elsewhere, and before words such as "Step 1", it is a heading of Markdown.
  """
  last_line = text.rstrip().rpartition("\n")[2]
  match = _HASHES.search(last_line)
  if match is None:
    return None
  marked = match[1].rpartition("####")[2].strip()
  if parse_quantity(tidy(marked)) is not None:
    return marked
  is_heading = (
    not marked.strip("#* ")
    or _HEADING.match(marked.lstrip("#* "))
    or marked.rstrip("* ").endswith(":")
    or len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", marked)) > _MAX_MARK_WORDS
  )
  return None if is_heading else marked


def _join(boxes: list[str]) -> str:
  """Returns the answer that boxes give together.

  A box that is repeated, or says again what the boxes before it said, counts
  once.
  """
  different: dict[str, str] = {}
  for box in boxes:
    different.setdefault(normalise(box), box)
  kept = list(different.values())
  if len(kept) == 2 and same_answer(*kept):
    return kept[-1]
  if len(kept) > 2 and same_answer(", ".join(kept[:-1]), kept[-1]):
    return kept[-1]
  return ", ".join(kept)


def last_boxed(text: str) -> str | None:
  """Returns the inside of the last \\boxed{..} that closes, or None."""
  boxes = all_boxed(text)
  return boxes[-1] if boxes else None


def all_boxed(text: str) -> list[str]:
  """Returns the insides of all \\boxed{..} that close and hold no other."""
  inner_starts = {match.end() for match in _BOXED.finditer(text)}
  if not inner_starts:
    return []
  opened: list[int] = []
  boxes: list[str] = []
  last_start = -1
  for brace in _BRACE.finditer(text):
    if brace.group() == "{":
      opened.append(brace.end())
    elif brace.group() == "}" and opened:
      inner = opened.pop()
      if inner in inner_starts and inner > last_start:
        boxes.append(text[inner : brace.start()])
        last_start = inner
  return boxes
