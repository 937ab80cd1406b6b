# SPDX-License-Identifier: Apache-2.0
"""Rounds that share slots, beside rounds that wait for their longest branch.

  python -m benchmarks.refill
  python -m benchmarks.refill --rows 64 128 --slots 8 16

Counts iterations of the decoding loop, with lengths drawn at random instead of
a model: log-normal with a mean of 0.41 of the limit, alike within a group; four
groups in ten are kept. The host's code is the one that trains. All variants of
a line have the same number of slots. "large rounds" have a row for each of
`--largest` trunks and "rounds" have as many rows as "shared", and both are as
long as their longest branch; "shared" slots go on with the next round.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import measuring
from srl_jax.rollout import tapes
from srl_jax.rollout.layout import Layout
from srl_jax.rollout.segments import Queue, Settings
from srl_jax.rollout.shared import SharedSlots, Use
from srl_jax.rollout.tapes import Tape
from srl_jax.train.round_schedule import Counts, sample_together
from srl_jax.types import Branches, Trunks


class Shape(NamedTuple):
  """What is sampled: see the flags of this benchmark."""

  groups: int
  points: int
  samples: int
  limit: int
  kept: float
  spread: float
  alike: float

  def lengths(self, point_id: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Completion lengths in tokens; a point's samples are alike."""
    seeds = np.stack([point_id, sample + 1], axis=-1).reshape(-1, 2)
    own = _normal(seeds)
    shared = _normal(seeds * [1, 0])
    mixed = np.sqrt(self.alike) * shared + np.sqrt(1 - self.alike) * own
    # Cutting at the limit takes a few hundredths off the mean.
    middle = np.log(0.425 * self.limit) - self.spread**2 / 2
    length = np.exp(middle + self.spread * mixed).round()
    return np.clip(length, 1, self.limit).astype(int).reshape(sample.shape)

  def is_kept(self, point_id: np.ndarray) -> np.ndarray:
    """Which groups have rewards that differ."""
    return _uniform(np.stack([point_id, point_id * 0 + 7], -1)) < self.kept


def _uniform(seeds: np.ndarray) -> np.ndarray:
  """A number in (0, 1) for each pair of seeds (splitmix64)."""
  with np.errstate(over="ignore"):
    x = seeds.astype(np.uint64) @ np.array([1 << 20, 1], np.uint64)
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
  return ((x >> np.uint64(11)).astype(float) + 0.5) / 2**53


def _normal(seeds: np.ndarray) -> np.ndarray:
  """A standard normal number for each pair of seeds (Box-Muller)."""
  first, second = _uniform(seeds * [2, 1]), _uniform(seeds * [2, 1] + [1, 0])
  return np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)


class Clockwork:
  """Runs slots without a model: a branch ends at the length that it is given.

  It stands in for `DeviceRows`, turn by turn.
  """

  def __init__(self, layout: Layout, shape: Shape):
    self._shape = shape
    entries = layout.places * layout.branches
    self._entry_NB = np.full((layout.rows, layout.slots), entries)
    self._left_NB = np.zeros((layout.rows, layout.slots), int)

  def admit(self, trunks, room, width, places=None) -> None:
    """A trunk has no length here."""

  def segment(
    self, queue: Queue, key, enough: int, settings: Settings
  ) -> tuple[Tape, np.ndarray]:
    """See `segments.segment`."""
    entries = queue.waiting_NQ.shape[1]
    waiting_NQ = queue.waiting_NQ.copy()
    length_NQ = self._shape.lengths(queue.point_id_NQ, queue.sample_NQ)
    made = []
    self._refill(waiting_NQ, length_NQ)
    while len(made) < settings.segment_iterations:
      is_live_NB = self._entry_NB < entries
      idle = (~(is_live_NB.any(1) | waiting_NQ.any(1))).sum()
      if not is_live_NB.any() or idle >= enough:
        break
      self._left_NB -= is_live_NB
      is_last_NB = is_live_NB & (self._left_NB == 0)
      kind_NB = np.where(is_last_NB, tapes.STOPPED, tapes.DRAWN)
      made.append((self._entry_NB.copy(), np.where(is_live_NB, kind_NB, 0)))
      self._entry_NB[is_last_NB] = entries
      self._refill(waiting_NQ, length_NQ)
    entry_TNB, kind_TNB = (
      np.stack(x) if made else np.zeros((0, *self._entry_NB.shape), int)
      for x in (zip(*made, strict=True) if made else ((), ()))
    )
    zeros = np.zeros(kind_TNB.shape)
    tape = Tape(len(made), 0, entry_TNB, kind_TNB, zeros, zeros, 0, 0, 0)
    return tape, waiting_NQ

  def _refill(self, waiting_NQ, length_NQ):
    entries = waiting_NQ.shape[1]
    for n, b in zip(*np.nonzero(self._entry_NB == entries), strict=True):
      if waiting_NQ[n].any():
        q = int(np.argmax(waiting_NQ[n]))
        waiting_NQ[n, q] = False
        self._entry_NB[n, b], self._left_NB[n, b] = q, length_NQ[n, q]


