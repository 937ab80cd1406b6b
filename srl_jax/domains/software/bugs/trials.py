# SPDX-License-Identifier: Apache-2.0
"""Runs the calls of tests on many variants of a module, within limits.

`Trials` starts this file with `python -I`, and sends it one variant per line.
What runs are functions of this package with mistakes by mutators: they compute
and do nothing else, so limits are enough. What a model wrote never runs here.

A call is ended after a number of lines of Python, which is the same on every
machine, and not after a time: what counts as endless must not follow from the
load. Seconds and memory are limited as well, for what no line counts.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

# The calls of the tests take at most a few hundred.
LINES = 20_000
_CPU_S = 10
_MEMORY_BYTES = 1 << 30


class Result(NamedTuple):
  """What a call gives.

  Attributes:
    is_right: whether it is what the test wants.
    shown: the value as `repr` writes it, or the exception as the last line of
      a traceback does.
    is_exception: whether it is an exception.
  """

  is_right: bool
  shown: str
  is_exception: bool = False


class _EndlessError(BaseException):
  """A call takes too many lines."""


class Trials:
  """Runs variants in a child process; use as a context manager."""

  def __init__(self, cpu_s: int = _CPU_S) -> None:
    """Starts nothing yet; a variant has `cpu_s` seconds of CPU."""
    self._cpu_s = cpu_s
    self._child: subprocess.Popen | None = None

  def __enter__(self) -> Trials:
    return self

  def __exit__(self, *_: object) -> None:
    self._end()

  def run(
    self, text: str, calls: Sequence[str], wanted: Sequence[str]
  ) -> list[Result] | None:
    """Runs calls on a module.

    Args:
      text: the module.
      calls: the calls, as texts.
      wanted: what they should give, as `repr` writes it.

    Returns:
      The results; None if a call takes too many lines, too much memory or time,
      or too deep a recursion, or gives an object that shows its address.
    """
    if self._child is None:
      self._child = subprocess.Popen(
        [sys.executable, "-I", os.path.abspath(__file__), str(self._cpu_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
      )
    request = {"text": text, "calls": list(calls), "wanted": list(wanted)}
    self._child.stdin.write(json.dumps(request) + "\n")
    self._child.stdin.flush()
    line = self._child.stdout.readline()
    if not line:  # The kernel has ended it.
      self._end()
      return None
    answer = json.loads(line)
    return answer and [Result(*x) for x in answer]

  def _end(self) -> None:
    if self._child is not None:
      self._child.kill()
      self._child.communicate()
      self._child = None


def outcomes(request: dict[str, Any]) -> list[Result] | None:
  """Runs one request in this process; see Trials.run."""
  names: dict[str, Any] = {"__name__": "module"}
  results = []
  try:
    exec(compile(request["text"], "<module>", "exec"), names)
    for call, wanted in zip(request["calls"], request["wanted"], strict=True):
      code = compile(call, "<call>", "eval")
      try:
        with _limited_lines():
          value = eval(code, names)
        is_right = value == ast.literal_eval(wanted)
        # `assert f(x) is True` wants no 1.
        is_right = is_right and not (
          wanted in ("True", "False", "None") and repr(value) != wanted
        )
        if " at 0x" in repr(value):  # Another one in each process.
          return None
        results.append(Result(bool(is_right), repr(value)))
      except Exception as error:
        if isinstance(error, (RecursionError, MemoryError)):
          return None
        results.append(Result(False, _last_line(error), True))
  except _EndlessError:
    return None
  return results


def _last_line(error: Exception) -> str:
  """The end of what Python prints, with its guesses at what was meant.

  In Python 3.11 the module `traceback` makes no such guesses.
  """
  printed = io.StringIO()
  with contextlib.redirect_stderr(printed):
    sys.__excepthook__(type(error), error, error.__traceback__)
  return printed.getvalue().rstrip("\n").rpartition("\n")[2]


@contextlib.contextmanager
def _limited_lines() -> Iterator[None]:
  left = LINES

  def trace(frame: object, event: str, argument: object):
    nonlocal left
    left -= event == "line"
    if left < 0:
      raise _EndlessError
    return trace

  sys.settrace(trace)
  try:
    yield
  finally:
    sys.settrace(None)


def main() -> None:
  """Answers requests until there is no more."""
  cpu_s = int(sys.argv[1])
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
  for line in sys.stdin:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + cpu_s
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    print(json.dumps(outcomes(json.loads(line))), flush=True)


if __name__ == "__main__":
  main()
