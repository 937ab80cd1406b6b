# SPDX-License-Identifier: Apache-2.0
"""Calls of environments and verdicts, made while the devices decode.

Every process begins the same calls in the same order. One of them, the owner,
makes the call, and all learn in the same moment that it is done.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import jax

from srl_jax import sharding
from srl_jax.processes.failures import RecurringError, is_of_machine

S = TypeVar("S")

# Seconds in which fast calls are waited for, so that they miss no segment.
_GRACE_S = 0.005
# Seconds between two questions to the other processes while all wait.
_POLL_S = 0.1


class Calls(Generic[S]):
  """Calls under way; each is of a subject, which has one at a time."""

  def __init__(self, describe: Callable[[S], str], close: Callable[[S], None]):
    """Nothing is under way yet.

    Args:
      describe: the error message for the exception that is being handled, which
        a call of the subject has raised.
      close: frees what a subject holds; it is called in the subject's thread.
    """
    self._describe, self._close = describe, close
    self._begun: dict[S, Future | None] = {}
    self._threads: dict[S, ThreadPoolExecutor] = {}
    # Those without a thread, in the order of their first calls.
    self._others: dict[S, None] = {}
    self._cores = threading.Semaphore(os.cpu_count() or 1)
    self._is_closing = False

  def begin(
    self,
    subject: S,
    call: Callable[[S], Any],
    *,
    owner: int,
    in_thread: bool,
  ) -> None:
    """Begins a call.

    Args:
      subject: what is called.
      call: the function.
      owner: index of the process that makes the call.
      in_thread: whether the subject has a thread of its own, in which all its
        calls are made. As many threads as there are cores work at a time.
        Otherwise the call is made now.
    """
    self._begun[subject] = None
    if owner == jax.process_index():
      if in_thread:
        self._begun[subject] = self._in_thread(call, subject)
      else:
        self._others[subject] = None
        self._begun[subject] = _now(call, subject)

  def collect(self, *, wait: bool) -> list[tuple[S, Any]]:
    """Takes calls that are done: the same in all processes.

    Args:
      wait: whether to wait until one is done. There must be one under way.

    Returns:
      Subjects and results, in the order in which the calls were begun.

    Raises:
      RecurringError: a call failed in some process.
    """
    subjects = list(self._begun)
    done: dict[int, Any] = {}
    while subjects and not done:
      results, failure, cause = self._results(wait)
      everywhere = sharding.gather_objects((results, failure))
      for failure in filter(None, (failure for _, failure in everywhere)):
        raise failure from cause
      done = {n: x for results, _ in everywhere for n, x in results.items()}
      if not wait:
        break
    for number in done:
      del self._begun[subjects[number]]
    return [(subjects[number], done[number]) for number in sorted(done)]

  def _results(
    self, wait: bool
  ) -> tuple[dict[int, Any], RecurringError | None, Exception | None]:
    """This process's results by the number of the call, or its failure.

    The last is what the failure was made of, which other processes do not get.
    """
    own = [future for future in self._begun.values() if future]
    concurrent.futures.wait(own, _GRACE_S)
    if wait:
      first = concurrent.futures.FIRST_COMPLETED
      concurrent.futures.wait(own, _POLL_S, first)
    results = {}
    for number, (subject, future) in enumerate(self._begun.items()):
      if future and future.done():
        try:
          results[number] = future.result()
        except Exception as error:
          passes = is_of_machine(error)
          failure = RecurringError(self._describe(subject), passes=passes)
          return {}, failure, error
    return results, None, None

  def end(self, subject: S) -> None:
    """Says that the subject has no more calls, and nothing to close."""
    self._others.pop(subject, None)
    if thread := self._threads.pop(subject, None):
      thread.shutdown(wait=False)

  def close(self) -> None:
    """Closes all subjects with threads, after the calls that are being made."""
    self._is_closing = True
    for subject in self._others:
      with contextlib.suppress(Exception):
        self._close(subject)
    for subject, thread in self._threads.items():
      thread.submit(self._close, subject)
    for thread in self._threads.values():
      thread.shutdown()

  def _in_thread(self, call: Callable[[S], Any], subject: S) -> Future:
    def work():
      with self._cores:
        return None if self._is_closing else call(subject)

    if subject not in self._threads:
      self._threads[subject] = ThreadPoolExecutor(1, "environment")
    return self._threads[subject].submit(work)


def _now(call: Callable[[S], Any], subject: S) -> Future:
  future: Future = Future()
  try:
    future.set_result(call(subject))
  except Exception as error:
    future.set_exception(error)
  return future
