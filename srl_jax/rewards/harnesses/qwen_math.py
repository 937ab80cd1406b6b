# SPDX-License-Identifier: Apache-2.0
"""The rules of Qwen2.5-Math's evaluation (github.com/QwenLM, a45202b).

  answer     aime24, amc23: the reference is the field "answer"
  solution   math: the reference is read from the solution, as answers are
  minerva    minerva_math: the same, and units are not stripped
  gsm8k      gsm8k: the reference stands after ####

Expressions are compared as numbers up to a relative 1e-4, also a hundredth
and a hundred times of them, then as text, part by part and by SymPy.

One rule differs. The harness gives answers to SymPy, whose functions run a
text as Python. Here only numbers, operators, one-letter names and common
functions get there.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

from srl_jax.rewards.harnesses import parsers, qwen_text

_CHOICES = frozenset("ABCDE")
_STOPS = ("</s>", "<|im_end|>", "<|endoftext|>")


def judge(task: str, text: str, answer: str, solution: str) -> tuple[str, bool]:
  """Returns the final answer in a text and whether it is the reference."""
  keeps_units = task == "minerva"
  gold = _reference(task, answer, solution)
  text = text.strip()
  for stop in _STOPS:
    if stop in text:
      text = text.partition(stop)[0].strip()
  final = qwen_text.strip(qwen_text.extract(text, keeps_units), keeps_units)
  if gold in _CHOICES and final not in _CHOICES:
    final = qwen_text.last_choice(text)
  elif _CHOICES.issuperset(gold) and not _CHOICES.issuperset(final):
    final = "".join(c for c in final if c in _CHOICES)
  return final, _equal(final, gold)


def _reference(task: str, answer: str, solution: str) -> str:
  if task in ("solution", "minerva"):
    source = solution or f"\\boxed{{{answer}}}"
    return qwen_text.extract(source, task == "minerva")
  return qwen_text.strip(qwen_text.strip(answer, False), False)


def _equal(ours: str, gold: str) -> bool:
  if ours.strip().lower() == gold.strip().lower():
    return True
  if gold in _CHOICES and qwen_text.last_letter(ours) == gold:
    return True
  number, target = _number(ours), _number(gold)
  if number is not None and target is not None:
    targets = (target / 100, target, target * 100)
    return any(_close(number, x) for x in targets)
  if not ours:
    return False
  return _equal_text(ours.strip(), gold.strip())


def _number(text: str) -> float | None:
  text = text.replace(",", "")
  with contextlib.suppress(ValueError):
    return float(text)
  if text.endswith("%"):
    with contextlib.suppress(ValueError):
      return float(text[:-1].removesuffix("\\")) / 100
  return None


def _close(a: float, b: float) -> bool:
  return math.isclose(b, a, rel_tol=1e-4)


_BRACKETS = str.maketrans("", "", "{}()")
_LIST = re.compile(r"[(\[].+[)\]]")
_MATRIX = re.compile(r"\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}", re.DOTALL)


def _equal_text(ours: str, gold: str) -> bool:
  if "pmatrix" in ours and "pmatrix" not in gold:
    gold = _as_matrices(gold)
  bare_ours, bare_gold = ours, gold
  if (_within(ours, "[]") and not gold.startswith("(")) or (
    _within(ours, "()") and not gold.startswith("[")
  ):
    bare_ours, bare_gold = ours.strip("[]()"), gold.strip("[]()")
  bare_ours = bare_ours.translate(_BRACKETS).lower()
  if bare_ours == bare_gold.translate(_BRACKETS).lower():
    return True
  return (
    _equal_lists(ours, gold)
    or _equal_matrices(ours, gold)
    or _equal_equations(ours, gold)
    or _symbolic(ours, gold)
  )


def _within(text: str, brackets: str) -> bool:
  return text.startswith(brackets[0]) and text.endswith(brackets[1])


def _as_matrices(text: str) -> str:
  found = re.findall(r"\{.*,.*\}", text.strip())
  rows = (part.strip("{}").replace(",", "\\") for part in found)
  return ", ".join(f"\\begin{{pmatrix}}{row}\\end{{pmatrix}}" for row in rows)


def _equal_lists(ours: str, gold: str) -> bool:
  if not (_LIST.match(ours) and _LIST.match(gold)):
    return False
  return _equal_parts(ours[1:-1].split(","), gold[1:-1].split(","))


def _equal_parts(ours: list[str], gold: list[str]) -> bool:
  return len(ours) == len(gold) and all(map(_equal, ours, gold))


def _equal_matrices(ours: str, gold: str) -> bool:
  matrices = _MATRIX.fullmatch(ours), _MATRIX.fullmatch(gold)
  if None in matrices:
    return False
  rows_ours, rows_gold = (
    [row.strip() for row in match[1].split("\\\\") if row.strip()]
    for match in matrices
  )
  return len(rows_ours) == len(rows_gold) and all(
    _equal_parts(a.split("&"), b.split("&"))
    for a, b in zip(rows_ours, rows_gold, strict=True)
  )


def _equal_equations(ours: str, gold: str) -> bool:
  if ours.count("=") == gold.count("=") == 1:
    a, b = (
      "{} - ({})".format(*(side.strip() for side in text.split("=")))
      for text in (ours, gold)
    )
    return _symbolic(a, b) or _symbolic(f"-({a})", b)
  for text, other, is_ours in ((ours, gold, True), (gold, ours, False)):
    left, _, right = text.partition("=")
    if text.count("=") == 1 and len(left.strip()) <= 2 and "=" not in other:
      return _equal(right, other) if is_ours else _equal(other, right)
  return False


def _symbolic(ours: str, gold: str) -> bool:
  a, b = _parse(ours), _parse(gold)
  # SymPy's functions run a text as Python, so one without a meaning stays text.
  if isinstance(a, str) or isinstance(b, str):
    return str(a) == str(b)
  return any(_holds(test, a, b) for test in _TESTS)


def _holds(test: Any, a: Any, b: Any) -> bool:
  try:
    return bool(test(a, b))
  except Exception:  # The harness goes on to its next test.
    return False


def _parse(text: str) -> Any:
  """Returns SymPy's object by the first parser that takes the text."""
  for parser in (parsers.latex, _python, _tex):
    for form in (text.replace("\\\\", "\\"), text):
      with contextlib.suppress(Exception):
        return parser(form)
  return text


