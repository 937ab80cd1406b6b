# SPDX-License-Identifier: Apache-2.0
"""A round of sampling: completions of a batch of trunks, and their scores.

Scores are made where it is best: on the device, in which case only what is
too long for it is scored on the host; or on the host, part by part, while the
device decodes the next part. What is done with the scores is the stage's
business.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from srl_jax import device_reward, scoring, sharding
from srl_jax.data.batching import TrunkBatch
from srl_jax.device_reward import DeviceReward, Targets
from srl_jax.rewards import Scorer
from srl_jax.sampler import Sampler
from srl_jax.tokenizers import Tokenizer
from srl_jax.types import Branches, Scores, Trunks


class Round(NamedTuple):
  """This process's part of a round, as numpy arrays.

  Attributes:
    branches: [N, R, ...].
    scores: [N, K, G].
    wait_s: seconds spent waiting for the device.
    reward_s: seconds spent on scoring, host only.
  """

  branches: Branches
  scores: Scores
  wait_s: float
  reward_s: float


class OnDevice:
  """The compiled reward on a mesh, and the arrays it compares with."""

  def __init__(
    self,
    reward: DeviceReward,
    target_width: int,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
  ):
    """`target_width` is that of the longest target, in characters."""
    self._width = target_width
    spec = rules.spec(("batch",))
    # Rows are sorted by length inside, which is not to cross devices.
    self.score = jax.shard_map(
      reward, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    self.program = jax.jit(self.score)

  def targets(self, batch: TrunkBatch) -> Targets:
    """The expert's steps of a batch, as numpy arrays."""
    return device_reward.encode_targets(batch, self._width)


class Rounds:
  """Samples and scores batches of trunks."""

  def __init__(
    self,
    sampler: Sampler,
    scorer: Scorer,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
    *,
    on_device: OnDevice | None = None,
    parts: int = 1,
  ):
    """Args are the pieces, and in how many parts a batch is sampled."""
    self._sampler, self._scorer, self._tokenizer = sampler, scorer, tokenizer
    self._mesh, self._rules = mesh, rules
    self._on_device, self._parts = on_device, parts

  def run(self, params: Any, batch: TrunkBatch, key: jax.Array) -> Round:
    """Samples this process's rows and scores them."""
    parts = _split(batch, self._parts)
    # All parts are queued at once; the device goes through them in order.
    started = [self._start(params, part, key) for part in parts]
    done = [
      self._finish(part, arrays)
      for part, arrays in zip(parts, started, strict=True)
    ]
    merge = lambda *xs: np.concatenate(xs)  # noqa: E731
    return Round(
      jax.tree.map(merge, *(x.branches for x in done)),
      jax.tree.map(merge, *(x.scores for x in done)),
      sum(x.wait_s for x in done),
      sum(x.reward_s for x in done),
    )

  def _start(self, params, part, key):
    branches = self._sampler.start(params, part.trunks, key)
    if self._on_device is None:
      return branches
    targets = sharding.put_batch(
      self._on_device.targets(part), self._mesh, self._rules
    )
    return branches, *self._on_device.program(branches, targets)

  def _finish(self, part, arrays):
    start_s = time.monotonic()
    arrays = sharding.local_rows(arrays, self._mesh, self._rules)
    read_s = time.monotonic()
    if self._on_device is None:
      branches = arrays
      scores = self._score(part, branches)
    else:
      branches, scores, is_scored_NKG = arrays
      is_left_NKG = part.trunks.is_real_NK[..., None] & ~is_scored_NKG
      if is_left_NKG.any():
        on_host = self._score(part, branches, is_left_NKG)
        scores = Scores(
          *(
            np.where(is_left_NKG, h, d)
            for h, d in zip(on_host, scores, strict=True)
          )
        )
    end_s = time.monotonic()
    return Round(branches, scores, read_s - start_s, end_s - read_s)

  def _score(self, part, branches, only_NKG=None):
    return scoring.score_branches(
      part, branches, self._tokenizer, self._scorer, only_NKG
    )


def _split(batch: TrunkBatch, parts: int) -> list[TrunkBatch]:
  rows = len(batch.trunks.length_N) // parts
  return [
    TrunkBatch(
      Trunks(*(x[first : first + rows] for x in batch.trunks)),
      batch.records[first : first + rows],
    )
    for first in range(0, rows * parts, rows)
  ]
