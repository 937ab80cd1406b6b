# SPDX-License-Identifier: Apache-2.0
"""How many rounds of an update step are begun before the first has ended.

The rounds share the decoder's slots (rollout/shared.py), so that the tail of
one is the head of the next. For that a round must begin before it is known how
many groups of the earlier ones are kept: it begins if those in flight are not
expected to fill the batch, by the share of groups kept so far. Every group
that is begun is finished and scored; what is kept beyond the batch waits for
the next update step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from srl_jax.rollout.shared import SharedSlots
from srl_jax.types import Branches, Trunks


class Counts(NamedTuple):
  """How many groups were kept, of how many that were scored."""

  kept: int = 0
  scored: int = 0

  def plus(self, other: Counts) -> Counts:
    """The counts of both together."""
    return Counts(self.kept + other.kept, self.scored + other.scored)

  @property
  def share(self) -> float:
    """The expected share of kept groups; a half if nothing is known."""
    return (self.kept + 1) / (self.scored + 2)


def is_enough(need: int, in_flight: int, share: float) -> bool:
  """Whether the groups in flight are likely to fill the batch.

  Args:
    need: groups that the batch still needs.
    in_flight: groups that are begun and not scored.
    share: expected share of them that is kept.

  Returns:
    True if `need` is at least a standard deviation below what is expected.
  """
  deviation = math.sqrt(in_flight * share * (1 - share))
  return need <= 0 or need <= in_flight * share - deviation


def sample_together(
  slots: SharedSlots,
  draw: Callable[[], Trunks],
  score_and_filter: Callable[[int, Trunks, Branches], Counts],
  *,
  need: int,
  before: Counts,
  max_rounds: int,
) -> Counts:
  """Samples the rounds of an update step; returns what became of them.

  The host scores while the devices run the next segment.

  Args:
    slots: the decoder, with nothing in flight.
    draw: returns the trunks of the next round, of all processes.
    score_and_filter: takes the number of a round, its trunks and its branches,
      and says what is kept. Rounds come as they end, not as they were drawn.
    need: groups that the batch needs.
    before: the counts of the update step before.
    max_rounds: limit of the rounds that are begun.
  """
  rounds: dict[int, Trunks] = {}
  done, whole, begun = Counts(), [], 0
  while True:
    share = before.plus(done).share
    in_flight = sum(int(trunks.is_real_NK.sum()) for trunks in rounds.values())
    while begun < max_rounds and not is_enough(
      need - done.kept, in_flight, share
    ):
      trunks = draw()
      rounds[slots.begin(trunks)] = trunks
      in_flight += int(trunks.is_real_NK.sum())
      begun += 1
    if not rounds:
      return done
    slots.start()
    for number in whole:
      trunks = rounds.pop(number)
      found = score_and_filter(number, trunks, slots.take(number))
      done = done.plus(found)
    whole = slots.finish()
