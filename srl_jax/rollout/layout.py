# SPDX-License-Identifier: Apache-2.0
"""Static sizes of the shared decoder rows (shared.py)."""

from __future__ import annotations

import dataclasses

from srl_jax.rollout.row import empty_queue
from srl_jax.rollout.segments import Queue, Settings


@dataclasses.dataclass(frozen=True)
class Layout:
  """Sizes of the rows, all static.

  Attributes:
    rows: number N of rows; the batch devices must divide it.
    slots: branches of a row that are decoded together.
    points: branch points of a trunk, K.
    samples: samples of a branch point, G.
    trunk_width: width of a trunk in tokens.
    stem_width: width of the stems in tokens.
    max_new_tokens: limit of a completion.
    segment_iterations: iterations of the loop between two looks of the host.
    room: trunks that are run at a time; the batch devices must divide it.
  """

  rows: int
  slots: int
  points: int
  samples: int
  trunk_width: int
  stem_width: int
  max_new_tokens: int
  segment_iterations: int
  room: int

  @property
  def branches(self) -> int:
    """Branches of a trunk, R."""
    return self.points * self.samples

  @property
  def places(self) -> int:
    """Trunks that a row has room for."""
    return places(self.slots, self.branches)

  @property
  def sizes(self) -> dict[str, int]:
    """The sizes of `segments.empty_rows`."""
    return {
      "rows": self.rows,
      "slots": self.slots,
      "entries": self.places * self.branches,
      "trunk_width": self.trunk_width,
      # The model never runs the last token of a full branch.
      "cache_width": _whole(self.stem_width + self.max_new_tokens - 1),
      "places": self.places,
    }

  def queue(self, temperature: float) -> Queue:
    """An empty queue; each place of a row has `branches` of its entries."""
    entries = self.places * self.branches
    queue = empty_queue(self.rows, entries, self.stem_width)
    queue.max_new_NQ[:] = self.max_new_tokens
    queue.temperature_NQ[:] = temperature
    queue.top_p_NQ[:] = 1.0
    return queue

  def settings(self, stop_ids: tuple[int, ...]) -> Settings:
    """What is static in a segment."""
    return Settings(
      self.segment_iterations,
      stop_ids,
      is_truncated=False,
      is_greedy=False,
      places=self.places,
    )


def _whole(width: int) -> int:
  """The next multiple of 16: TPUs store other widths in another order."""
  return -(-width // 16) * 16


def places(slots: int, branches: int) -> int:
  """Trunks of `branches` that a row of `slots` needs room for.

  One place is for the trunk that is ending; the others have branches for twice
  the slots.
  """
  return 1 + -(-2 * slots // branches)
