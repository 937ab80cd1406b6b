# SPDX-License-Identifier: Apache-2.0
"""Rewards of many completions, in this process or in worker processes."""

from __future__ import annotations

import concurrent.futures
import queue
from collections.abc import Sequence

from srl_jax.rewards import similarity
from srl_jax.rewards.reward import (
  Completion,
  RewardConfig,
  Scored,
  find_function,
  score_one,
)
from srl_jax.rewards.worker_process import WorkerProcess


class Scorer:
  """Scores completions; a context manager, because it may own processes.

  with Scorer(RewardConfig(workers=2)) as scorer:
    scored = scorer.score(completions, targets)

  Workers are fresh Python processes that import this package's host part
  only, never JAX, so they start in a fraction of a second and cannot touch an
  accelerator. They end with this process, however it ends.
  """

  def __init__(self, config: RewardConfig) -> None:
    """Finds the function and starts the workers.

    Raises:
      ValueError: the reward function cannot be found.
    """
    if config.function == "difflib":
      similarity.say_if_slow()
    self._config = config
    self._function = find_function(config)
    if config.workers and config.function.startswith("__main__:"):
      raise ValueError(
        f"reward.function {config.function!r} lives in the notebook or script "
        "itself, where workers cannot import it; move it to a module, or set "
        "reward.workers to 0."
      )
    self._workers = [WorkerProcess(config) for _ in range(config.workers)]
    self._free: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    for worker in self._workers:
      self._free.put(worker)
    self._threads = (
      concurrent.futures.ThreadPoolExecutor(config.workers, "reward")
      if config.workers
      else None
    )

  def __enter__(self) -> Scorer:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def close(self) -> None:
    """Ends the workers."""
    for worker in self._workers:
      worker.close()
    if self._threads:
      self._threads.shutdown()

  def score(
    self, completions: Sequence[Completion], targets: Sequence[str]
  ) -> list[Scored]:
    """Returns the rewards, in the order of the completions.

    Args:
      completions: what was written.
      targets: per completion the expert's text, or the reference answer.

    Raises:
      RewardError: the reward function failed; names the completion.
    """
    if len(completions) != len(targets):
      raise ValueError(
        f"got {len(completions)} completions and {len(targets)} targets; give "
        "one target per completion."
      )
    pairs = list(zip(completions, targets, strict=True))
    if not self._threads:
      return [score_one(self._config, self._function, *pair) for pair in pairs]
    # Small chunks, because long texts cost hundreds of times what short ones
    # do; not single pairs, because a round trip costs 0.1 ms.
    size = max(1, min(64, len(pairs) // (4 * len(self._workers))))
    chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    futures = [self._threads.submit(self._score_chunk, c) for c in chunks]
    try:
      return [scored for future in futures for scored in future.result()]
    finally:
      for future in futures:
        future.cancel()

  def _score_chunk(self, chunk: list[tuple[Completion, str]]) -> list[Scored]:
    worker = self._free.get()
    try:
      return worker.score(chunk)
    finally:
      self._free.put(worker)