class Draws:
  """Rounds of trunks whose branch points have new names each time."""

  def __init__(self, shape: Shape, trunks: int):
    self._shape, self._trunks, self._points = shape, trunks, 0

  def __call__(self) -> Trunks:
    n, k = self._trunks, self._shape.points
    ones_NK = np.ones((n, k), np.int32)
    point_id_NK = self._points + np.arange(n * k).reshape(n, k)
    self._points += n * k
    return Trunks(
      tokens_NS=np.zeros((n, 1), np.int32),
      length_N=np.ones(n, np.int32),
      branch_at_NK=ones_NK,
      stem_NKC=ones_NK[..., None],
      stem_length_NK=ones_NK,
      point_id_NK=point_id_NK.astype(np.uint32),
      is_real_NK=ones_NK > 0,
    )


def shared(
  shape: Shape,
  *,
  rows: int,
  slots: int,
  trunks: int,
  iterations: int,
  steps: int,
) -> Use:
  """Update steps whose rounds share slots; returns what they took."""
  layout = Layout(
    rows=rows,
    slots=slots,
    points=shape.points,
    samples=shape.samples,
    trunk_width=1,
    stem_width=1,
    max_new_tokens=shape.limit,
    segment_iterations=iterations,
    room=rows,
  )
  draws, pool, counts, total = Draws(shape, trunks), 0, Counts(), Use()
  for _ in range(steps):
    slots_now = SharedSlots(
      Clockwork(layout, shape),
      layout,
      key=jax.random.key(0),
      temperature=1.0,
      stop_ids=(),
      pad_id=0,
    )

    def score_and_filter(
      number: int, trunks: Trunks, branches: Branches
    ) -> Counts:
      del number, branches
      kept = shape.is_kept(trunks.point_id_NK.ravel())
      return Counts(int(kept.sum()), kept.size)

    counts = sample_together(
      slots_now,
      draws,
      score_and_filter,
      need=shape.groups - pool,
      before=counts,
      max_rounds=10**6,
    )
    pool += counts.kept - shape.groups
    for field in vars(total):
      value = getattr(total, field) + getattr(slots_now.use, field)
      setattr(total, field, value)
  return total


def rounds(shape: Shape, *, rows: int, slots: int, steps: int) -> Use:
  """Update steps of whole rounds, one after the other, without a loop."""
  draws, pool, total = Draws(shape, rows), 0, Use()
  sample_KG = np.arange(shape.points)[:, None] * 0 + np.arange(shape.samples)
  for _ in range(steps):
    while pool < shape.groups:
      point_id_NK = draws().point_id_NK
      point_id_NKG = np.repeat(point_id_NK[..., None], shape.samples, axis=2)
      length_NKG = shape.lengths(
        point_id_NKG, sample_KG[None] + 0 * point_id_NKG
      )
      end_NB = np.zeros((rows, slots), int)
      for length_N in length_NKG.reshape(rows, -1).T:
        first_N = end_NB.argmin(axis=1)
        end_NB[np.arange(rows), first_N] += length_N
      total.iterations += int(end_NB.max())
      total.busy += int(length_NKG.sum())
      total.slot_iterations += int(end_NB.max()) * rows * slots
      pool += int(shape.is_kept(point_id_NK.ravel()).sum())
    pool -= shape.groups
  return total


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="Turns of rounds, alone and in shared slots.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add = parser.add_argument
  add("--groups", type=int, default=512, help="kept groups of a batch")
  add("--points", type=int, default=2, help="branch points of a trunk")
  add("--samples", type=int, default=8, help="samples of a branch point")
  add("--limit", type=int, default=256, help="tokens of the longest completion")
  add("--kept", type=float, default=0.4, help="share of groups kept")
  add("--spread", type=float, default=0.6, help="deviation of the log length")
  add("--alike", type=float, default=0.3, help="correlation within a group")
  add("--trunks", type=int, default=16, help="of a shared round")
  add("--largest", type=int, default=256, help="trunks of a large round")
  add("--iterations", type=int, default=16, help="of a segment")
  add(
    "--rows", type=int, nargs="+", default=[32, 64, 128, 256], help="of slots"
  )
  add("--slots", type=int, nargs="+", default=[8, 16], help="of a row")
  add("--steps", type=int, default=3, help="update steps")
  args = parser.parse_args(argv)
  shape = Shape(*(getattr(args, field) for field in Shape._fields))
  print(shape)
  names = "large rounds", "rounds", "shared"
  table: dict[str, dict[str, float]] = {name: {} for name in names}
  for slots, rows in itertools.product(args.slots, args.rows):
    sizes = {"rows": rows, "slots": slots, "steps": args.steps}
    fewer = max(1, rows * slots // args.largest)
    large = {"rows": args.largest, "slots": fewer, "steps": args.steps}
    found = {
      "large rounds": rounds(shape, **large),
      "rounds": rounds(shape, **sizes),
      "shared": shared(
        shape, trunks=args.trunks, iterations=args.iterations, **sizes
      ),
    }
    for name, use in found.items():
      where = f"{rows} rows of {slots} slots"
      limits = use.iterations / args.steps / shape.limit
      table[name][f"{where}: iterations / limit"] = limits
      table[name][f"{where}: busy"] = use.busy / use.slot_iterations
  print(measuring.table(table))


if __name__ == "__main__":
  main()
