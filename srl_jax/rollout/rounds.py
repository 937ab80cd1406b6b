# SPDX-License-Identifier: Apache-2.0
"""A round of sampling: completions of a batch of trunks, and their scores.

Scores are made where it is best: on the device, in which case only what is
too long for it is scored on the host; or on the host, part by part, while the
device decodes the next part. What is done with the scores is the stage's
business.
"""

from __future__ import annotations

import collections
import itertools
import time
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.data.batching import TrunkBatch
from srl_jax.device_rewards import reward as device_reward
from srl_jax.device_rewards.reward import DeviceReward, Targets
from srl_jax.rewards import Scorer
from srl_jax.rollout import scoring
from srl_jax.rollout.sampler import Sampler, Started
from srl_jax.tokenizers import Tokenizer
from srl_jax.types import Branches, Decoding, Scores, Trunks

# Parts of a round that the device has at a time: one to work on, one to go on
# with while the host scores. Every part brings trunks and weights of its own.
QUEUED_PARTS = 2


class Round(NamedTuple):
  """This process's part of a round, as numpy arrays.

  Attributes:
    branches: [N, R, ...].
    scores: [N, K, G].
    decoding: [N].
    prefill_s: seconds that the device spent on the trunks.
    decode_s: and on decoding.
    reward_s: seconds spent on scoring, host only.
  """

  branches: Branches
  scores: Scores
  decoding: Decoding
  prefill_s: float
  decode_s: float
  reward_s: float


class DeviceScorer:
  """The compiled reward on a mesh, and the arrays it compares with."""

  def __init__(
    self,
    reward: DeviceReward,
    target_width: int,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
  ):
    """`target_width` is that of the longest target, in characters."""
    self.width = target_width
    spec = rules.spec(("batch",))
    # Rows are sorted by length inside, which is not to cross devices.
    self.score = jax.shard_map(
      reward, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    self.program = jax.jit(self.score)

  def targets(self, batch: TrunkBatch) -> Targets:
    """The expert's steps of a batch, as numpy arrays."""
    return device_reward.encode_targets(batch, self.width)


class _Queued(NamedTuple):
  """What the device works on; `scored` is None if the host has to score."""

  started: Started
  scored: tuple[Scores, jax.Array] | None


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
    on_device: DeviceScorer | None = None,
    parts: int = 1,
  ):
    """Args are the pieces, and in how many parts a batch is sampled."""
    self._sampler, self._scorer, self._tokenizer = sampler, scorer, tokenizer
    self._mesh, self._rules = mesh, rules
    self._on_device, self._parts = on_device, parts
    self._clock = futures.ThreadPoolExecutor(1, "rollout clock")

  def run(self, params: Any, batch: TrunkBatch, key: jax.Array) -> Round:
    """Samples this process's rows and scores them."""
    parts = _split(batch, self._parts)
    begin_s = time.monotonic()
    queued: collections.deque[_Queued] = collections.deque()
    times, done = [], []

    def start(part: TrunkBatch) -> None:
      queued.append(self._start(params, part, key))
      # In a thread, for this one may be scoring when the device is done.
      before = times[-1] if times else None
      times.append(
        self._clock.submit(_device_times, begin_s, before, queued[-1])
      )

    waiting = iter(parts)
    for part in itertools.islice(waiting, QUEUED_PARTS):
      start(part)
    for part in parts:
      # A part's trunks and weights are freed before those of another are made.
      done.append(self._finish(part, queued.popleft()))
      for following in itertools.islice(waiting, 1):
        start(following)
    merge = lambda *xs: np.concatenate(xs)  # noqa: E731
    branches, scores, decoding, reward_s = zip(*done, strict=True)
    prefill_s, decode_s, _ = zip(*(x.result() for x in times), strict=True)
    return Round(
      jax.tree.map(merge, *branches),
      jax.tree.map(merge, *scores),
      jax.tree.map(merge, *decoding),
      sum(prefill_s),
      sum(decode_s),
      sum(reward_s),
    )

  def _start(self, params, part, key) -> _Queued:
    started = self._sampler.start(params, part.trunks, key)
    if self._on_device is None:
      return _Queued(started, None)
    targets = sharding.put_batch(
      self._on_device.targets(part), self._mesh, self._rules
    )
    return _Queued(started, self._on_device.program(started.branches, targets))

  def _finish(self, part, queued):
    arrays = (queued.started.branches, queued.started.decoding, queued.scored)
    branches, decoding, scored = sharding.local_rows(
      arrays, self._mesh, self._rules
    )
    read_s = time.monotonic()
    if scored is None:
      scores = self._score(part, branches)
    else:
      scores, is_scored_NKG = scored
      is_left_NKG = part.trunks.is_real_NK[..., None] & ~is_scored_NKG
      if is_left_NKG.any():
        on_host = self._score(part, branches, is_left_NKG)
        scores = Scores(
          *(
            np.where(is_left_NKG, h, d)
            for h, d in zip(on_host, scores, strict=True)
          )
        )
    return branches, scores, decoding, time.monotonic() - read_s

  def _score(self, part, branches, only_NKG=None):
    return scoring.score_branches(
      part, branches, self._tokenizer, self._scorer, only_NKG
    )


class _Times(NamedTuple):
  """Seconds of a part's prefill and decoding, and when the device was done."""

  prefill_s: float
  decode_s: float
  end_s: float


def _device_times(
  begin_s: float, before: futures.Future[_Times] | None, queued: _Queued
) -> _Times:
  """Waits for a part, which begins when the part before it ends."""
  if before is not None:
    begin_s = before.result().end_s
  jax.block_until_ready(queued.started.prefilled)
  prefilled_s = time.monotonic()
  jax.block_until_ready(queued.started.branches)
  decoded_s = time.monotonic()
  jax.block_until_ready(queued.scored)
  return _Times(
    prefilled_s - begin_s, decoded_s - prefilled_s, time.monotonic()
  )


def _split(batch: TrunkBatch, parts: int) -> list[TrunkBatch]:
  rows = len(batch.trunks.length_N) // parts
  return [
    TrunkBatch(
      Trunks(*(x[first : first + rows] for x in batch.trunks)),
      batch.sources[first : first + rows],
    )
    for first in range(0, rows * parts, rows)
  ]
