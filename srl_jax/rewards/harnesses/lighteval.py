# SPDX-License-Identifier: Apache-2.0
"""The rules of lighteval 0.13.0 (github.com/huggingface), by math-verify.

  aime    aime24_avg, aime25_avg: the metric avg_at_n_math
  math    math_500: pass_at_k_math; the reference is read from the solution
  gsm8k   gsm8k: expr_gold_metric

avg_at_n_math judges the whole text. The other two judge what is left without
closed think blocks.

lighteval extracts and compares by code of its own, from which math-verify
derives; math-verify takes its place here.
"""

from __future__ import annotations

import re

from srl_jax.rewards.harnesses import parsers

_THOUGHT = re.compile("<think>.*?</think>", re.DOTALL)


def judge(task: str, text: str, answer: str, solution: str) -> tuple[str, bool]:
  """Returns the final answer in a text and whether it is the reference."""
  import math_verify

  parsers.use_rules_of_lighteval()
  expression = math_verify.ExprExtractionConfig()
  latex = math_verify.LatexExtractionConfig()
  gold_by, ours_by, digits = (expression, latex), (expression, latex), 6
  reference = answer
  if task == "math":
    reference = "ANSWER: " + (solution or f"$\\boxed{{{answer}}}$")
  elif task == "gsm8k":
    text = text.partition("Question:")[0]
    reference = " " + (solution or f"#### {answer}")
    gold_by, digits = (expression,), 5
    first = math_verify.LatexExtractionConfig(boxed_match_priority=0)
    ours_by = (expression, first)
  if task != "aime":
    text = _THOUGHT.sub("", text)
  ours = math_verify.parse(text, ours_by, parsing_timeout=None)
  gold = math_verify.parse(reference, gold_by, parsing_timeout=None)
  is_same = math_verify.verify(
    gold or [reference], ours, float_rounding=digits, timeout_seconds=None
  )
  return str(ours[-1]) if ours else "", bool(is_same)
