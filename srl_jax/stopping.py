# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C end a run at any moment; while it trains, it saves first.

Python runs a signal's handler only between two of its own instructions, which
may be minutes later in a compilation, and an exception from there could hit any
line of any library. So a thread of its own waits for signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


_IDLE = (
  "asked to stop while nothing was trained, so there is nothing to save. "
  "Run the same command again to go on."
)


class _State:
  lock = threading.Lock()
  is_listening = False
  can_save = False
  asked = 0
  idle = _IDLE


def listen(idle: str = _IDLE) -> None:
  """Takes over both signals, for the rest of this process's life.

  Args:
    idle: what to say when a signal comes and there is nothing to save.
  """
  _State.idle = idle
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  for number in _SIGNALS:
    # Only signals with a handler in Python reach the pipe.
    signal.signal(number, lambda *_: None)
  _State.is_listening = True
  threading.Thread(target=_obey, args=(read,), daemon=True).start()


def _obey(read: int) -> None:
  while True:
    for number in os.read(read, 64):
      if number in _SIGNALS:
        _ask(number)


def _ask(number: int) -> None:
  with _State.lock:
    if not _State.can_save:
      _end(number, _State.idle)
    if _State.asked:
      _end(number, "asked twice: stopped without saving")
    _State.asked = number
  _say("asked to stop: saving after this update step (once more ends at once)")


def _end(number: int, message: str) -> None:
  _say(message)
  os._exit(128 + number)


def _say(line: str) -> None:
  # Not print: the main thread may hold its lock.
  os.write(1, f"{line}\n".encode())


def status() -> int:
  """Returns the exit status of a run that saved and stopped."""
  return 128 + (_State.asked or signal.SIGTERM)


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
  try:
    yield lambda: bool(_State.asked)
    with _State.lock:
      if _State.asked:
        _end(_State.asked, "asked to stop; all is saved")
  finally:
    with _State.lock:
      _State.can_save = False
