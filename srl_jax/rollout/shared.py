# SPDX-License-Identifier: Apache-2.0
"""Samples many batches of trunks in slots that they share.

A batch that is sampled alone (sampler.py) lasts as long as its longest branch,
and most slots are idle at its end. Here batches are begun one after the other,
and a slot whose branch has ended takes the next one, of whatever batch: the
tail of a batch is the head of the next. Whatever is begun is finished, so
short completions are not preferred.

A row of the device has places for several trunks, whose branches share the
row's slots: while the last branches of one trunk are decoded, the other slots
go on with the next. Between segments of the loop (segments.py) trunks whose
branches have all ended are replaced.

Training samples with this if c.STAGE.sampling.rows is above 0. Every process
begins the same batches in the same order, and gets all tokens.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from srl_jax.rollout import tapes
from srl_jax.rollout.layout import Layout
from srl_jax.rollout.segments import Queue, Settings
from srl_jax.rollout.tapes import Tape
from srl_jax.types import Branches, Trunks, make_branches


class Decoder(Protocol):
  """What runs the rows; `DeviceRows` does."""

  def admit(
    self, trunks: Any, room: int, width: int, places: Any = None
  ) -> None: ...

  def segment(
    self, queue: Queue, key: Any, enough: int, settings: Settings
  ) -> tuple[Tape, Any]: ...


@dataclasses.dataclass
class Use:
  """How full the slots were.

  Attributes:
    iterations: iterations of the loop.
    busy: slot iterations that ran a token of a branch.
    slot_iterations: all slot iterations.
  """

  iterations: int = 0
  busy: int = 0
  slot_iterations: int = 0


# Row and place of a trunk that is new there, and its tokens.
_New = tuple[int, int, np.ndarray]


class _Batch(NamedTuple):
  """A batch that was begun: its trunks, and what is drawn so far, flat."""

  trunks: Trunks
  tokens_RC: np.ndarray
  logp_RC: np.ndarray
  length_R: np.ndarray
  stopped_R: np.ndarray
  is_left_R: np.ndarray


class SharedSlots:
  """Samples batches of equal shape in shared slots."""

  def __init__(
    self,
    decoder: Decoder,
    layout: Layout,
    *,
    key: jax.Array,
    temperature: float,
    stop_ids: tuple[int, ...],
    pad_id: int,
  ):
    """Begins with empty rows.

    Args:
      decoder: the rows on the devices, empty.
      layout: their sizes.
      key: random key. A batch's tokens follow from it, the number of the batch
        and the names of its branch points: the first batch has the samples
        that sampler.py draws with this key.
      temperature: divisor of the logits, above 0.
      stop_ids: token ids that end a completion.
      pad_id: token id that fills the rest of each branch.
    """
    self._decoder, self._layout, self._key = decoder, layout, key
    self._settings = layout.settings(stop_ids)
    # More branches than that beyond the slots of their row wait for long.
    self._much = layout.slots // 4
    self._pad_id = pad_id
    self._queue = layout.queue(temperature)
    # Of each entry of the queue: the batch and the branch in it, or -1.
    shape = self._queue.waiting_NQ.shape
    self._batch_NQ = np.full(shape, -1)
    self._branch_NQ = np.full(shape, -1)
    self._batches: dict[int, _Batch] = {}
    self._begun = 0
    # (batch, trunk) of those that wait for a place, and the segment that runs.
    self._waiting: collections.deque[tuple[int, int]] = collections.deque()
    self._running: tuple[Tape, Any] | None = None
    self.use = Use()

  def begin(self, trunks: Trunks) -> int:
    """Queues a batch of trunks, the same on every process, as numpy.

    Returns:
      Its number; batches count from 0.
    """
    number = self._begun
    self._begun += 1
    samples = self._layout.samples
    rows = len(trunks.length_N)
    width = self._layout.stem_width + self._layout.max_new_tokens
    stem_RC = np.repeat(
      trunks.stem_NKC.reshape(-1, self._layout.stem_width), samples, axis=0
    )
    stem_length_R = np.repeat(trunks.stem_length_NK.ravel(), samples)
    is_real_R = np.repeat(trunks.is_real_NK.ravel(), samples)
    tokens_RC = np.full((len(stem_RC), width), self._pad_id, np.int32)
    is_stem_RC = np.arange(stem_RC.shape[1]) < stem_length_R[:, None]
    is_stem_RC &= is_real_R[:, None]
    tokens_RC[:, : stem_RC.shape[1]][is_stem_RC] = stem_RC[is_stem_RC]
    self._batches[number] = _Batch(
      trunks,
      tokens_RC,
      np.zeros(tokens_RC.shape, np.float32),
      np.where(is_real_R, stem_length_R, 0).astype(np.int32),
      np.zeros(len(stem_RC), bool),
      is_real_R,
    )
    self._waiting.extend((number, n) for n in range(rows))
    return number

  def start(self) -> None:
    """Starts a segment, if there is anything to run, without waiting."""
    self._fill_places()
    is_idle_N = (self._batch_NQ < 0).all(axis=1)
    if is_idle_N.all():
      return
    rows = len(is_idle_N)
    # The host looks again when many rows have nothing and others could follow.
    few = int(is_idle_N.sum()) + max(1, rows // 8)
    self._running = self._decoder.segment(
      self._queue,
      self._key,
      few if self._waiting else rows + 1,
      self._settings,
    )

  def finish(self) -> list[int]:
    """Waits for the segment; returns the batches that are whole now."""
    if self._running is None:
      return []
    tape, waiting_NQ = jax.device_get(self._running)
    self._running = None
    np.copyto(self._queue.waiting_NQ, waiting_NQ)
    iterations = int(tape.iterations)
    entries = self._batch_NQ.shape[1]
    entry_TNB = tape.entry_TNB[:iterations]
    self.use.iterations += iterations
    self.use.slot_iterations += entry_TNB.size
    self.use.busy += int((entry_TNB < entries).sum())
    t, n, b = np.nonzero(tape.kind_TNB[:iterations])
    q = entry_TNB[t, n, b]
    batch, branch = self._batch_NQ[n, q], self._branch_NQ[n, q]
    order = np.lexsort((t, branch, batch))
    kind = tape.kind_TNB[t, n, b]
    is_last = kind != tapes.DRAWN
    found = branch, tape.token_TNB[t, n, b], tape.logp_TNB[t, n, b], kind
    for number in np.unique(batch).tolist():
      of_batch = order[batch[order] == number]
      _write(self._batches[number], *(x[of_batch] for x in found))
    self._batch_NQ[n[is_last], q[is_last]] = -1
    return [
      number
      for number in np.unique(batch).tolist()
      if not self._batches[number].is_left_R.any()
    ]

  def take(self, number: int) -> Branches:
    """Returns the branches of a whole batch, and forgets it."""
    batch = self._batches.pop(number)
    rows = len(batch.trunks.length_N)

    def of_trunks(x_R):
      return x_R.reshape(rows, self._layout.branches, *x_R.shape[1:])

    stem_length_NK = batch.trunks.stem_length_NK
    return make_branches(
      tokens_NRC=of_trunks(batch.tokens_RC),
      stem_length_NR=np.repeat(stem_length_NK, self._layout.samples, axis=1),
      length_NR=of_trunks(batch.length_R),
      sampler_logp_NRC=of_trunks(batch.logp_RC),
      stopped_NR=of_trunks(batch.stopped_R),
    )

  def _fill_places(self) -> None:
    """Finds work for free places: trunks that wait, then branches that do."""
    new = self._trunks_that_wait()
    if not self._waiting:
      new += self._branches_that_wait()
    self._admit(new)

  def _trunks_that_wait(self) -> list[_New]:
    """Gives trunks the free places of the least busy rows.

    A row takes no trunk whose branches would wait for long, for another row
    may have slots for them sooner.
    """
    layout, new = self._layout, []
    while self._waiting:
      row, place, load = self._emptiest()
      if load > layout.slots + self._much:
        break
      number, trunk = self._waiting.popleft()
      is_real_K = self._batches[number].trunks.is_real_NK[trunk]
      is_real_R = np.repeat(is_real_K, layout.samples)
      new.append(self._enter(number, trunk, is_real_R, row, place))
    return new

  def _branches_that_wait(self) -> list[_New]:
    """Moves waiting branches from busy rows to rows with idle slots."""
    layout, new = self._layout, []
    while True:
      waiting_NU = self._by_place(self._queue.waiting_NQ).sum(axis=2)
      load_N = (self._batch_NQ >= 0).sum(axis=1)
      # Those that wait for a branch of their row to end.
      surplus_N = np.minimum(load_N - layout.slots, waiting_NU.sum(axis=1))
      row, place, load = self._emptiest()
      source = int(surplus_N.argmax())
      count = min(
        layout.slots - load, (surplus_N[source] + layout.slots - load) // 2
      )
      if surplus_N[source] <= self._much or count < 1:
        return new
      new.append(
        self._move(source, int(waiting_NU[source].argmax()), count, row, place)
      )

  def _by_place(self, x_NQ: np.ndarray) -> np.ndarray:
    return x_NQ.reshape(self._layout.rows, self._layout.places, -1)

  def _emptiest(self) -> tuple[int, int, int]:
    """Row and place for the next trunk, and how many branches the row has."""
    is_busy_NUR = self._by_place(self._batch_NQ >= 0)
    is_free_NU = ~is_busy_NUR.any(axis=2)
    load_N = is_busy_NUR.sum(axis=(1, 2))
    full = is_busy_NUR.shape[1] * is_busy_NUR.shape[2] + 1
    row = int(np.argmin(np.where(is_free_NU.any(axis=1), load_N, full)))
    if not is_free_NU[row].any():
      return row, 0, full
    return row, int(is_free_NU[row].argmax()), int(load_N[row])

  def _move(self, source, place, count, row, to_place):
    """Moves waiting branches of a trunk to a place of another row."""
    at = slice(
      place * self._layout.branches, (place + 1) * self._layout.branches
    )
    waiting_R = self._queue.waiting_NQ[source, at]
    moved_R = np.flatnonzero(waiting_R)[-count:]
    first = at.start + moved_R[0]
    number = int(self._batch_NQ[source, first])
    trunk = int(self._branch_NQ[source, first]) // self._layout.branches
    self._queue.waiting_NQ[source, at.start + moved_R] = False
    self._batch_NQ[source, at.start + moved_R] = -1
    is_moved_R = np.zeros(self._layout.branches, bool)
    is_moved_R[moved_R] = True
    return self._enter(number, trunk, is_moved_R, row, to_place)

  def _admit(self, new: list[_New]) -> None:
    """Runs the trunks of (row, place, tokens)."""
    layout = self._layout
    for first in range(0, len(new), layout.room):
      part = new[first : first + layout.room]
      self._decoder.admit(
        [(row, tokens) for row, _, tokens in part],
        layout.room,
        layout.trunk_width,
        [place for _, place, _ in part],
      )

  def _enter(self, number, trunk, is_real_R, row, place):
    """Queues branches of a trunk in a place; returns what `_admit` takes."""
    queue, samples = self._queue, self._layout.samples
    trunks = self._batches[number].trunks
    branches = self._layout.branches
    at = slice(place * branches, (place + 1) * branches)
    for name, of_points in (
      ("branch_at_NQ", trunks.branch_at_NK),
      ("stem_NQC", trunks.stem_NKC),
      ("stem_length_NQ", trunks.stem_length_NK),
      ("point_id_NQ", trunks.point_id_NK),
    ):
      values = np.repeat(of_points[trunk], samples, axis=0)
      getattr(queue, name)[row, at] = values
    sample_G = number * samples + np.arange(samples)
    queue.sample_NQ[row, at] = np.tile(sample_G, self._layout.points)
    queue.waiting_NQ[row, at] = is_real_R
    self._batch_NQ[row, at] = np.where(is_real_R, number, -1)
    self._branch_NQ[row, at] = trunk * branches + np.arange(branches)
    return row, place, trunks.tokens_NS[trunk, : trunks.length_N[trunk]]


def _write(batch: _Batch, branch, token, logp, kind) -> None:
  """Adds a segment's tokens, sorted by branch and iteration, to a batch."""
  first = np.flatnonzero(np.diff(branch, prepend=-1))
  counts = np.diff(np.append(first, len(branch)))
  rank = np.arange(len(branch)) - np.repeat(first, counts)
  column = batch.length_R[branch] + rank
  batch.tokens_RC[branch, column] = token
  batch.logp_RC[branch, column] = logp
  batch.length_R[branch[first]] += counts.astype(np.int32)
  batch.stopped_R[branch[kind == tapes.STOPPED]] = True
  batch.is_left_R[branch[kind != tapes.DRAWN]] = False
