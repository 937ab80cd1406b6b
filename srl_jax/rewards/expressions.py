# SPDX-License-Identifier: Apache-2.0
"""Whether two expressions, equations or inequalities are the same.

math-verify judges them. It runs in a process of its own, for two reasons.
SymPy takes a second to import, and most answers do not need it. And an
expression can keep it busy for ever, even inside one operation on integers,
where no handler of a signal runs: so the judge asks the system to kill it
after some seconds of CPU time. What is not judged by then is not the same.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from srl_jax.processes.children import FailedError, LazyChild, Lines
from srl_jax.processes.failures import RecurringError

# The judge ends by itself after some CPU seconds; this is for a machine that
# is too busy to give it any, and for the start of the process.
_WALL_LIMIT_S = 120.0
# Longer ones are no answers.
_MAX_CHARS = 400
# Powers of powers and long numbers: SymPy would compute them.
_TOO_BIG = re.compile(
  r"\^\{?[^{}]*\^\{?[^{}]*\^|\^\s*\{?\s*[-+]?\d{4}|\d{60}|\d{4}\s*!|!\s*!"
)
# Signs whose meaning math-verify guesses or drops: ratios, bases, primes, text,
# dots for what is left out.
_NOT_JUDGED = re.compile(
  r"[:;?\"@#`']|\.\.|\d\s*_|\^\s*\{?T\b|\\(?:text|mbox|prime|begin|pm|mp|approx"
  r"|sim|simeq|cong|equiv|propto|[bp]?mod|to|rightarrow|implies|Rightarrow|neg"
  r"|lnot|not[a-z]*)(?![A-Za-z])"
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{4,}")
_MATHS = re.compile(r"[\d\\+*/^=<>()-]")


def may_be_expression(text: str) -> bool:
  """Whether text is an expression that the judge may be asked about."""
  if not text or len(text) > _MAX_CHARS or _NOT_JUDGED.search(text):
    return False
  if _TOO_BIG.search(text) or text.count("^") > 40 or text.count("!") > 3:
    return False
  return not _WORD.search(_COMMAND.sub("", text))


@functools.lru_cache(4096)
def same_expression(
  candidate: str, reference: str, within: float = 0.0
) -> bool:
  """Returns whether the judge takes two pieces of TeX for the same.

  Args:
    candidate: of a model.
    reference: what it is compared with.
    within: what two numbers may differ by, as a share of the reference.

  Raises:
    ValueError: math-verify is not installed.
  """
  if not (may_be_expression(candidate) and may_be_expression(reference)):
    return False
  if not _MATHS.search(candidate + reference):  # AB and BA may be an order.
    return False
  return bool(ask_judge("", candidate, reference, within))


def ask_judge(harness: str, *question: str | float) -> Any:
  """Returns what judge.py answers, or None if it took too much time or memory.

  Args:
    harness: the harness whose rules are asked for; "" for our own. Each has a
      process of its own, because it may change the libraries in it.
    question: what judge.py reads after the harness.

  Raises:
    ValueError: math-verify is not installed.
    RecurringError: the judge itself has failed.
  """
  if harness not in _judges:
    _judges[harness] = LazyChild("srl_jax.rewards.judge", Lines)
  try:
    verdict = _judges[harness].ask([harness, *question], _WALL_LIMIT_S)
  except FailedError as error:
    raise RecurringError(
      f"the judge of answers {error}; its error is above"
    ) from error
  except (TimeoutError, EOFError):
    return None
  if isinstance(verdict, str):
    raise ValueError(verdict)
  return verdict


# The judge of each harness that was asked for, under its name.
_judges: dict[str, LazyChild] = {}
