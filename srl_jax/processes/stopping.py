# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C end a run at any moment; while it trains, it saves first.

Python runs a signal's handler only between two of its own instructions, which
may be minutes later in a compilation, and an exception from there could hit any
line of any library. So a thread of its own waits for signals.

Each `python -m srl_jax...` listens before its imports, which take seconds (see
srl_jax/__init__.py). Only modules that load in no time may be imported here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_IDLE = "asked to stop: ended at once"


class _State:
  lock = threading.Lock()
  arrivals = threading.Lock()
  pipe = -1
  of_thread = threading.local()
  is_listening = False
  can_save = False
  asked = 0
  interrupts = 0
  is_interrupted = False
  idle = _IDLE


def listen(idle: str = _IDLE) -> None:
  """Takes over both signals, until another handler of Python is set for them.

  Calling it again takes them over again, and changes the text.

  Args:
    idle: what to say when a signal comes and there is nothing to save.
  """
  if not _State.is_listening:
    _State.pipe, write = os.pipe()
    os.set_blocking(_State.pipe, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_wait, daemon=True).start()
    os.register_at_fork(
      before=_hold, after_in_parent=_release, after_in_child=_leave
    )
    _State.is_listening = True
  with _State.arrivals:
    # What came until now is for the handlers of until now.
    _obey()
    _State.idle = idle
    for number in _SIGNALS:
      signal.signal(number, _heard)


def _heard(*_) -> None:
  """Does nothing; only signals with a handler in Python reach the pipe."""


def _hold() -> None:
  """Before a fork: keeps signals back until it has handlers of its own."""
  _State.of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release() -> None:
  signal.pthread_sigmask(signal.SIG_SETMASK, _State.of_thread.mask)


def _leave() -> None:
  """In a fork: the pipe is the parent's, and a thread does not come along."""
  signal.set_wakeup_fd(-1)
  for number in _SIGNALS:
    if signal.getsignal(number) is _heard:
      signal.signal(number, signal.SIG_DFL)
  _release()


def _wait() -> None:
  while True:
    select.select([_State.pipe], [], [])
    with _State.arrivals:
      _obey()


def _obey() -> None:
  with contextlib.suppress(BlockingIOError):
    for number in os.read(_State.pipe, 64):
      handler = signal.getsignal(number)
      if number in _SIGNALS and handler is _heard:
        _ask(number)
      elif number in _SIGNALS and handler is _interrupted:
        _interrupt(number)


def _ask(number: int) -> None:
  with _State.lock:
    if not _State.can_save:
      _end(number, _State.idle)
    if _State.asked:
      _end(number, "asked twice: stopped without saving")
    _State.asked = number
  _say("asked to stop: saving after this update step (once more ends at once)")


def _interrupt(number: int) -> None:
  _State.interrupts += 1
  if _State.interrupts > 1:
    _end(number, "asked twice: ended at once")


def _end(number: int, message: str) -> None:
  _say(message)
  os._exit(128 + number)


def _say(line: str) -> None:
  # Not print: the main thread may hold its lock. And a reader that is gone must
  # not keep the process from ending.
  with contextlib.suppress(OSError):
    os.write(2, f"{line}\n".encode())


def status() -> int:
  """Returns the exit status of a run that saved and stopped."""
  return 128 + (_State.asked or signal.SIGTERM)


def _interrupted(*_) -> None:
  _State.is_interrupted = True


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
  """Within, Ctrl-C only asks to stop; once more ends the process at once.

  So it ends even a program that compiles, and then hears nothing.

  Yields:
    Tells whether Ctrl-C was pressed.
  """
  _State.interrupts, _State.is_interrupted = 0, False
  before = signal.signal(signal.SIGINT, _interrupted)
  try:
    yield lambda: _State.is_interrupted
  finally:
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def saving() -> Iterator[Callable[[], bool]]:
  """Within, a signal does not end the process: it should save and stop.

  Where nobody listens, as in a notebook, SIGTERM alone is heard.

  Yields:
    Tells whether this process was asked to stop.
  """
  if not _State.is_listening:
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
      yield lambda: bool(asked)
    finally:
      signal.signal(signal.SIGTERM, before)
    return
  with _State.lock:
    _State.can_save = True
    # A caller that went on after it was stopped, as tests do, is not stopped
    # again.
    _State.asked = 0
  try:
    yield lambda: bool(_State.asked)
    with _State.lock:
      if _State.asked:
        _end(_State.asked, "asked to stop; all is saved")
  finally:
    with _State.lock:
      _State.can_save = False
