# SPDX-License-Identifier: Apache-2.0
"""Rewards of many completions, in this process or in worker processes."""

from __future__ import annotations

import concurrent.futures
import queue
from collections.abc import Sequence

from srl_jax.rewards import similarity
from srl_jax.rewards.reward import (
  SIMILARITIES,
  Completion,
  RewardConfig,
  RewardContext,
  Scored,
  WorkersConfig,
  find_function,
  score_one,
  wants_context,
)
from srl_jax.rewards.worker_process import Row, WorkerProcess


class Scorer:
  """Scores completions; a context manager, because it may own processes.

  with Scorer(RewardConfig(), WorkersConfig(2)) as scorer:
    scored = scorer.score(completions, targets)

  Workers are fresh Python processes that import this package's host part
  only, never JAX, so they start in a fraction of a second and cannot touch an
  accelerator. They end with this process, however it ends.

  Attributes:
    wants_context: whether the function wants a context per completion.
    is_similarity: whether its values are similarities, from 0 to 1.
  """

  def __init__(
    self, config: RewardConfig, workers: WorkersConfig = WorkersConfig()
  ) -> None:
    """Finds the function and starts the workers.

    Raises:
      ValueError: the reward function cannot be found.
    """
    if config.function == "difflib":
      similarity.say_if_slow()
    self._config = config
    self._function = find_function(config)
    self.wants_context = wants_context(self._function)
    self.is_similarity = config.function in SIMILARITIES
    count = workers.processes(config.function)
    if count and config.function.startswith("__main__:"):
      raise ValueError(
        f"reward.function {config.function!r} lives in the notebook or script "
        "itself, where workers cannot import it; move it to a module, or set "
        "reward_workers.count to 0."
      )
    self._workers = [
      WorkerProcess(config, workers.timeout_s) for _ in range(count)
    ]
    self._free: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
    for worker in self._workers:
      self._free.put(worker)
    self._threads = (
      concurrent.futures.ThreadPoolExecutor(count, "reward") if count else None
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
    self,
    completions: Sequence[Completion],
    targets: Sequence[str],
    contexts: Sequence[RewardContext] | None = None,
  ) -> list[Scored]:
    """Returns the rewards, in the order of the completions.

    Args:
      completions: what was written.
      targets: per completion the expert's text, or the reference answer.
      contexts: per completion, if the function wants them; otherwise they go
        nowhere. One object for all completions of a branch point is sent to a
        worker only once per chunk.

    Raises:
      RewardError: the reward function failed; names the completion.
    """
    columns = [completions, targets]
    if self.wants_context:
      columns.append(contexts or ())
    if len(set(map(len, columns))) > 1:
      counts = ", ".join(
        f"{len(column)} {name}"
        for name, column in zip(
          ("completions", "targets", "contexts"), columns, strict=False
        )
      )
      raise ValueError(f"got {counts}; give one of each per completion.")
    rows = list(zip(*columns, strict=True))
    if not self._threads:
      return [score_one(self._config, self._function, *row) for row in rows]
    # Small chunks, because long texts cost hundreds of times what short ones
    # do; not single ones, because a round trip costs 0.1 ms.
    size = max(1, min(64, len(rows) // (4 * len(self._workers))))
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
    futures = [self._threads.submit(self._score_chunk, c) for c in chunks]
    try:
      return [scored for future in futures for scored in future.result()]
    finally:
      for future in futures:
        future.cancel()

  def _score_chunk(self, chunk: list[Row]) -> list[Scored]:
    worker = self._free.get()
    try:
      return worker.score(chunk)
    finally:
      self._free.put(worker)
