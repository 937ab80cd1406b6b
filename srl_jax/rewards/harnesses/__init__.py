# SPDX-License-Identifier: Apache-2.0
"""How other harnesses read and judge final answers.

Protocols that bear the name of a harness use its rules, with its faults, so
that a score here is a score there. Our own rules are those of answers.py.

The rules run in the judge's process (judge.py), because regular expressions
and SymPy can be kept busy by what a model writes. What is not judged by the
time that harnesses allow is wrong, as it is there.
"""

from __future__ import annotations

from srl_jax.rewards.expressions import ask_judge

# Harness -> what it distinguishes; each is a module here.
TASKS = {
  "lighteval": ("aime", "math", "gsm8k"),
  "lm_eval": ("math", "math-strict", "aime", "gsm8k", "gsm8k-strict"),
  "qwen_math": ("answer", "solution", "minerva", "gsm8k"),
}


def verdict(
  harness: str, task: str, text: str, answer: str, solution: str = ""
) -> tuple[str, bool]:
  """Returns the final answer that a harness reads, and whether it is right.

  Args:
    harness: a key of TASKS.
    task: one of the harness's tasks.
    text: what the model wrote.
    answer: the reference answer.
    solution: the text that gives it, from which some tasks read it by rules of
      their own; "" if there is only the answer.

  Raises:
    ValueError: there is no such harness or task, or a library is missing.
  """
  if task not in TASKS.get(harness, ()):
    raise ValueError(
      f"there is no task {task!r} of {harness!r}; choose one of {TASKS}"
    )
  found = ask_judge(harness, task, text, answer, solution)
  if not found:  # The process was killed for its time or memory.
    return "", False
  final, is_correct = found
  return final, is_correct
