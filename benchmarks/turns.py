# SPDX-License-Identifier: Apache-2.0
"""The turns that a benchmark's worker process takes on command.

Every input line is a command ("step", "reset" or "stop"); every output line is
the cost of a turn, as JSON.
"""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

from benchmarks import memory


class Turns:
  """The update steps that this process is told to take, and their costs."""

  def __init__(self, commands: TextIO, answers: TextIO):
    self._commands, self._answers = commands, answers
    self._start = (0.0, 0.0)

  def send(self, **values: Any) -> None:
    """Answers with one line."""
    self._answers.write(json.dumps(values) + "\n")
    self._answers.flush()

  def begin(self) -> bool:
    """Waits for a turn; returns False after the last one."""
    for line in self._commands:
      command = line.strip()
      if command == "reset":
        memory.reset_peak_rss()
        continue
      if command == "step":
        self._start = (time.perf_counter(), time.process_time())
        return True
      break
    return False

  def end(self, **counted: Any) -> None:
    """Reports the cost of the turn."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    self.send(
      wall_s=wall_s - self._start[0],
      cpu_s=cpu_s - self._start[1],
      peak_bytes=memory.peak_rss(),
      **counted,
    )
