# SPDX-License-Identifier: Apache-2.0
"""A reward worker as its parent sees it.

It is `python -m srl_jax.rewards.worker`, a child of processes/children.py. It
gets first the config, then None, which is answered by True when the worker is
ready, then lists of (completion, target) or (completion, target, context), each
answered by a list of Scored or by a RewardError.
"""

from __future__ import annotations

from srl_jax.processes import failures
from srl_jax.processes.children import Child, Pickles
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


# Importing the package takes a fraction of this; importing a user's module may
# take longer, but it did not in the parent, or nobody would still be waiting.
_START_LIMIT_S = 120.0


class WorkerProcess:
  """One worker; started again if it has died."""

  def __init__(self, config: RewardConfig, timeout_s: float = 300.0) -> None:
    """Starts the process without waiting for it."""
    self._config, self._timeout_s = config, timeout_s
    self._is_ready = False
    self._child: Child | None = self._start()

  def _start(self) -> Child:
    child = Child("srl_jax.rewards.worker", Pickles)
    child.send(self._config)
    self._is_ready = False
    return child

  def score(self, rows: list[Row]) -> list[Scored]:
    """Returns the rewards of a chunk.

    Raises:
      RewardError: the function failed, the process died, or it took more
        than timeout_s.
    """
    self._child = self._child or self._start()
    try:
      if not self._is_ready:
        self._is_ready = self._child.ask(None, _START_LIMIT_S)
      answer = self._child.ask(rows, self._timeout_s)
    except (TimeoutError, EOFError) as error:
      raise self._error(error, rows) from error
    if isinstance(answer, RewardError):
      raise answer
    return answer

  def _error(self, error: Exception, rows: list[Row]) -> RewardError:
    self.close()
    return RewardError(
      f"reward.function {self._config.function!r} {error} on {len(rows)} "
      f"completions, the first of which is\n  {shorten(rows[0][0].text)}\n"
      "Try it on them with reward_workers.count = 0; reward_workers.timeout_s "
      "is the limit for one such chunk.",
      passes=failures.is_of_machine(error),
    )

  def close(self) -> None:
    """Ends the process."""
    child, self._child = self._child, None
    if child is not None:
      child.close()
