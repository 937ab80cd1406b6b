# SPDX-License-Identifier: Apache-2.0
"""Which groups are trained on: filter and pool.

Dynamic sampling (SRL paper, Section 3; DAPO) keeps a group only if its
rewards differ, and samples on until a batch is full. Kept groups wait in a
pool; a batch takes the oldest, and the others stay for the next batch.
packing.py makes micro-batches of them. Pool and groups are numpy on the host;
`is_kept` also runs inside programs.

Axes: P groups, S trunk positions, G samples, C branch positions.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jax import tree

from srl_jax import strict
from srl_jax.ops.advantages import group_std
from srl_jax.types import Array, Branches, Trunks
from srl_jax.update.batch import Experience


@dataclasses.dataclass(frozen=True)
class DynamicSamplingConfig:
  """The filter of groups, and its limits.

  Attributes:
    enabled: False trains on every group; groups of equal rewards then add
      nothing to the gradient (but that of the KL term, if there is one), and
      count in its average.
    refill: True samples on until groups_per_batch groups are kept; further
      kept groups wait for the next batch. False makes every round of sampling
      a batch, however many groups it keeps; then groups_per_batch, max_rounds
      and max_age have no effect.
    epsilon: a group is kept if the population standard deviation of its
      rewards is greater than this. The paper gives no number. If one sample
      of 8 has one more character in common with the expert's step, the
      deviation is 0.66 / T, where T is the characters of both texts: the
      default keeps any difference if the two texts together have at most 660
      characters, and drops noise in longer texts. The metric
      `differing_share` goes by it also where every group is trained on.
    max_rounds: rounds of sampling for one batch. If it is at least half full
      then, the update step trains on that, with a warning. If not, the stage
      ends early, and its result is the best validated; in the first update
      step, or if most samples break the format, that is an error.
    max_age: update steps that a kept group may wait in the pool; older ones
      are dropped, because the policy has moved away from the one that sampled
      them. If a round keeps at most groups_per_batch groups, its surplus waits
      one update step at most. 0 trains on fresh groups only.
  """

  enabled: bool = True
  refill: bool = True
  epsilon: float = 1e-3
  max_rounds: int = 20
  max_age: int = 4

  def __post_init__(self):
    strict.check_numbers(
      self, epsilon="[0, )", max_rounds="[1, )", max_age="[0, )"
    )


# Fields of Trunks that have an entry per branch point.
_OF_POINTS = (
  "branch_at_NK",
  "stem_NKC",
  "stem_length_NK",
  "point_id_NK",
  "is_real_NK",
)


class Groups(NamedTuple):
  """Kept groups, one per row, and where each of them came from.

  Attributes:
    batch: P trunks with K = 1 branch point of G branches each.
    trunk_id_P: id of the trunk in its round; groups with equal ids share it.
    step_P: 0-based index of the expert step that the group predicts.
    born_P: update step in which the group was sampled.
  """

  batch: Experience
  trunk_id_P: np.ndarray
  step_P: np.ndarray
  born_P: np.ndarray

  def pick(self, index: np.ndarray | slice) -> Groups:
    """Returns the groups at these indices."""
    return tree.map(lambda x_P: x_P[index], self)

  @property
  def count(self) -> int:
    """Number of groups."""
    return len(self.born_P)


def make_groups(
  trunks: Trunks,
  branches: Branches,
  reward_NKG: np.ndarray,
  step_NK: np.ndarray,
  kept_NK: np.ndarray,
  *,
  update_step: int,
  round_index: int,
) -> Groups:
  """Lists the kept groups of one round of sampling, row by row."""
  rows, points = np.nonzero(kept_NK)
  trunk_count, point_count, samples = reward_NKG.shape

  def of_point(x_NK):
    return x_NK[rows, points][:, None]

  def of_branches(x_NR):
    x_NKG = x_NR.reshape(trunk_count, point_count, samples, *x_NR.shape[2:])
    return x_NKG[rows, points]

  # Ids stay unique while a group of this round can still be in the pool.
  first_id = (update_step * 2**16 + round_index) * 2**24
  return Groups(
    Experience(
      trunks=Trunks(
        tokens_NS=trunks.tokens_NS[rows],
        length_N=trunks.length_N[rows],
        **{name: of_point(getattr(trunks, name)) for name in _OF_POINTS},
      ),
      branches=tree.map(of_branches, branches),
      reward_NKG=of_point(reward_NKG).astype(np.float32),
    ),
    trunk_id_P=first_id + rows.astype(np.int64),
    step_P=step_NK[rows, points],
    born_P=np.full(len(rows), update_step, np.int64),
  )


def is_kept(reward_G: Array, config: DynamicSamplingConfig) -> Array:
  """Returns [...], True for groups worth training on.

  Args:
    reward_G: numpy or JAX array [..., G] of rewards; nan at padding, which is
      never kept.
    config: the filter.
  """
  if not config.enabled:
    return group_std(reward_G) >= 0
  return is_differing(reward_G, config)


def is_differing(reward_G: Array, config: DynamicSamplingConfig) -> Array:
  """Returns [...], True where the rewards of a group differ enough to teach.

  The filter keeps these if it is enabled. Arguments are those of `is_kept`.
  """
  return group_std(reward_G) > config.epsilon


class Pool:
  """Kept groups that wait for a batch, oldest first."""

  def __init__(self):
    # The merged pool, then the rounds that were added since it was merged.
    self._parts: list[Groups] = []

  def __len__(self) -> int:
    return sum(part.count for part in self._parts)

  def add(self, groups: Groups) -> None:
    """Appends groups in their order."""
    self._parts.append(groups)

  def _whole(self) -> Groups:
    """Returns all groups; each round is copied once, when they are needed."""
    if len(self._parts) > 1:
      whole = tree.map(lambda *x: np.concatenate(x), *self._parts)
      self._parts = [whole]
    return self._parts[0]

  def take(self, count: int) -> Groups:
    """Removes and returns the oldest `count` groups."""
    assert self._parts and count <= len(self)
    whole = self._whole()
    self._parts = [whole.pick(slice(count, None))]
    return whole.pick(slice(count))

  def drop_born_before(self, update_step: int) -> int:
    """Removes groups sampled before this update step; returns how many."""
    if not self._parts:
      return 0
    whole = self._whole()
    is_old_P = whole.born_P < update_step
    self._parts = [whole.pick(~is_old_P)]
    return int(is_old_P.sum())

  def get_state(self) -> Groups | dict[str, Any]:
    """Returns the groups for a checkpoint; {} if the pool never held any."""
    return self._whole() if self._parts else {}

  def set_state(self, state: dict[str, Any]) -> None:
    """Restores what `get_state` returned, given as nested dicts of fields."""
    if not state:
      self._parts = []
      return
    batch = dict(state["batch"])
    trunks = Trunks(**batch.pop("trunks"))
    branches = Branches(**batch.pop("branches"))
    batch = Experience(trunks=trunks, branches=branches, **batch)
    self._parts = [Groups(**{**state, "batch": batch})]
