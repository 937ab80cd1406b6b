# SPDX-License-Identifier: Apache-2.0
"""Host-side state of decoder rows, and when a prompt can reuse a row's trunk.

stream.py and shared.py decide what enters a row; segments.py runs it.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import NamedTuple

import numpy as np

from srl_jax.rollout.requests import Request
from srl_jax.rollout.segments import Queue


class Branch(NamedTuple):
  """A sample of a request."""

  ticket: int
  request: Request
  sample: int


@dataclasses.dataclass(eq=False)
class Row:
  """A row of the device, as the host knows it.

  `branches` are those in the row's queue by entry. `later` are those that wait
  for an entry. `last_use` is the number of the segment that last ran it, and
  `last` the request that last got an entry.
  """

  branches: list[Branch | None]
  tokens: np.ndarray | None = None
  later: collections.deque[Branch] = dataclasses.field(
    default_factory=collections.deque
  )
  last_use: int = -1
  last: Request | None = None

  def is_free(self) -> bool:
    """Whether no branch needs the trunk."""
    return not self.load()

  def load(self) -> int:
    """Number of branches that run or wait."""
    return len(self.later) + sum(b is not None for b in self.branches)


def common(a: np.ndarray, b: np.ndarray) -> int:
  """Length of the common prefix."""
  size = min(len(a), len(b))
  return int(np.argmin(np.append(a[:size] == b[:size], False)))


def shares(trunk: np.ndarray | None, tokens: np.ndarray, max_stem: int) -> bool:
  """Whether a prompt can hang off a trunk as a stem of `max_stem` tokens.

  A stem runs token by token. If it is the greater part of the prompt, a trunk
  of its own is ready sooner.
  """
  if trunk is None:
    return False
  least = max(len(tokens) - max_stem, -(-len(tokens) // 2))
  return _begin_alike(trunk, tokens, least)


def continued(trunk: np.ndarray | None, tokens: np.ndarray) -> int:
  """How many tokens of a new trunk a row has, where it pays to go on from them.

  Less than half of the old trunk or of the new is nothing: a trunk that only
  begins alike is of another problem, which may go on, too.
  """
  if trunk is None:
    return 0
  half = -(-max(len(trunk), len(tokens)) // 2)
  return common(trunk, tokens) if _begin_alike(trunk, tokens, half) else 0


def _begin_alike(a: np.ndarray, b: np.ndarray, size: int) -> bool:
  """Whether both have these first tokens, one at least, in common."""
  # There are many rows to compare, and most differ in the last of the tokens.
  return (
    0 < size <= min(len(a), len(b))
    and a[size - 1] == b[size - 1]
    and np.array_equal(a[:size], b[:size])
  )


def empty_queue(rows: int, entries: int, max_stem: int) -> Queue:
  """Returns a queue of numpy arrays, for the host to write."""

  def zeros(dtype=np.int32, *shape):
    return np.zeros((rows, entries, *shape), dtype)

  return Queue(
    waiting_NQ=zeros(bool),
    dropped_NQ=zeros(bool),
    branch_at_NQ=zeros(),
    stem_NQC=zeros(np.int32, max_stem),
    stem_length_NQ=zeros() + 1,
    point_id_NQ=zeros(np.uint32),
    sample_NQ=zeros(),
    max_new_NQ=zeros(),
    temperature_NQ=zeros(np.float32),
    top_k_NQ=zeros(),
    top_p_NQ=zeros(np.float32),
  )
