# SPDX-License-Identifier: Apache-2.0
"""Processes that answer messages, and can be ended if they do not.

Code of others (rewards, chat templates, tokenizer files, answers to be judged)
can run for ever, take all memory or crash. It runs in a child, a
`python -m MODULE` that reads messages from its stdin and answers each on its
stdout. Not multiprocessing: its children import the main module again, which
here would start JAX in each of them, and forked ones inherit JAX's threads.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

# From a child's hanging up to its end.
_EXIT_S = 5.0
# Ctrl-C and a scheduler's SIGTERM reach the whole process group, but the parent
# decides when a child ends.
_OF_GROUPS = (signal.SIGINT, signal.SIGTERM)


class Pickles:
  """Messages of any kind. Only for children whose code is trusted."""

  @staticmethod
  def send(stream: BinaryIO, message: Any) -> None:
    """Writes one message at once."""
    stream.write(pickle.dumps(message))
    stream.flush()

  @staticmethod
  def receive(stream: BinaryIO) -> Any:
    """Waits for one message; EOFError if the other side is gone."""
    try:
      return pickle.load(stream)
    except pickle.UnpicklingError as error:
      raise EOFError from error


class Lines:
  """Messages that are JSON, one a line: to read one can do no harm."""

  @staticmethod
  def send(stream: BinaryIO, message: Any) -> None:
    """Writes one message at once."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()

  @staticmethod
  def receive(stream: BinaryIO) -> Any:
    """Waits for one message; EOFError if the other side is gone."""
    line = stream.readline()
    if not line.endswith(b"\n"):
      raise EOFError
    return json.loads(line)


class FailedError(EOFError):
  """A child has ended by an error of its own, and not by a limit."""


class Child:
  """One child; it starts at once and does not start again."""

  def __init__(
    self,
    module: str,
    messages: type[Pickles] | type[Lines],
    environment: Mapping[str, str] | None = None,
  ) -> None:
    """Starts the process without waiting for it.

    Args:
      module: the module that it runs.
      messages: how the two talk.
      environment: variables besides those of this process.
    """
    self._messages = messages
    self.owner = os.getpid()
    paths = [os.path.abspath(path) for path in sys.path]
    # The child inherits that they are blocked, until it can ignore them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_GROUPS)
    try:
      self._process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={
          **os.environ,
          **(environment or {}),
          "PYTHONPATH": os.pathsep.join(paths),
        },
      )
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)

  def send(self, message: Any) -> None:
    """Sends a message without waiting for an answer."""
    self._messages.send(self._process.stdin, message)

  def ask(self, message: Any, limit_s: float) -> Any:
    """Sends a message and returns the answer.

    Raises:
      TimeoutError: there was no answer in time; the child has been killed.
      EOFError: the child has ended; its text says how. A FailedError if it
        was not killed.
    """
    is_late = threading.Event()

    def give_up() -> None:
      is_late.set()
      self._process.kill()

    timer = threading.Timer(limit_s, give_up)
    timer.start()
    try:
      self.send(message)
      return self._messages.receive(self._process.stdout)
    except (EOFError, OSError) as error:
      if is_late.is_set():
        raise TimeoutError(f"took more than {limit_s:g} s") from error
      # It is about to end, and its own status says more than a kill's.
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(_EXIT_S)
      self._process.kill()
      code = self._process.wait()
      failure = FailedError if code > 0 else EOFError
      raise failure(_ending(code)) from error
    finally:
      timer.cancel()

  def close(self) -> None:
    """Ends the process."""
    self._process.kill()  # It holds nothing that a clean exit would save.
    self._process.wait()
    self._process.stdout.close()
    # A dead child cannot take what was left to flush.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()


class LazyChild:
  """A child that starts when it is first needed, and again if it has ended."""

  def __init__(self, *of_child: Any) -> None:
    """Keeps the arguments of Child, and ends the child with this process."""
    self._of_child = of_child
    self._child: Child | None = None
    self._lock = threading.Lock()
    atexit.register(self.close)

  def ask(self, message: Any, limit_s: float) -> Any:
    """Returns the answer to a message; see Child.ask."""
    with self._lock:
      if self._child is None or self._child.owner != os.getpid():
        self._child = Child(*self._of_child)
      try:
        return self._child.ask(message, limit_s)
      except BaseException:
        # An answer that is still to come, as after Ctrl-C, would be taken for
        # that of the next message.
        self.close()
        raise

  def close(self) -> None:
    """Ends the child, if there is one."""
    child, self._child = self._child, None
    # A forked process has its parent's child, but must not end it.
    if child is not None and child.owner == os.getpid():
      child.close()


def _ending(code: int) -> str:
  reasons = {
    -signal.SIGKILL: " (-9: killed, as when memory runs out)",
    -signal.SIGPROF: " (its limit of CPU time)",
    -signal.SIGSEGV: " (a crash in compiled code, as of a full stack)",
    -signal.SIGABRT: " (aborted, as when memory runs out in compiled code)",
  }
  return f"ended its process with exit code {code}{reasons.get(code, '')}"


def take_streams() -> tuple[BinaryIO, BinaryIO]:
  """Returns a child's streams of requests and answers.

  What libraries print or read gets at neither, and signals that are meant for
  the parent do nothing.
  """
  for number in _OF_GROUPS:
    signal.signal(number, signal.SIG_IGN)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_GROUPS)
  requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  with open(os.devnull, "rb") as nothing:
    os.dup2(nothing.fileno(), 0)
  # Children are killed, which would lose what they have printed last.
  sys.stdout.reconfigure(line_buffering=True)
  return requests, answers


def serve_lines(
  start: Callable[[], Callable[[Any], Any]], cpu_s: float, max_bytes: int
) -> None:
  """Answers messages until the parent hangs up; for a child's main.

  Args:
    start: imports what is needed and returns the function that answers a
      message, both of them JSON.
    cpu_s: CPU seconds for one message, after which the system kills this
      process, whatever runs.
    max_bytes: limit of the address space; more is a MemoryError.
  """
  requests, answers = take_streams()
  logging.disable(logging.CRITICAL)
  resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  # A parent that ignores or blocks the signal would pass that on.
  signal.signal(signal.SIGPROF, signal.SIG_DFL)
  signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
  answer = start()
  with contextlib.suppress(EOFError, BrokenPipeError):
    while True:
      message = Lines.receive(requests)
      signal.setitimer(signal.ITIMER_PROF, cpu_s)
      reply = answer(message)
      signal.setitimer(signal.ITIMER_PROF, 0)
      Lines.send(answers, reply)
