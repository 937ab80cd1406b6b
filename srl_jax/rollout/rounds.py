# SPDX-License-Identifier: Apache-2.0
"""A round of sampling: completions of a batch of trunks, and their scores.

With a device scorer, the host scores only the texts that are too long for the
device. Without one, the host scores part by part while the device decodes the
next part. What follows from the scores is decided by the stage.
"""

from __future__ import annotations

import collections
import itertools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.data.batching import TrunkBatch
from srl_jax.device_rewards.scorer import DeviceScorer
from srl_jax.rewards import Scorer
from srl_jax.rollout import scoring
from srl_jax.rollout.sampler import Sampler
from srl_jax.tokenizers import Tokenizer
from srl_jax.types import Branches, Scores, SlotUse, Trunks

# Parts of a round that are queued on the device: one that it works on, and one
# to go on with while the host scores. More would cost memory: every part has
# its own copy of trunk keys and values and of the weights.
QUEUED_PARTS = 2


class Round(NamedTuple):
  """A round as numpy arrays, the same on every process.

  Attributes:
    branches: [N, R, ...].
    scores: [N, K, G].
    slot_use: [N].
    rollout_s: seconds from the start of the round to its last score.
    reward_s: the part of `rollout_s` in which the host scored.
  """

  branches: Branches
  scores: Scores
  slot_use: SlotUse
  rollout_s: float
  reward_s: float


class _Queued(NamedTuple):
  """A part queued on the device; `scored` is None if the host scores."""

  branches: Branches
  slot_use: SlotUse
  scored: tuple[Scores, jax.Array] | None


def sample_and_score(
  sampler: Sampler,
  params: Any,
  batch: TrunkBatch,
  key: jax.Array,
  *,
  scorer: Scorer,
  tokenizer: Tokenizer,
  device_scorer: DeviceScorer | None = None,
  parts: int = 1,
) -> Round:
  """Samples a batch and scores it; on the host, each process scores a share.

  Args:
    sampler: draws the completions.
    params: all parameters of the policy.
    batch: the trunks, the same on every process.
    key: random key of the round.
    scorer: the reward on the host.
    tokenizer: decodes what the host scores.
    device_scorer: the same reward on the device; None scores on the host.
    parts: number of parts that the batch is sampled in; must divide its rows.
      The device works on the next part while the host scores.
  """
  # The devices may still make the parameters; that is the update's time.
  jax.block_until_ready(params)
  begin_s = time.monotonic()
  queued: collections.deque[_Queued] = collections.deque()
  done, reward_s = [], 0.0

  def start(part: TrunkBatch) -> None:
    branches, slot_use = sampler.start(params, part.trunks, key)
    scored = device_scorer.start(branches, part) if device_scorer else None
    queued.append(
      sharding.for_every_process(
        _Queued(branches, slot_use, scored), sampler.mesh
      )
    )

  all_parts = _split(batch, parts)
  waiting = iter(all_parts)
  for part in itertools.islice(waiting, QUEUED_PARTS):
    start(part)
  for part in all_parts:
    # This frees the part's trunks and weights before the next part makes its
    # own.
    branches, slot_use, scored = sharding.read(queued.popleft())
    read_s = time.monotonic()
    own = own_scores(part, branches, scored, scorer, tokenizer)
    reward_s += time.monotonic() - read_s
    done.append((branches, own, slot_use))
    for following in itertools.islice(waiting, 1):
      start(following)
  # Earlier, processes would wait for the device to decode the next part.
  count = len(all_parts[0].sources)
  done = [(b, sharding.gather_rows(own, count), u) for b, own, u in done]
  merged = jax.tree.map(lambda *xs: np.concatenate(xs), *done)
  return Round(*merged, time.monotonic() - begin_s, reward_s)


def own_scores(
  batch: TrunkBatch,
  branches: Branches,
  scored: tuple[Scores, np.ndarray] | None,
  scorer: Scorer,
  tokenizer: Tokenizer,
) -> Scores:
  """Returns the scores of this process's share of a batch (`own_rows`).

  The host scores what the device did not.

  Args:
    batch: the trunks, of all processes, as all arrays.
    branches: their branches, on the host.
    scored: scores from the device, and which are done; None if none are.
    scorer: the reward on the host.
    tokenizer: decodes what the host scores.
  """
  trunks, branches, scored = sharding.own_rows((batch.trunks, branches, scored))
  index, count = jax.process_index(), jax.process_count()
  own = TrunkBatch(trunks, batch.sources[index::count])
  if scored is None:
    return scoring.score_branches(own, branches, tokenizer, scorer)
  scores, is_scored_NKG = scored
  is_left_NKG = trunks.is_real_NK[..., None] & ~is_scored_NKG
  if not is_left_NKG.any():
    return scores
  on_host = scoring.score_branches(
    own, branches, tokenizer, scorer, is_left_NKG
  )
  pairs = zip(on_host, scores, strict=True)
  return Scores(*(np.where(is_left_NKG, h, d) for h, d in pairs))


def _split(batch: TrunkBatch, parts: int) -> list[TrunkBatch]:
  rows = len(batch.trunks.length_N) // parts
  return [
    TrunkBatch(
      Trunks(*(x[first : first + rows] for x in batch.trunks)),
      batch.sources[first : first + rows],
    )
    for first in range(0, rows * parts, rows)
  ]
