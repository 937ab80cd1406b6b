# SPDX-License-Identifier: Apache-2.0
"""An endless, shuffled, resumable stream of batches, built on Grain.

The stream is a function of (trunks, seed). Each epoch is one shuffle, epoch
follows epoch, and batch b is items [b*B, (b+1)*B). Only a batch that
spans two epochs can hold a trunk twice; in its second epoch branch points have
other names, so that their samples are other ones. All processes read the same
batches, so a run may be resumed on another number of processes. Batches are
host arrays; other modules place them on devices.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from srl_jax.data.batching import TrunkBatch, collate
from srl_jax.data.trunks import Trunk
from srl_jax.optional import needed_for

if TYPE_CHECKING:
  import grain


def make_batches(
  trunks: Sequence[Trunk],
  *,
  seed: int,
  batch_size: int,
  trunk_width: int,
  points: int,
  stem_width: int,
) -> Batches:
  """Returns an iterator over batches, the same ones on every process.

  Args:
    trunks: all trunks.
    seed: seed of the shuffles and of the branch points drawn.
    batch_size: trunks per batch.
    trunk_width: padded trunk length in tokens; widths(trunks).trunk fits all.
    points: branch points per trunk. From a trunk with more, each visit draws
      this many at random, determined by (seed, position in the stream).
    stem_width: padded stem length in tokens; widths(trunks).stem fits all.

  Raises:
    ValueError: a batch is larger than the data.
  """
  if not 1 <= batch_size <= len(trunks):
    raise ValueError(
      f"a batch of {batch_size} trunks cannot be drawn from {len(trunks)}"
      f" trunks; use a batch size between 1 and {len(trunks)}, or more data"
    )
  # Imported on use: slow, and it brings JAX, which a host module must not load.
  with needed_for("Batches of trunks", "grain"):
    import grain

  def draw(position: int, trunk: Trunk) -> Trunk:
    drawn = draw_points(trunk, points, seed, position)
    begin = position - position % batch_size
    is_same_epoch = begin // len(trunks) == position // len(trunks)
    return drawn if is_same_epoch else _renamed(drawn)

  def to_batch(rows: Sequence[Trunk]) -> TrunkBatch:
    return collate(
      rows, trunk_width=trunk_width, points=points, stem_width=stem_width
    )

  # Grain adds the epoch to the seed, so neighbouring seeds would replay each
  # other's epochs. Mixing the bits first keeps them apart.
  shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
  dataset = (
    grain.MapDataset.source(trunks)
    .shuffle(seed=shuffle_seed)
    .repeat()
    .map_with_index(draw)
  )
  # Grain cannot count an endless stream in batches of one.
  dataset = (
    dataset.map(lambda trunk: to_batch([trunk]))
    if batch_size == 1
    else dataset.batch(batch_size, batch_fn=to_batch)
  )
  identity = {
    "seed": seed,
    "batch_size": batch_size,
    "points": points,
    "trunks": len(trunks),
    "trunks_crc32": _fingerprint(trunks),
  }
  # A batch takes some 50 microseconds per trunk, so no thread is needed.
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return Batches(iter(dataset.to_iter_dataset(options)), identity)


class Batches:
  """Iterates over batches endlessly; its only state is the batch number."""

  def __init__(self, iterator: grain.DatasetIterator, identity: dict[str, Any]):
    self._iterator = iterator
    self._identity = identity

  def __iter__(self) -> Batches:
    return self

  def __next__(self) -> TrunkBatch:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    """Returns a dict for JSON: the position and what identifies the stream."""
    return {**self._identity, "grain": self._iterator.get_state()}

  def set_state(self, state: dict[str, Any]) -> None:
    """Restores what get_state returned.

    Raises:
      ValueError: the state is from a stream of other data, sizes or seed.
    """
    for name, value in self._identity.items():
      if state.get(name) != value:
        raise ValueError(
          f"cannot resume the data stream: {name} was {state.get(name)!r} when"
          f" it was saved and is {value!r} now; restore the old setting or"
          " data (or, if they are the same, the version of srl_jax in the"
          " run's versions.json), or start in a new working directory"
        )
    self._iterator.set_state(state["grain"])


def draw_points(trunk: Trunk, points: int, seed: int, position: int) -> Trunk:
  """Draws at most `points` branch points of a trunk and keeps their order.

  The trunk is cut after the last one drawn, because no branch sees the rest.
  """
  if len(trunk.points) <= points:
    return trunk
  rng = np.random.default_rng((seed, position))
  chosen = sorted(rng.choice(len(trunk.points), points, replace=False))
  kept = tuple(trunk.points[k] for k in chosen)
  return dataclasses.replace(
    trunk, points=kept, tokens=trunk.tokens[: kept[-1].at]
  )


def _renamed(trunk: Trunk) -> Trunk:
  """The trunk with other names of its branch points."""
  points = (
    dataclasses.replace(p, point_id=zlib.crc32(b"again", p.point_id))
    for p in trunk.points
  )
  return dataclasses.replace(trunk, points=tuple(points))


def _fingerprint(trunks: Sequence[Trunk]) -> int:
  """crc32 of what is learnt from trunks, to tell whether data have changed."""
  crc = 0
  for trunk in trunks:
    crc = zlib.crc32(trunk.tokens, crc)
    for point in trunk.points:
      crc = zlib.crc32(np.uint32([point.at, point.point_id]), crc)
      crc = zlib.crc32(point.stem, crc)
      crc = zlib.crc32(point.target_tokens, crc)
      crc = zlib.crc32(point.target.encode("utf-8"), crc)
  return crc
