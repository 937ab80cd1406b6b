# SPDX-License-Identifier: Apache-2.0
"""Ends a run of several processes that hangs, and says where each one does.

A process that stops on its host, or a network that fails, leaves the others
waiting in a collective for ever: nothing raises an error. A thread of each
process sees that nothing goes on, writes the stacks of its process, and ends
it. Not for: runs of one process, which wait for nobody.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator

import jax

from srl_jax import progress, strict

# The others notice the same a little earlier or later, and when a process has
# ended, JAX or the launcher ends those that are left without their stacks.
_FOR_OTHERS_S = 4.0


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
  """When a run of several processes is taken to hang.

  Attributes:
    limit_s: seconds without progress after which each process writes its stacks
      to stderr and ends with status 1; 0 never. Progress is an update step, a
      round of sampling, a compiled program, a batch of an evaluation; the limit
      must be above the longest of them.
  """

  limit_s: float = 3600.0

  def __post_init__(self):
    strict.check_numbers(self, limit_s="[0, )")


@contextlib.contextmanager
def watching(config: WatchdogConfig) -> Iterator[None]:
  """Within, this process ends if it makes no progress for too long."""
  if jax.process_count() == 1 or not config.limit_s:
    yield
    return
  is_over = threading.Event()
  thread = threading.Thread(
    target=_watch, args=(config.limit_s, is_over), daemon=True
  )
  progress.changed()
  thread.start()
  try:
    yield
  finally:
    is_over.set()


def _watch(limit_s: float, is_over: threading.Event) -> None:
  while not is_over.wait(min(1.0, limit_s / 10)):
    silent_s, what = progress.standstill()
    if silent_s > limit_s:
      _end(limit_s, what)


def _end(limit_s: float, what: str) -> None:
  # To stderr as it is: the main thread may hold the lock of sys.stderr.
  text = (
    f"error: process {jax.process_index()} of {jax.process_count()} made no "
    f"progress for {limit_s:g} s (c.watchdog.limit_s), in: {what}. In "
    "collectives all wait for the slowest: look for the process whose main "
    "thread is elsewhere. The same command goes on from the last checkpoint. "
    "Stacks of this process:\n"
  )
  with contextlib.suppress(OSError):
    os.write(sys.__stderr__.fileno(), text.encode())
    faulthandler.dump_traceback(sys.__stderr__.fileno(), all_threads=True)
  time.sleep(_FOR_OTHERS_S)
  os._exit(1)