_SAFE = re.compile(r"[\dA-Za-z+\-*/^!=<>|&~%().,\s\[\]]*")
_NAMES = re.compile(r"[A-Za-z]\w*")
_FUNCTIONS = (
  "sqrt cbrt sin cos tan cot sec csc asin acos atan sinh cosh tanh exp log ln"
  " pi oo factorial binomial floor gcd lcm"
)


def _python(text: str) -> Any:
  from sympy.parsing.sympy_parser import parse_expr

  names = set(_NAMES.findall(text))
  if not _SAFE.fullmatch(text) or re.search(r"[A-Za-z)\]]\s*\.", text):
    raise ValueError("not run as Python")
  if not all(len(name) == 1 or name in _FUNCTIONS.split() for name in names):
    raise ValueError("not run as Python")
  return parse_expr(text)


def _tex(text: str) -> Any:
  from latex2sympy2_extended import latex2sympy

  return latex2sympy(text)


def _simplified(a: Any, b: Any) -> bool:
  import sympy

  return a.equals(b) or sympy.simplify(a - b) == 0


def _sides(a: Any, b: Any) -> bool:
  return abs(a.lhs - a.rhs).equals(abs(b.lhs - b.rhs))


def _values(a: Any, b: Any) -> bool:
  import sympy

  return _close(float(sympy.N(a)), float(sympy.N(b)))


def _rounded(a: Any, b: Any) -> bool:
  if a.shape != b.shape:
    return False
  a, b = (x.applyfunc(lambda value: round(value, 3)) for x in (a, b))
  return a.equals(b)


_TESTS = (
  lambda a, b: str(a) == str(b) or a == b,
  _simplified,
  _sides,
  _values,
  _rounded,
)
