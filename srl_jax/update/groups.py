# SPDX-License-Identifier: Apache-2.0
"""Which groups are trained on: filter, pool and packing. Host side, numpy.

Dynamic sampling (SRL paper, Section 3; DAPO) keeps a group only if its
rewards differ, and samples on until a batch is full. Kept groups wait in a
pool; a batch takes the oldest, what is left over stays for the next batch.
Packing then puts groups that share a trunk back into one row, so that the
trunk is computed once, and cuts the rows into micro-batches of one shape.

Axes: P groups, S trunk positions, G samples, C branch positions.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from srl_jax.ops.advantages import group_std
from srl_jax.types import Array, Branches, Trunks
from srl_jax.update.batch import MicroBatch


@dataclasses.dataclass(frozen=True)
class DynamicSamplingConfig:
  """The filter and its limits.

  Attributes:
    enabled: False trains on every group; equal rewards then add nothing to
      the gradient but count in its average.
    refill: sample on until groups_per_batch groups are kept; what is left
      over waits for the next batch. False makes every round of sampling a
      batch of its own, of however many groups are kept.
    epsilon: keep a group if the population standard deviation of its rewards
      is greater than this. The paper gives no number. One character more in
      common, in one sample of 8, is a deviation of 0.66 / T where the two
      texts have T characters together: the default keeps any difference in
      texts of up to 660 characters, and drops what is only noise in longer.
    max_rounds: rounds of sampling for one batch before giving up.
  """

  enabled: bool = True
  refill: bool = True
  epsilon: float = 1e-3
  max_rounds: int = 20

  def __post_init__(self):
    if self.epsilon < 0 or self.max_rounds < 1:
      raise ValueError(
        f"dynamic sampling with epsilon={self.epsilon}, "
        f"max_rounds={self.max_rounds}; set epsilon to 0 or more and "
        "max_rounds to 1 or more"
      )


class Groups(NamedTuple):
  """Groups of samples with their contexts, one row per group.

  Attributes:
    trunk_PS: trunk tokens.
    trunk_length_P: number of real trunk tokens.
    trunk_id_P: equal for groups of one row of one round: they share a trunk.
    branch_at_P: trunk tokens that the group sees.
    stem_length_P: given tokens at the head of its branches.
    tokens_PGC: stem and completion.
    length_PG: real tokens, stem included.
    sampler_logp_PGC: see Branches.
    reward_PG: float32.
    depth_P: 0-based index of the step that the group predicts.
    born_P: optimizer step at which the group was sampled.
  """

  trunk_PS: np.ndarray
  trunk_length_P: np.ndarray
  trunk_id_P: np.ndarray
  branch_at_P: np.ndarray
  stem_length_P: np.ndarray
  tokens_PGC: np.ndarray
  length_PG: np.ndarray
  sampler_logp_PGC: np.ndarray
  reward_PG: np.ndarray
  depth_P: np.ndarray
  born_P: np.ndarray

  def pick(self, index: np.ndarray | slice) -> Groups:
    """The groups at these places."""
    return Groups(*(x[index] for x in self))

  @property
  def count(self) -> int:
    """Number of groups."""
    return len(self.born_P)


def make_groups(
  trunks: Trunks,
  branches: Branches,
  reward_NKG: np.ndarray,
  depth_NK: np.ndarray,
  kept_NK: np.ndarray,
  *,
  step: int,
  round_index: int,
) -> Groups:
  """Lists the kept groups of one round of sampling, row by row."""
  rows, points = np.nonzero(kept_NK)
  samples = reward_NKG.shape[-1]
  trunk_count, point_count = trunks.branch_at_NK.shape

  def of_group(x_NR):
    grouped = x_NR.reshape(trunk_count, point_count, samples, *x_NR.shape[2:])
    return grouped[rows, points]

  # Unique while any group of this round can still be in the pool.
  first_id = (step * 2**16 + round_index) * 2**24
  return Groups(
    trunk_PS=trunks.tokens_NS[rows],
    trunk_length_P=trunks.length_N[rows],
    trunk_id_P=first_id + rows.astype(np.int64),
    branch_at_P=trunks.branch_at_NK[rows, points],
    stem_length_P=trunks.stem_length_NK[rows, points],
    tokens_PGC=of_group(branches.tokens_NRC),
    length_PG=of_group(branches.length_NR),
    sampler_logp_PGC=of_group(branches.sampler_logp_NRC),
    reward_PG=reward_NKG[rows, points].astype(np.float32),
    depth_P=depth_NK[rows, points],
    born_P=np.full(len(rows), step, np.int64),
  )


def is_kept(
  reward_G: Array,
  config: DynamicSamplingConfig,
  epsilon: Array | None = None,
) -> Array:
  """True for groups worth training on; numpy and JAX arrays alike.

  Args:
    reward_G: [..., G]; nan at padding, which is never kept.
    config: the filter.
    epsilon: instead of that of config, if it is to be an array.
  """
  std = group_std(reward_G)
  if not config.enabled:
    return std >= 0
  return std > (config.epsilon if epsilon is None else epsilon)


class Pool:
  """Kept groups that wait for a batch, oldest first."""

  def __init__(self):
    self._groups: Groups | None = None

  def __len__(self) -> int:
    return 0 if self._groups is None else self._groups.count

  def add(self, groups: Groups) -> None:
    """Appends groups, in order."""
    if self._groups is None:
      self._groups = groups
      return
    pairs = zip(self._groups, groups, strict=True)
    self._groups = Groups(*(np.concatenate(pair) for pair in pairs))

  def take(self, count: int) -> Groups:
    """Removes and returns the oldest `count` groups."""
    assert self._groups is not None and count <= len(self)
    taken = self._groups.pick(slice(count))
    self._groups = self._groups.pick(slice(count, None))
    return taken

  def get_state(self) -> dict[str, np.ndarray]:
    """The pool as arrays for a checkpoint; {} if it never held anything."""
    return {} if self._groups is None else dict(self._groups._asdict())

  def set_state(self, state: dict[str, np.ndarray]) -> None:
    """Goes on from what `get_state` returned."""
    self._groups = Groups(**state) if state else None


def pack(
  groups: Groups, *, trunks: int, points: int, step: int
) -> list[MicroBatch]:
  """Cuts groups into micro-batches of `trunks` rows with `points` slots each.

  Groups with one trunk share a row, as far as it has slots; rows are in order
  of their first group. The last micro-batch is filled up with empty rows; no
  groups at all make one of empty rows only.

  Args:
    groups: the batch.
    trunks: rows per micro-batch.
    points: groups per row.
    step: the present optimizer step; groups born in it are fresh.
  """
  row_P, slot_P, rows = _assign(groups.trunk_id_P, points)
  count = max(1, -(-rows // trunks))
  samples, width = groups.tokens_PGC.shape[1:]

  def scatter(x_P, *leading):
    place = (row_P, slot_P) if leading else (row_P,)
    out = np.zeros((count * trunks, *leading, *x_P.shape[1:]), x_P.dtype)
    out[place] = x_P
    return out

  branches = (count * trunks, points * samples)
  stem_length_NK = scatter(groups.stem_length_P, points)
  length_NR = scatter(groups.length_PG, points).reshape(branches)
  slots_C = np.arange(width)
  stem_NR1 = np.repeat(stem_length_NK, samples, axis=1)[..., None]
  is_used_NK = scatter(np.ones(groups.count, bool), points)
  whole = MicroBatch(
    trunks=Trunks(
      tokens_NS=scatter(groups.trunk_PS),
      length_N=scatter(groups.trunk_length_P),
      branch_at_NK=scatter(groups.branch_at_P, points),
      # The stems are the heads of the branches already.
      stem_NKC=np.zeros((count * trunks, points, 1), np.int32),
      stem_length_NK=stem_length_NK,
      point_id_NK=np.zeros((count * trunks, points), np.uint32),
      is_real_NK=is_used_NK,
    ),
    branches=Branches(
      tokens_NRC=scatter(groups.tokens_PGC, points).reshape(*branches, width),
      length_NR=length_NR,
      is_completion_NRC=(slots_C >= stem_NR1)
      & (slots_C < length_NR[..., None]),
      sampler_logp_NRC=scatter(groups.sampler_logp_PGC, points).reshape(
        *branches, width
      ),
      stopped_NR=np.zeros(branches, bool),
    ),
    reward_NKG=scatter(groups.reward_PG, points),
    is_fresh_NK=scatter(groups.born_P == step, points),
  )
  return [
    _rows(whole, slice(i * trunks, (i + 1) * trunks)) for i in range(count)
  ]


def _assign(trunk_id_P, points):
  """Row and slot of every group, and the number of rows."""
  open_rows: dict[int, tuple[int, int]] = {}
  places = []
  rows = 0
  for trunk_id in trunk_id_P.tolist():
    row, used = open_rows.get(trunk_id, (0, points))
    if used == points:
      row, used, rows = rows, 0, rows + 1
    places.append((row, used))
    open_rows[trunk_id] = (row, used + 1)
  row_P, slot_P = np.array(places, np.int64).reshape(-1, 2).T
  return row_P, slot_P, rows


def _rows(batch: MicroBatch, rows: slice) -> MicroBatch:
  return MicroBatch(
    trunks=Trunks(*(x[rows] for x in batch.trunks)),
    branches=Branches(*(x[rows] for x in batch.branches)),
    reward_NKG=batch.reward_NKG[rows],
    is_fresh_NK=batch.is_fresh_NK[rows],
  )
