# SPDX-License-Identifier: Apache-2.0
"""Deals trajectories to splits, so that copies of a problem stay together."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

from srl_jax.trajectory import Trajectory

SPLITS = ("train", "valid", "test", "pretrain")


def split_by_problem(
  trajectories: Sequence[Trajectory], sizes: Mapping[str, int]
) -> dict[str, list[Trajectory]]:
  """Splits trajectories by a hash of the problem, ignoring case and spacing.

  Problems are dealt in the order of their hashes: first to "test", then to
  "valid", "pretrain" and "train", each until it has its size. With size 0,
  "train" gets the rest. All trajectories of a problem go to one split, so a
  split may be a little larger than asked. Splits keep the order of the input.

  Raises:
    ValueError: there are too few trajectories for these sizes.
  """
  groups: dict[bytes, list[int]] = {}
  for index, trajectory in enumerate(trajectories):
    groups.setdefault(_key(trajectory), []).append(index)
  queue = iter(sorted(groups))
  chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
  for name in ("test", "valid", "pretrain", "train"):
    size = sizes.get(name, 0)
    if name == "train" and not size:
      for key in queue:
        chosen[name] += groups[key]
    while len(chosen[name]) < size and (key := next(queue, None)) is not None:
      chosen[name] += groups[key]
    wanted = max(size, name == "train")  # Something must be left to train on.
    if len(chosen[name]) < wanted:
      raise ValueError(
        f"{len(trajectories)} trajectories ({len(groups)} different problems)"
        f" are too few for the splits {dict(sizes)}; lower data.{name}_size or"
        " another size"
      )
  return {
    name: [trajectories[index] for index in sorted(indices)]
    for name, indices in chosen.items()
  }


def shared_problems(
  splits: Mapping[str, Sequence[Trajectory]],
) -> Iterator[str]:
  """Yields a line for each two of the splits that have problems in common.

  "pretrain" and "train" may: both are trained on.
  """
  ids = {
    name: {_key(trajectory): trajectory.id for trajectory in splits[name]}
    for name in SPLITS
    if splits.get(name)
  }
  for a, b in itertools.combinations(ids, 2):
    common = ids[a].keys() & ids[b].keys()
    if common and {a, b} != {"train", "pretrain"}:
      first = min(common, key=lambda key: ids[a][key])
      yield (
        f"{len(common):,} of {len(ids[b]):,} problems of the split {b!r} are"
        f" in {a!r} too, so what is measured on them says too much;"
        f" remove them from one of the two. The first: {ids[a][first]!r} of"
        f" {a!r} is {ids[b][first]!r} of {b!r}"
      )


def _key(trajectory: Trajectory) -> bytes:
  """A hash of the problem, ignoring case and spacing."""
  text = " ".join(trajectory.problem.casefold().split())
  return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
