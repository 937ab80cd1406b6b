# SPDX-License-Identifier: Apache-2.0
"""Judges answers in worker processes while the devices decode the next ones.

A worker is `python -m srl_jax.evaluate.judges`, a child of
processes/children.py. It gets (judge, text, problem) and answers with the
verdict, or with a RecurringError that says what went wrong. It imports no JAX,
and ends with this process, however that ends.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import queue
import traceback
from collections.abc import Callable, Iterator, Mapping

from srl_jax.domains.suite import Problem
from srl_jax.evaluate.protocols import our_verdict
from srl_jax.evaluate.records import Answer
from srl_jax.processes import failures
from srl_jax.processes.children import LazyChild, Pickles, take_streams
from srl_jax.rewards.format import split_lenient
from srl_jax.rewards.reward import RewardConfig, find_function

# (text, problem) -> (the final answer that was read, whether it is right).
JudgeFunction = Callable[[str, Problem], tuple[str, bool]]
# Answers judged late take little memory, but a crash loses them.
_MOST_UNJUDGED = 256
# What takes long in a verdict has limits of its own, of seconds; this is for a
# machine that is too busy to give it any time.
_LIMIT_S = 600.0
_MOST_WORKERS = 8


class JudgeError(failures.RecurringError):
  """An answer could not be judged; the message names its problem."""


def domain_verdict(
  functions: Mapping[str, str], text: str, problem: Problem
) -> tuple[str, bool]:
  """Judges by the verdict of a suite's domain, else by `our_verdict`.

  Args:
    functions: Domain.verdict of each suite of which it is not "answer".
    text: all that the model wrote.
    problem: the problem.
  """
  final, is_correct = our_verdict(text, problem)
  if problem.suite in functions:
    verdict = find_function(RewardConfig(function=functions[problem.suite]))
    score = verdict(split_lenient(text).action, problem.answer)
    is_correct = bool(score >= 1)  # Also of a number of numpy.
  return final, is_correct


class Judges:
  """Worker processes that judge texts; use as a context manager."""

  def __init__(self, judge: JudgeFunction, workers: int = 0):
    """Starts no process yet.

    Args:
      judge: the function, which must be importable.
      workers: number of processes; 0 for half of the cores, at most 8.
    """
    half = max(1, (os.cpu_count() or 1) // 2)
    workers = workers or min(half, _MOST_WORKERS)
    self._judge = judge
    self._children = [
      LazyChild("srl_jax.evaluate.judges", Pickles) for _ in range(workers)
    ]
    self._free: queue.SimpleQueue[LazyChild] = queue.SimpleQueue()
    for child in self._children:
      self._free.put(child)
    self._threads = concurrent.futures.ThreadPoolExecutor(workers, "judge")
    self._under_way: collections.deque = collections.deque()

  def put(self, text: str, problem: Problem, make: Callable[..., Answer]):
    """Queues a text; `make` gets the keyword arguments final, is_correct."""
    verdict = self._threads.submit(self._ask, text, problem)
    self._under_way.append((verdict, make))

  def take(self, most_left: int = _MOST_UNJUDGED) -> Iterator[Answer]:
    """Yields what is judged, and waits until few enough are left.

    Raises:
      JudgeError: an answer could not be judged; the others are still there.
    """
    while self._under_way:
      verdict, make = self._under_way[0]
      if not verdict.done() and len(self._under_way) <= most_left:
        return
      self._under_way.popleft()
      final, is_correct = verdict.result()
      yield make(final=final, is_correct=is_correct)

  def take_good(self) -> Iterator[Answer]:
    """Yields all that can be judged, after something has gone wrong."""
    while self._under_way:
      with contextlib.suppress(JudgeError):
        yield from self.take(0)

  def _ask(self, text: str, problem: Problem) -> tuple[str, bool]:
    child = self._free.get()
    try:
      try:
        return self._answer(child, text, problem)
      except (TimeoutError, EOFError):
        # Whatever ended the process may have had nothing to do with the text.
        return self._answer(child, text, problem)
    except (TimeoutError, EOFError) as error:
      raise _error(problem, f"twice the judge {error}", error) from error
    finally:
      self._free.put(child)

  def _answer(self, child, text, problem) -> tuple[str, bool]:
    reply = child.ask((self._judge, text, problem), _LIMIT_S)
    if isinstance(reply, failures.RecurringError):
      raise _error(problem, str(reply), reply)
    return reply

  def __enter__(self) -> Judges:
    return self

  def __exit__(self, *_: object) -> None:
    self._threads.shutdown(cancel_futures=True)
    for child in self._children:
      child.close()


def _error(problem: Problem, reason: str, error: Exception) -> JudgeError:
  return JudgeError(
    f"an answer to the problem {problem.id!r} of {problem.suite!r} could not "
    f"be judged: {reason}",
    passes=failures.is_of_machine(error),
  )


def main() -> None:
  """Answers messages until the parent hangs up."""
  requests, answers = take_streams()
  with contextlib.suppress(EOFError, BrokenPipeError):
    while True:
      judge, text, problem = Pickles.receive(requests)
      try:
        reply = judge(text, problem)
      except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        reply = failures.RecurringError(
          f"{type(error).__name__}: {error} ({where})",
          passes=failures.is_of_machine(error),
        )
      Pickles.send(answers, reply)


if __name__ == "__main__":
  main()
