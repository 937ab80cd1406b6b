# SPDX-License-Identifier: Apache-2.0
"""A worker process as its parent sees it, and how the two talk.

Not multiprocessing: its children import the main module again, which here
would start JAX in each of them, and forked ones inherit JAX's threads. A
worker is `python -m srl_jax.rewards.worker` with pickles in its stdin and
stdout: first the config, then None, which is answered by True when the worker
is ready, then lists of (completion, target) or (completion, target, context),
each answered by a list of Scored or by the text of an error.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from typing import Any, BinaryIO

from srl_jax.rewards.reward import (
  Completion,
  RewardConfig,
  RewardContext,
  RewardError,
  Scored,
  shorten,
)

# A completion, what it is compared with, and where it was made, if wanted.
Row = tuple[Completion, str] | tuple[Completion, str, RewardContext]


def send(stream: BinaryIO, message: Any) -> None:
  """Writes one message at once."""
  stream.write(pickle.dumps(message))
  stream.flush()


def receive(stream: BinaryIO) -> Any:
  """Waits for one message; EOFError if the other side is gone."""
  return pickle.load(stream)


# Importing the package takes a fraction of this; importing a user's module may
# take longer, but it did not in the parent, or nobody would still be waiting.
_START_LIMIT_S = 120.0
# From a worker's hanging up to its end.
_EXIT_S = 5.0


class WorkerProcess:
  """One worker; started again if it has died."""

  def __init__(self, config: RewardConfig, timeout_s: float = 300.0) -> None:
    """Starts the process without waiting for it."""
    self._config, self._timeout_s = config, timeout_s
    self._is_ready = False
    self._process: subprocess.Popen[bytes] | None = self._start()

  def _start(self) -> subprocess.Popen[bytes]:
    paths = [os.path.abspath(path) for path in sys.path]
    process = subprocess.Popen(
      [sys.executable, "-m", "srl_jax.rewards.worker"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    send(process.stdin, self._config)
    self._is_ready = False
    return process

  def score(self, rows: list[Row]) -> list[Scored]:
    """Returns the rewards of a chunk.

    Raises:
      RewardError: the function failed, the process died, or it took more
        than timeout_s.
    """
    self._process = self._process or self._start()
    limit_s = _START_LIMIT_S
    try:
      if not self._is_ready:
        self._is_ready = self._ask(None, limit_s)
      limit_s = self._timeout_s
      answer = self._ask(rows, limit_s)
    except TimeoutError as error:
      raise self._error(f"took more than {limit_s:g} s", rows) from error
    except (EOFError, OSError, pickle.UnpicklingError) as error:
      code = self._process.wait()
      why = " (-9: killed, as when memory runs out)" if code == -9 else ""
      reason = f"ended its worker process with exit code {code}{why}"
      raise self._error(reason, rows) from error
    if isinstance(answer, str):
      raise RewardError(answer)
    return answer

  def _ask(self, message: Any, limit_s: float) -> Any:
    """Sends a message and returns the answer; kills the worker if late."""
    process = self._process
    is_late = threading.Event()

    def give_up() -> None:
      is_late.set()
      process.kill()

    timer = threading.Timer(limit_s, give_up)
    timer.start()
    try:
      send(process.stdin, message)
      return receive(process.stdout)
    except (EOFError, OSError, pickle.UnpicklingError) as error:
      if is_late.is_set():
        raise TimeoutError from error
      # It is about to end, and its own status says more than a kill's.
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_S)
      process.kill()
      raise
    finally:
      timer.cancel()

  def _error(self, reason: str, rows: list[Row]) -> RewardError:
    self.close()
    return RewardError(
      f"reward.function {self._config.function!r} {reason} on {len(rows)} "
      f"completions, the first of which is\n  {shorten(rows[0][0].text)}\n"
      "Try it on them with reward_workers.count = 0; reward_workers.timeout_s "
      "is the limit for one such chunk."
    )

  def close(self) -> None:
    """Ends the process."""
    process, self._process = self._process, None
    if process is None:
      return
    process.kill()  # it holds nothing that a clean exit would save
    process.wait()
    process.stdout.close()
    # A dead worker cannot take what was left to flush.
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()
