# SPDX-License-Identifier: Apache-2.0
"""Whether two expressions, equations or inequalities are the same.

math-verify judges them. It runs in a process of its own, for two reasons.
SymPy takes a second to import, and most answers do not need it. And an
expression can keep it busy for ever, even inside one operation on integers,
where no handler of a signal runs: so the judge asks the system to kill it
after some seconds of CPU time. What is not judged by then is not the same.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

# Longer ones are no answers.
_MAX_CHARS = 400
# Powers of powers and long numbers: SymPy would compute them.
_TOO_BIG = re.compile(
  r"\^\{?[^{}]*\^\{?[^{}]*\^|\^\s*\{?\s*[-+]?\d{4}|\d{60}|\d{4}\s*!|!\s*!"
)
# Signs whose meaning math-verify guesses: ratios, bases, quotes, text.
_NOT_JUDGED = re.compile(
  r"[:;?\"@#`]|\d\s*[_']|\^\s*\{?T\b|\\(?:text|mbox|begin|ldots|dots|pm|mp"
  r"|approx|sim|simeq|cong|equiv|propto|[bp]?mod|to|rightarrow|implies"
  r"|Rightarrow|neg|lnot)(?![A-Za-z])"
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
  return bool(_MATHS.search(text)) and not _WORD.search(_COMMAND.sub("", text))


@functools.lru_cache(4096)
def same_expression(candidate: str, reference: str) -> bool:
  """Returns whether the judge takes two pieces of TeX for the same.

  Raises:
    ValueError: math-verify is not installed.
  """
  if not (may_be_expression(candidate) and may_be_expression(reference)):
    return False
  return bool(ask_judge("", candidate, reference))


def ask_judge(harness: str, *question: str) -> Any:
  """Returns what judge.py answers, or None if it took too much time or memory.

  Args:
    harness: the harness whose rules are asked for; "" for our own. Each has a
      process of its own, because it may change the libraries in it.
    question: what judge.py reads after the harness.

  Raises:
    ValueError: math-verify is not installed.
    RuntimeError: the judge itself has failed.
  """
  if harness not in _judges:
    _judges[harness] = _Judge()
    atexit.register(_judges[harness].close)
  return _judges[harness].ask([harness, *question])


class _Judge:
  """A process that judges; it starts when it is first needed."""

  def __init__(self) -> None:
    self._process: subprocess.Popen[str] | None = None
    self._lock = threading.Lock()
    self._owner = 0

  def ask(self, question: Sequence[str]) -> Any:
    with self._lock:
      if self._process is None or self._owner != os.getpid():
        self._process = self._start()
      try:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
      except BrokenPipeError:
        answer = ""
      if not answer:
        return self._ended()
    verdict = json.loads(answer)
    if isinstance(verdict, str):
      raise ValueError(verdict)
    return verdict

  def _ended(self) -> None:
    """Takes a kill for its time or memory as no answer, but no failure."""
    status = self._process.wait()
    self.close()
    if status > 0:
      raise RuntimeError(
        f"the judge of answers ended with status {status}; its error is above"
      )

  def _start(self) -> subprocess.Popen[str]:
    paths = [os.path.abspath(path) for path in sys.path]
    self._owner = os.getpid()
    return subprocess.Popen(
      [sys.executable, "-m", "srl_jax.rewards.judge"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      encoding="utf-8",
      env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )

  def close(self) -> None:
    process, self._process = self._process, None
    if process is None or self._owner != os.getpid():
      return
    process.kill()
    process.wait()
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()


# The judge of each harness that was asked for, under its name.
_judges: dict[str, _Judge] = {}
