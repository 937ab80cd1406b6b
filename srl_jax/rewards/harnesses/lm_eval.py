# SPDX-License-Identifier: Apache-2.0
"""The rules of lm-evaluation-harness 0.4.13 (github.com/EleutherAI).

  gsm8k          gsm8k_cot_zeroshot, flexible-extract: the last number
  gsm8k-strict   gsm8k_cot_zeroshot, strict-match: after "The answer is"
  aime           aime24 and aime25: the box, or what stands between dollars
  math           minerva_math500, math_verify: math-verify on both texts
  math-strict    minerva_math500, exact_match: after "Final Answer: The final
                 answer is", which its four examples teach

Generation ends there at some texts; whatever follows them is not read.
"""

from __future__ import annotations

import re

from srl_jax.rewards.harnesses import hendrycks, parsers

_CONTROL = ("</s>", "<|im_end|>")
_STOPS = {
  "gsm8k": ("Q:", *_CONTROL),
  "aime": ("Question:", *_CONTROL, "<|eot_id|>"),
  "math": ("Problem:",),
}
_INVALID = "[invalid]"


def judge(task: str, text: str, answer: str, solution: str) -> tuple[str, bool]:
  """Returns the final answer in a text and whether it is the reference."""
  kind, _, strict = task.partition("-")
  for stop in _STOPS[kind]:
    text = text.partition(stop)[0]
  if kind == "gsm8k":
    return _gsm8k(text, solution or answer, bool(strict))
  if kind == "aime":
    return _aime(text, answer)
  solution = solution or f"$\\boxed{{{answer}}}$"
  return (_minerva if strict else _math_verify)(text, solution)


_STRICT = re.compile(r"The answer is (\-?[0-9\.\,]+).")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_IGNORED = re.compile(r"(?s).*#### ")


def _gsm8k(text: str, reference: str, strict: bool) -> tuple[str, bool]:
  found = (_STRICT if strict else _FLEXIBLE).findall(text)
  final = (found[0] if strict else found[-1]) if found else _INVALID
  final = final.strip()
  return final if found else "", _bare(final) == _bare(reference)


def _bare(text: str) -> str:
  text = text.replace(",", "").replace("$", "")
  return re.sub(r"\.$", "", _IGNORED.sub("", text)).lower()


def _aime(text: str, answer: str) -> tuple[str, bool]:
  first, last = text.find("$"), text.rfind("$")
  final = text[first + 1 : last] if first < last else text
  box = hendrycks.last_box(text)
  boxed = None if box is None else hendrycks.inside(box)
  final = final if boxed is None else boxed
  try:
    return final, hendrycks.spell(final) == hendrycks.spell(answer)
  except (ValueError, IndexError):
    return final, final == answer


def _math_verify(text: str, solution: str) -> tuple[str, bool]:
  import math_verify

  parsers.use_grammar_of_4_11()
  limit = {"parsing_timeout": None}
  ours = math_verify.parse(text, **limit)
  gold = math_verify.parse(solution, **limit)
  is_same = math_verify.verify(gold, ours, timeout_seconds=None)
  return str(ours[-1]) if ours else "", bool(is_same)


_FINAL = re.compile(
  r"Final Answer: The final answer is(.*?). I hope it is correct."
)


def _minerva(text: str, solution: str) -> tuple[str, bool]:
  found = _FINAL.search(text + "I hope it is correct.")
  final = found[1].strip() if found else "[invalidanswer]"
  box = hendrycks.last_box(solution)
  gold = _normalise((box and hendrycks.inside(box)) or "")
  return final if found else "", _equivalent(_normalise(final), gold)


def _equivalent(ours: str, gold: str) -> bool:
  import sympy

  if ours and ours == gold:
    return True
  try:
    difference = parsers.latex(ours) - parsers.latex(gold)
    return bool(sympy.simplify(difference) == 0)
  except Exception:  # A parser can raise anything; the harness says no, too.
    return False


# Lewkowycz et al. 2022, appendix D, as version 3.1 of the task applies it.
_REPLACED = (
  *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", "")),
  *((" ", ""), ("mbox", "text"), (",\\text{and}", ","), ("\\text{and}", ",")),
  ("\\text{m}", "\\text{}"),
)
_UNITS_1 = "square ways integers dollars mph inches ft hours km units"
_UNITS_2 = (
  "sue points feet minutes digits cents degrees cm gm pounds meters meals"
  " edges students childrentickets multiples"
)
_SIGNS = (
  *("\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3"),
  *("\\text{\n}", "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;"),
  *(",\\!", "{,}", '"', "\\dots"),
)
_REMOVED = (*_UNITS_1.split(), "\\ldots", *_UNITS_2.split(), *_SIGNS)
_COMMAND = re.compile(r"(\\[a-zA-Z]+)")
# (pattern, replacement), in this order.
_SPELLING = (
  (r"(.*?)\$(.*?)\$(.*)", r"$\2$"),
  (r"\\text\{(.*?)\}", r"\1"),
  (r"\\textbf\{(.*?)\}", r"\1"),
  (r"\\overline\{(.*?)\}", r"\1"),
  (r"\\boxed\{(.*)\}", r"\1"),
  (r"frac([^{])(.)", r"frac{\1}{\2}"),
  (r"sqrt(\[[^\]]*\])(\w)", r"sqrt\1{\2}"),
  (r"sqrt(?!\[)([^{])", r"sqrt{\1}"),
)


def _normalise(text: str) -> str:
  text = text.split("=")[-1]
  for word in filter(str.isalpha, _REMOVED):
    text = re.sub(rf"(?<!\\)\b{word}\b", "", text)
  for old, new in _REPLACED:
    text = text.replace(old, new)
  for word in _REMOVED:
    if word.isalpha():  # Not inside the name of a command.
      parts = _COMMAND.split(text)
      parts[::2] = [part.replace(word, "") for part in parts[::2]]
      text = "".join(parts)
    else:
      text = text.replace(word, "")
  for pattern, new in _SPELLING:
    text = re.sub(pattern, new, text)
  text = text.replace("$", "")
  if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text):
    text = text.replace(",", "")
  return text
