# SPDX-License-Identifier: Apache-2.0
"""Says what a run is doing whenever it would otherwise be silent for long.

Code that may take long opens a `task`; the code below it reports progress by
`advance` and `note`, without knowing which task it is. After ten silent seconds
a thread prints the innermost task, even while the main thread compiles. Each
line is complete, so a log file shows the same as a terminal. Only process 0
prints; all processes know how long nothing has progressed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator

import jax

# Longest silence in seconds: at first, and once a task has taken long.
SILENCE_S = 10.0
_LATER_S = 30.0
_LONG_S = 120.0


@dataclasses.dataclass
class _Task:
  """Something under way; times are of time.monotonic."""

  what: str
  start_s: float
  done: int = 0
  total: int = 0
  begin: int = 0
  begin_s: float = 0.0
  note: str = ""

  def line(self, now_s: float) -> str:
    """The task, its progress and result, the time so far and the time left."""
    parts = [self.what]
    if self.total:
      parts.append(f"{self.done}/{self.total}")
    parts.append(self.note)
    parts.append(f"{format_duration(now_s - self.start_s)} so far")
    if self.done > self.begin:
      each_s = (now_s - self.begin_s) / (self.done - self.begin)
      left_s = each_s * (self.total - self.done)
      parts.append(f"{format_duration(left_s)} left")
    return "  ".join(filter(None, parts))


class _State:
  lock = threading.Lock()
  tasks: list[_Task] = []  # noqa: RUF012 (one per process, on purpose)
  last_s = 0.0
  changed_s = 0.0


def changed() -> None:
  """Notes that there is progress; the functions below do so too."""
  _State.changed_s = time.monotonic()


def standstill() -> tuple[float, str]:
  """Returns the seconds without progress, and the task."""
  now_s = time.monotonic()
  with _State.lock:
    what = _State.tasks[-1].line(now_s) if _State.tasks else "no task"
  return now_s - _State.changed_s, what


def say(line: str) -> None:
  """Prints a line at once (process 0)."""
  if jax.process_index() == 0:
    _State.last_s = time.monotonic()
    # In one piece: two threads may write.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def warn(text: str) -> None:
  """Prints a warning at once (process 0)."""
  say(f"warning: {text}")


@contextlib.contextmanager
def task(what: str, done: int = 0, total: int = 0) -> Iterator[None]:
  """Names what is done within it, for the lines after long silences.

  Args:
    what: what is done, as the line begins.
    done: parts of it that were done before.
    total: number of parts, if it has any.
  """
  changed()
  now_s = time.monotonic()
  new = _Task(what, now_s, done, total, begin=done, begin_s=now_s)
  with _State.lock:
    is_first = not _State.tasks
    _State.tasks.append(new)
    if is_first:
      _State.last_s = now_s
  is_over = threading.Event()
  if is_first and jax.process_index() == 0:
    threading.Thread(target=_watch, args=(is_over,), daemon=True).start()
  try:
    yield
  finally:
    with _State.lock:
      _State.tasks.remove(new)
    changed()
    is_over.set()


def advance(done: int, total: int) -> None:
  """Says how many parts of the innermost task are done."""
  changed()
  if not _State.tasks:
    return
  current = _State.tasks[-1]
  if done <= current.done:
    # A new count begins.
    current.begin, current.begin_s = 0, time.monotonic()
  current.done, current.total = done, total


def note(text: str) -> None:
  """Notes the result or progress of the innermost task, in words."""
  changed()
  if _State.tasks:
    _State.tasks[-1].note = text


def _watch(is_over: threading.Event) -> None:
  while not is_over.wait(SILENCE_S / 10):
    now_s = time.monotonic()
    with _State.lock:
      line = _due_line(now_s)
    if line:
      say(line)


def _due_line(now_s: float) -> str:
  """Returns the line that is due now; "" if none is."""
  if not _State.tasks:
    return ""
  current = _State.tasks[-1]
  is_long = now_s - current.start_s > _LONG_S
  silence_s = max(SILENCE_S, _LATER_S) if is_long else SILENCE_S
  return current.line(now_s) if now_s - _State.last_s >= silence_s else ""


def format_duration(seconds: float) -> str:
  """Returns e.g. "42s", "3m07s" or "2h05m"."""
  whole = max(0, round(seconds))
  if whole < 60:
    return f"{whole}s"
  if whole < 3600:
    return f"{whole // 60}m{whole % 60:02d}s"
  return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
