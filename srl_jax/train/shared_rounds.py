# SPDX-License-Identifier: Apache-2.0
"""The rounds of an update step, sampled together in shared slots.

round_schedule.py decides when a round begins, and rollout/shared.py decodes.
Here they meet the data, the rewards and the processes: all of them decode the
same rounds, and on the host each scores its share of the trunks.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.data.batching import TrunkBatch
from srl_jax.rollout.device_rows import DeviceRows, Widest
from srl_jax.rollout.layout import Layout
from srl_jax.rollout.rounds import Round, own_scores
from srl_jax.rollout.shared import SharedSlots
from srl_jax.sharding import abstract
from srl_jax.train.memory import Program, decoding_programs
from srl_jax.train.rl_setup import RlSetup
from srl_jax.train.round_schedule import Counts, sample_together
from srl_jax.types import Branches, SlotUse, Trunks
from srl_jax.update.groups import is_kept

# Iterations of a segment: a sixteenth of a completion's limit, within these
# bounds. The shorter, the sooner a trunk's place is filled; the longer, the
# less often the devices wait for the host.
_ITERATIONS = (8, 64)


class ScoredRound(NamedTuple):
  """A batch of trunks, and the round that was sampled and scored for them."""

  batch: TrunkBatch
  found: Round


class SharedRounds:
  """Samples the rounds of update steps."""

  def __init__(self, setup: RlSetup):
    self._setup = setup
    run, sampling = setup.run, setup.config.sampling
    widths = setup.data.widths
    branches = widths.points * sampling.samples
    shortest, longest = _ITERATIONS
    self.layout = Layout(
      rows=sampling.rows,
      slots=sampling.slots_of(branches),
      points=widths.points,
      samples=sampling.samples,
      trunk_width=widths.trunk,
      stem_width=widths.stem,
      max_new_tokens=sampling.max_new_tokens,
      segment_iterations=min(
        longest, max(shortest, sampling.max_new_tokens // 16)
      ),
      room=sharding.batch_devices(run.mesh, run.rollout_rules),
    )
    self._stop_ids = run.stop_ids(setup.config.trunks.task)
    self._device_rows = DeviceRows(
      run.sampling_policy, mesh=run.mesh, **self.layout.sizes
    )
    # Groups scored and kept in the update step before; they decide how many
    # rounds begin at once.
    self.counts = Counts()

  def sample(
    self, params: Any, update_step: int, need: int
  ) -> list[ScoredRound]:
    """Samples until `need` groups are kept, or too many rounds have begun.

    Returns:
      All rounds, in the order in which they were drawn. The first one has the
      use of slots and the time of all.
    """
    setup = self._setup
    # As in rollout/rounds.py.
    jax.block_until_ready(params)
    begin_s = time.monotonic()
    batches: list[TrunkBatch] = []
    drawn: dict[int, ScoredRound] = {}

    def draw() -> Trunks:
      batches.append(next(setup.data.batches))
      return batches[-1].trunks

    def score_and_filter(
      number: int, trunks: Trunks, branches: Branches
    ) -> Counts:
      one = drawn[number] = self._score(batches[number], branches)
      kept_NK = is_kept(
        one.found.scores.reward_NKG, setup.config.dynamic_sampling
      )
      return Counts(int(kept_NK.sum()), int(trunks.is_real_NK.sum()))

    self._device_rows.start(params)
    slots = SharedSlots(
      self._device_rows,
      self.layout,
      key=setup.run.key(setup.name, "sample", update_step, 0),
      temperature=setup.config.sampling.temperature,
      stop_ids=self._stop_ids,
      pad_id=setup.run.tokenizer.pad_id,
    )
    self.counts = sample_together(
      slots,
      draw,
      score_and_filter,
      need=need,
      before=self.counts,
      max_rounds=setup.config.dynamic_sampling.max_rounds,
    )
    # Their memory is for the update.
    self._device_rows.stop()
    use = SlotUse(
      np.array([slots.use.busy]), np.array([slots.use.slot_iterations])
    )
    first = drawn[0].found._replace(
      slot_use=use, rollout_s=time.monotonic() - begin_s
    )
    drawn[0] = drawn[0]._replace(found=first)
    return [drawn[number] for number in range(len(drawn))]

  def _score(self, batch: TrunkBatch, branches: Branches) -> ScoredRound:
    """Scores a round."""
    setup, run = self._setup, self._setup.run
    scored = None
    if setup.device_scorer:
      placed = sharding.put_batch(branches, run.mesh, run.rollout_rules)
      scored = sharding.read(
        sharding.for_every_process(
          setup.device_scorer.start(placed, batch), run.mesh
        )
      )
    begin_s = time.monotonic()
    own = own_scores(batch, branches, scored, setup.scorer, run.tokenizer)
    reward_s = time.monotonic() - begin_s
    scores = sharding.gather_rows(own, len(batch.sources))
    none = SlotUse(*np.zeros((2, 1), np.int64))
    found = Round(branches, scores, none, 0.0, reward_s)
    return ScoredRound(batch, found)

  def compiled(self) -> list[Any]:
    """The jitted functions of sampling."""
    return list(self._device_rows.jitted.values())

  def plan(
    self, params: Any, beside_bytes: int
  ) -> Generator[Program, None, int]:
    """Yields the two programs that take most of the memory, before they run.

    Args:
      params: the parameters, abstract.
      beside_bytes: bytes per device of other arrays in memory.

    Returns:
      See `decoding_programs`.
    """
    name, run, layout = self._setup.name, self._setup.run, self.layout
    return decoding_programs(
      Widest(
        self._device_rows,
        layout.queue(self._setup.config.sampling.temperature),
        layout.settings(self._stop_ids),
        layout.room,
      ),
      params=params,
      key=abstract.scalar(run.key(name), run.mesh),
      remedy=f"lower c.{name}.sampling.rows or slots, or raise c.mesh.tensor",
      beside_bytes=beside_bytes,
    )
