# SPDX-License-Identifier: Apache-2.0
"""Deals trajectories to splits, so that those of a problem stay together.

A problem may be told in several ways: trajectories that name the same task in
their metadata are of one problem, and so are those with the same text.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from srl_jax.trajectory import Trajectory

SPLITS = ("train", "valid", "test", "pretrain")
_DEALT = ("test", "valid", "pretrain", "train")  # In this order.


def deal_missing(
  own: Mapping[str, Sequence[Trajectory]],
  sizes: Mapping[str, int],
  path: pathlib.Path,
) -> dict[str, Sequence[Trajectory]]:
  """Deals the splits that data have a size for, but not, from their "train".

  Args:
    own: the splits that the data come in.
    sizes: as for `split_by_problem`.
    path: where the data come from, for messages.

  Raises:
    ValueError: there is nothing to deal from, too little, or the data have a
      split already that they are to deal.
  """
  own = {name: split for name, split in own.items() if split}
  asked = [name for name in SPLITS if sizes.get(name)]
  for name in asked:
    if name in own and name != "train":
      raise ValueError(
        f"{path} has a split {name!r} of its own, of {len(own[name]):,}"
        f" trajectories, and data.{name}_size={sizes[name]} asks for another;"
        f" set data.{name}_size=0"
      )
  if not asked:
    return own
  if "train" not in own:
    raise ValueError(
      f"{path} has no split 'train' to take others from; set"
      f" {' and '.join(f'data.{name}_size=0' for name in asked)}"
    )
  dealt = split_by_problem(own["train"], sizes)
  return {**own, **{name: split for name, split in dealt.items() if split}}


def split_by_problem(
  trajectories: Sequence[Trajectory], sizes: Mapping[str, int]
) -> dict[str, list[Trajectory]]:
  """Splits trajectories by a hash of the problem.

  Problems are dealt in the order of their hashes: first to "test", then to
  "valid", "pretrain" and "train", each until it has its size. With size 0,
  "train" gets the rest. All trajectories of a problem go to one split, so a
  split may be a little larger than asked. Splits keep the order of the input.

  Raises:
    ValueError: there are too few trajectories for these sizes.
  """
  groups: dict[bytes, list[int]] = {}
  for index, key in enumerate(_keys(trajectories)):
    groups.setdefault(key, []).append(index)
  queue = sorted(groups)
  counts = [len(groups[key]) for key in queue]
  ends = _ends(counts, sizes)
  if not ends:
    raise ValueError(
      f"{len(trajectories)} trajectories ({len(groups)} different problems)"
      f" are too few for the splits {dict(sizes)}; {_cure(counts, sizes)}"
    )
  chosen: dict[str, list[int]] = {}
  begin = 0
  for name in _DEALT:
    keys = queue[begin : ends[name]]
    chosen[name] = [index for key in keys for index in groups[key]]
    begin = ends[name]
  return {
    name: [trajectories[index] for index in sorted(chosen[name])]
    for name in SPLITS
  }


def by_hash(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
  """Returns trajectories in the order of a hash of their ids.

  The first so many are then a sample of all, also where a file has one source
  after the other, or easy problems first.
  """
  return sorted(trajectories, key=lambda x: _hash(x.id))


def _ends(counts: Sequence[int], sizes: Mapping[str, int]) -> dict[str, int]:
  """Deals problems with so many trajectories each; returns where splits end.

  Empty if there are too few, or if nothing is left to train on.
  """
  ends, at = {}, 0
  for name in _DEALT:
    size, got = sizes.get(name, 0), 0
    takes_rest = name == "train" and not size
    while at < len(counts) and (takes_rest or got < size):
      got += counts[at]
      at += 1
    if got < max(size, name == "train"):
      return {}
    ends[name] = at
  return ends


def _cure(counts: Sequence[int], sizes: Mapping[str, int]) -> str:
  """What to type if `_ends` finds too few; the largest sizes come first."""
  given = sorted(filter(sizes.get, _DEALT), key=lambda x: -sizes[x])
  for name in given:
    lowest = int(name == "train")  # 0 is not less there, but all the rest.
    lower = range(lowest, sizes[name])
    # With a lower size, what comes later has more to choose from.
    most = bisect.bisect_left(
      lower, True, key=lambda size: not _ends(counts, {**sizes, name: size})
    )
    if most:
      less = " or less" if most > 1 else ""
      return f"set data.{name}_size to {lower[most - 1]}{less}"
  names = " and ".join(f"data.{name}_size" for name in given)
  most = len(counts) - (not sizes.get("train"))
  return f"lower {names}, to no more than {most} together"


def shared_problems(
  splits: Mapping[str, Sequence[Trajectory]],
) -> Iterator[str]:
  """Yields a line for each two of the splits that have problems in common.

  "pretrain" and "train" may: both are trained on.
  """
  names = [name for name in SPLITS if splits.get(name)]
  keys = iter(_keys([x for name in names for x in splits[name]]))
  ids = {name: {next(keys): x.id for x in splits[name]} for name in names}
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


def _keys(trajectories: Sequence[Trajectory]) -> list[bytes]:
  """A hash of each trajectory's problem; the least of all ways to tell it."""
  same: dict[bytes, bytes] = {}  # A text's hash -> a lower one, or itself.
  of_task: dict[str, bytes] = {}

  def least(key: bytes) -> bytes:
    while same.setdefault(key, key) != key:
      key = same[key]
    return key

  texts = [_hash(trajectory.problem) for trajectory in trajectories]
  for text, trajectory in zip(texts, trajectories, strict=True):
    task = trajectory.metadata.get("task")
    if task:
      keys = least(text), least(of_task.setdefault(task, text))
      same[max(keys)] = min(keys)
  return [least(text) for text in texts]


def _hash(problem: str) -> bytes:
  """A hash of a text, ignoring case and spacing."""
  text = " ".join(problem.casefold().split())
  return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
