# SPDX-License-Identifier: Apache-2.0
"""The turns that a benchmark's worker process is told to take.

Every line in is a command ("step", "reset" or "stop"), every line out what a
turn cost, as JSON.
"""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

from benchmarks import memory


class Turns:
  """The steps that this process is told to take, and what each costs."""

  def __init__(self, commands: TextIO, answers: TextIO):
    self._commands, self._answers = commands, answers
    self._start = (0.0, 0.0)

  def send(self, **values: Any) -> None:
    """Answers with one line."""
    self._answers.write(json.dumps(values) + "\n")
    self._answers.flush()

  def begin(self) -> bool:
    """Waits for a turn; False if there is none any more."""
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
    """Reports the turn."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    self.send(
      wall_s=wall_s - self._start[0],
      cpu_s=cpu_s - self._start[1],
      peak_bytes=memory.peak_rss(),
      **counted,
    )
