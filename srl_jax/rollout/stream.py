# SPDX-License-Identifier: Apache-2.0
"""Samples a stream of requests; each begins when there is room for it.

Evaluation, the chat, the server and RL on episodes sample with this. A row of
the device holds a trunk and several slots for its branches (segments.py). All
samples of a request share a row, and so do prompts that differ only in their
last few tokens, while the row has a free slot. If it has none, a free row gets
a copy of the trunk. A row whose branches have all ended takes the next request
while the other rows go on, and keeps its trunk until then for whoever asks
again, or goes on from it: of the next turn of an episode only what is new runs.

Every process submits the same requests in the same order and gets all tokens.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.policy import Policy
from srl_jax.rollout import tapes
from srl_jax.rollout.device_rows import DeviceRows, Widest
from srl_jax.rollout.filling import Filler, width_for
from srl_jax.rollout.requests import Piece, Request, Work
from srl_jax.rollout.row import (
  Branch,
  Row,
  common,
  continued,
  empty_queue,
  shares,
)
from srl_jax.rollout.segments import Settings
from srl_jax.rollout.tapes import Tape

# Smallest width of the ring in tokens, unless every request's limit is lower.
# The ring grows as it runs.
_RING = 128


class Stream:
  """Samples requests, which may be submitted and cancelled at any time."""

  def __init__(
    self,
    policy: Policy,
    params: Any,
    *,
    rows: int,
    slots: int,
    stop_ids: Sequence[int],
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
    key: jax.Array,
    trunk_width: int = 0,
    max_stem: int = 1,
    segment_iterations: int = 16,
    likely: int = 0,
  ):
    """Makes the empty rows; keys and values take most of their memory.

    Args:
      policy: the model's functions.
      params: the model's parameters.
      rows: trunks that are decoded together; rounded up until the batch
        devices divide it.
      slots: branches of a trunk that are decoded together.
      stop_ids: token ids that end a completion.
      mesh: the devices.
      rules: which mesh axes the logical axes are split over.
      key: random key of all samples.
      trunk_width: initial width of the trunks in tokens. It grows if a prompt
        needs it, which compiles the programs again.
      max_stem: a prompt shares a trunk with another if it differs from it in
        no more than this many of its last tokens, and in no more than half
        of them.
      segment_iterations: iterations of the loop between two looks of the host.
      likely: number of most likely tokens to report of each draw; see the
        attribute.
    """
    self._policy, self._mesh = policy, mesh
    devices = sharding.batch_devices(mesh, rules)
    self._key = key
    self._settings = Settings(segment_iterations, tuple(stop_ids), likely)
    n = sharding.rounded_up(max(rows, 1), devices)
    self._entries = 2 * slots
    self._rows = [Row([None] * self._entries) for _ in range(n)]
    self._waiting: collections.deque[tuple[int, Request]] = collections.deque()
    self._cancelled: set[int] = set()
    self._tickets = self._oldest = 0
    self._queue = empty_queue(n, self._entries, max_stem)
    self.work = Work()
    with jax.set_mesh(mesh):
      self._device_rows = DeviceRows(
        policy,
        params,
        mesh=mesh,
        rows=n,
        slots=slots,
        entries=self._entries,
        trunk_width=width_for(trunk_width),
        cache_width=width_for(1),
      )
    # Streams of equal rows share what these functions have compiled.
    self.jitted = self._device_rows.jitted
    self._filler = Filler(self._device_rows, self._rows, devices, self.work)

  def at_widest(
    self, trunk_width: int, max_new_tokens: int, *, goes_on: bool
  ) -> Widest:
    """Returns what takes the most memory when widths have grown.

    Args:
      trunk_width: longest prompt in tokens.
      max_new_tokens: longest completion in tokens.
      goes_on: whether prompts go on from the trunks of others.
    """
    sizes = self._device_rows.sizes | {
      "trunk_width": width_for(trunk_width),
      "cache_width": width_for(max_new_tokens + self._max_stem - 1),
    }
    widest = sizes["trunk_width"]
    return Widest(
      DeviceRows(self._policy, mesh=self._mesh, **sizes),
      self._queue,
      self._settings,
      self._filler.room([widest] * len(self._rows)),
      self._filler.widest_tails(widest) if goes_on else None,
    )

  def submit(self, request: Request) -> int:
    """Queues a request; returns its ticket."""
    self._tickets += 1
    self._waiting.append((self._tickets, request))
    return self._tickets

  def cancel(self, ticket: int) -> None:
    """Gives a request up; no more pieces of it will come."""
    self._waiting = collections.deque(
      item for item in self._waiting if item[0] != ticket
    )
    self._cancelled.add(ticket)

  def release(self, request: Request) -> None:
    """Says that no prompt will go on from this one, whose samples have ended.

    Its row is then the first to be taken, and not one that somebody comes back
    to.
    """
    for row in self._rows:
      if row.last is request:
        row.last_use = -1

  @property
  def stop_ids(self) -> tuple[int, ...]:
    """Token ids that end a completion."""
    return self._settings.stop_ids

  @property
  def likely(self) -> int:
    """Number of most likely tokens to report of each draw.

    It may be set between two calls of `advance`; each number compiles once.
    """
    return self._settings.likely

  @likely.setter
  def likely(self, count: int) -> None:
    self._settings = self._settings._replace(likely=count)

  @property
  def rows(self) -> int:
    """Number of trunks that are decoded together."""
    return len(self._rows)

  @property
  def capacity(self) -> int:
    """Number of branches that are decoded together."""
    return len(self._rows) * self._entries // 2

  @property
  def is_idle(self) -> bool:
    """Whether there is nothing to do."""
    return not self._waiting and all(row.is_free() for row in self._rows)

  @property
  def waiting(self) -> int:
    """Number of requests that have not begun."""
    return len(self._waiting)

  def advance(self, *, more_follow: bool = False) -> list[Piece]:
    """Decodes one segment; returns what it has added to each completion.

    Args:
      more_follow: whether requests will follow when completions have ended, so
        that the segment should end early, as it does while requests wait.
    """
    with jax.set_mesh(self._mesh):
      self._place()
      if all(row.is_free() for row in self._rows):
        return []
      self._fit_cache()
      # The host looks again when some rows are free that others could use.
      idle = sum(row.is_free() for row in self._rows)
      few = max(1, (len(self._rows) - idle) // 8)
      is_wanted = self._waiting or more_follow
      enough = idle + few if is_wanted else len(self._rows) + 1
      tape, waiting_NQ = self._device_rows.segment(
        self._queue, self._key, enough, self._settings_now()
      )
    return self._read(*jax.device_get((tape, waiting_NQ)))

  def _settings_now(self) -> Settings:
    """Leaves out of the program what no branch asks for."""
    requests = [b.request for r in self._rows for b in r.branches if b]
    return self._settings._replace(
      is_truncated=any(r.top_k or r.top_p < 1 for r in requests),
      is_greedy=any(r.temperature == 0 for r in requests),
      is_random=any(r.temperature > 0 for r in requests),
    )

  def _place(self) -> None:
    """Drops what is cancelled, then gives requests rows, oldest first."""
    for n, row in enumerate(self._rows):
      row.later = collections.deque(
        b for b in row.later if b.ticket not in self._cancelled
      )
      for q, branch in enumerate(row.branches):
        if branch and branch.ticket in self._cancelled:
          self._queue.dropped_NQ[n, q] = True
    self._cancelled.clear()
    new: dict[int, np.ndarray] = {}
    kept: dict[int, int] = {}
    loads = [row.load() for row in self._rows]
    while self._waiting:
      ticket, request = self._waiting[0]
      tokens = np.asarray(request.tokens, np.int32)
      n = self._row_for(tokens, loads)
      if n is None:
        break
      self._waiting.popleft()
      row = self._rows[n]
      if not shares(row.tokens, tokens, self._max_stem):
        kept[n] = continued(row.tokens, tokens[:-1]) if n not in new else 0
        row.tokens = new[n] = tokens[:-1]
      row.later.extend(Branch(ticket, request, g) for g in request.samples)
      loads[n] += len(request.samples)
    self._filler.fill(new, kept)
    for n in range(len(self._rows)):
      self._fill(n)

  @property
  def _max_stem(self) -> int:
    return self._queue.stem_NQC.shape[2]

  def _row_for(self, tokens: np.ndarray, loads: Sequence[int]) -> int | None:
    """The row that has the prompt's trunk, or a free one.

    If all slots of the trunk's row are busy, a free row takes the prompt: the
    one whose trunk the prompt continues, or else the one longest unused.
    """
    for n, row in enumerate(self._rows):
      has_slot = loads[n] < self._entries // 2
      if has_slot and shares(row.tokens, tokens, self._max_stem):
        return n
    free = [n for n, load in enumerate(loads) if not load]
    return min(
      free,
      key=lambda n: (
        -continued(self._rows[n].tokens, tokens[:-1]),
        self._rows[n].last_use,
      ),
      default=None,
    )

  def _fill(self, n: int) -> None:
    """Puts branches that wait for an entry into the row's queue."""
    row, queue = self._rows[n], self._queue
    for q in range(self._entries):
      if not row.later:
        return
      if row.branches[q] or queue.dropped_NQ[n, q]:
        continue
      row.branches[q] = branch = row.later.popleft()
      request, length = branch.request, len(branch.request.tokens)
      row.last = request
      # The branch begins where the trunk ends, or where the prompt leaves it.
      at = min(common(row.tokens, np.asarray(request.tokens)), length - 1)
      stem = request.tokens[at:]
      queue.stem_NQC[n, q, : len(stem)] = stem
      values = {
        "waiting_NQ": True,
        "branch_at_NQ": at,
        "stem_length_NQ": len(stem),
        "point_id_NQ": request.point_id,
        "sample_NQ": branch.sample,
        "max_new_NQ": request.max_new_tokens,
        "temperature_NQ": request.temperature,
        "top_k_NQ": request.top_k,
        "top_p_NQ": request.top_p,
      }
      for name, value in values.items():
        getattr(queue, name)[n, q] = value

  def _fit_cache(self) -> None:
    """Makes the ring as wide as the branches of the next segment need it.

    Mostly an iteration reads the whole ring, so a narrow one is fast. Where it
    reads only what is seen, the ring is at once as wide as the branches ever
    need it: every width is a program.
    """
    longest = max(
      b.request.max_new_tokens for r in self._rows for b in r.branches if b
    )
    # Nothing follows the last token of a branch at its limit, so it is not run.
    most = width_for(longest + self._max_stem - 1)
    width = self._device_rows.cache_width
    if self._policy.reads_what_is_seen:
      need = max(most, width)
    else:
      soon = self._oldest + self._settings.segment_iterations
      need = min(width_for(max(soon, _RING)), most)
    # Narrower only by half: every change copies the ring.
    if need > width or need <= width // 2:
      self._device_rows.resize(cache_width=need)

  def _read(self, tape: Tape, waiting_NQ: np.ndarray) -> list[Piece]:
    """Turns a tape into pieces and frees the entries of ended branches."""
    iterations, self._oldest = int(tape.iterations), int(tape.oldest)
    self.work.segments += 1
    self.work.slot_iterations += iterations * tape.kind_TNB[0].size
    np.copyto(self._queue.waiting_NQ, waiting_NQ)
    for n, q in zip(*np.nonzero(self._queue.dropped_NQ), strict=True):
      self._rows[n].branches[q] = None
    pieces = []
    t, n, b = np.nonzero(tape.kind_TNB[:iterations])
    self.work.drawn_tokens += len(t)
    order = np.lexsort((t, b, n))
    t, n, b = t[order], n[order], b[order]
    # The fields of the tape in the order of the pieces, cut up below.
    entry, kind, *made = (x[t, n, b] for x in tape[2:])
    is_new = (np.diff(n) != 0) | (np.diff(b) != 0) | (np.diff(entry) != 0)
    cuts = [0, *np.flatnonzero(is_new) + 1, len(t)]
    for first, last in itertools.pairwise(cuts if len(t) else ()):
      row, q = self._rows[n[first]], entry[first]
      branch, ending = row.branches[q], kind[last - 1]
      token, logp, policy_logp, *likely = (x[first:last] for x in made)
      row.last_use = self.work.segments
      pieces.append(
        Piece(
          branch.ticket,
          branch.sample,
          token.tolist(),
          logp.tolist(),
          policy_logp.tolist() if self.likely else [],
          *likely,
          {tapes.STOPPED: "stop", tapes.FULL: "limit"}.get(int(ending), ""),
        )
      )
      if ending != tapes.DRAWN:
        row.branches[q] = None
    self._queue.dropped_NQ[:] = False
    return pieces
