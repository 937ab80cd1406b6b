# SPDX-License-Identifier: Apache-2.0
"""The phases of an update step, as they are and as they could be at best.

Phases run one after the other. What is sampled and kept is drawn (drawn.py),
each phase is counted (counting.py), and beside it stands the least that it
could be (ideal.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from srl_jax.config import Config
from srl_jax.models import ModelConfig
from srl_jax.ops import decode_attention, logprobs, tree_attention
from srl_jax.rollout import layout
from srl_jax.rollout.decode import CACHE_START
from srl_jax.rollout.slots import cache_widths
from srl_jax.train.data import StageData
from srl_jax.train.rl_config import RlConfig
from srl_jax.update.packing import PackShape

from . import drawn
from .counting import Counter
from .drawn import Batch, Lengths
from .ideal import Ideal
from .work import Load, Split, Work, reward_work


class Phase(NamedTuple):
  """A phase of an update step.

  Attributes:
    name: name of the phase; it begins with the name of its program.
    count: number of times that the phase runs in an update step.
    work: work of one time, per device.
  """

  name: str
  count: int
  work: Work


class Step(NamedTuple):
  """An update step.

  Attributes:
    phases: what it does, in order.
    ideal: the least that phases could be, by the head of their names.
    batch: what is kept and trained on.
    rounds: rounds of sampling.
    tokens: tokens of completions that are sampled.
  """

  phases: list[Phase]
  ideal: dict[str, Work]
  batch: Batch
  rounds: int
  tokens: float


def step_of(
  config: Config,
  section: RlConfig,
  mesh,
  data: StageData,
  pack_shapes: Sequence[PackShape],
  lengths: Lengths,
  *,
  on_chip: float = 0,
) -> Step:
  """Counts an update step.

  Args:
    config: config of the run.
    section: the stage's section.
    mesh: mesh of the devices, which may be described ones.
    data: widths of the arrays.
    pack_shapes: shapes that a micro-batch may have; the one that packs the
      batch best is taken.
    lengths: what is sampled and kept.
    on_chip: see `Chip.on_chip_bytes`.
  """
  sizes, sampling = data.widths, section.sampling
  shape = drawn.Shape(
    section.groups_per_batch,
    sizes.points,
    sampling.samples,
    sizes.trunk,
    sizes.stem,
    sampling.max_new_tokens,
    pack_shapes[0],
  )
  batch = min(
    (drawn.draw(shape._replace(pack=x), lengths) for x in pack_shapes),
    key=lambda batch: batch.positions,
  )
  rounds = drawn.rounds(shape, sampling.trunks_per_round, lengths)
  splits = [
    Split(dict(mesh.shape), x) for x in (config.rules, config.rollout_rules)
  ]
  device = mesh.devices.flat[0].device_kind
  counter = Counter(config.model, splits[1], on_chip)
  read = 0.0
  model = config.model
  if decode_attention.is_chosen(model.decode_kernel, device, model.head_width):
    read = drawn.entries_read(batch)
  phases = [
    *_rollout(counter, section, data, shape, splits, rounds, lengths, read),
    *_update(config, section, batch, splits[0], device),
  ]
  branches = sizes.points * sampling.samples
  trunks = rounds * sampling.trunks_per_round
  rows = sampling.rows or (
    sampling.trunks_per_round // sampling.parts_per_round
  )
  live = rows * sampling.slots_of(branches)
  completions, mean = trunks * branches, lengths.mean
  at_rest, in_rollout = (Ideal(config.model, x) for x in splits)
  ideal = {
    "rollout: trunks": in_rollout.trunks(trunks, sizes.trunk),
    "rollout: decode": in_rollout.decode(batch, completions, mean, live),
    "update: accumulate": at_rest.update(batch).times(section.passes),
  }
  return Step(phases, ideal, batch, rounds, completions * mean)


def _rollout(counter, section, data, shape, splits, rounds, lengths, read):
  """The phases of all rounds."""
  sampling = section.sampling
  at_rest, in_rollout = splits
  per_part = sampling.trunks_per_round // sampling.parts_per_round
  branches = shape.points * shape.samples
  mean = shape.stem + lengths.mean - 1
  rollout = counter.rollout(
    Load(per_part, shape.trunk, branches, shape.cells + 1),
    at_rest,
    slots=min(sampling.slots_of(branches), branches),
    cache=cache_widths(CACHE_START, shape.cells),
    mean=mean,
    read=read,
  )
  reward = reward_work(
    per_part * branches / in_rollout.batch,
    data.target_chars,
    section.reward.function,
  )
  parts = rounds * sampling.parts_per_round
  works = {f"rollout: {k}": x for k, x in rollout.items()} | {"reward": reward}
  phases = [Phase(name, parts, work) for name, work in works.items()]
  if sampling.rows:
    return _in_shared_slots(counter, sampling, shape, phases, mean, read)
  return phases


def _in_shared_slots(counter, sampling, shape, phases, mean, read):
  """The phases, with one decoding loop for the completions of all rounds.

  Its tail lasts as long as the longest completion (`benchmarks.refill`).
  """
  branches = shape.points * shape.samples
  slots = sampling.slots_of(branches)
  places = layout.places(slots, branches)
  if read:
    # The kernel reads trunks whose branches are decoded: one ends, and others
    # fill the slots.
    places = min(places, 1 + -(-slots // branches))
  begun = next(x.count for x in phases) * sampling.trunks_per_round
  tokens = begun * shape.points * shape.samples * mean
  iterations = shape.cells + tokens / (sampling.rows * slots)
  load = Load(sampling.rows, places * shape.trunk, slots, shape.cells)
  iteration = counter.iteration(
    load, slots, read or shape.cells, is_ragged=read > 0
  )
  loop = {
    f"rollout: decode, {k}": x.times(iterations) for k, x in iteration.items()
  }
  phases = [
    Phase(name, 1, loop[name]) if name in loop else Phase(name, count, work)
    for name, count, work in phases
  ]
  lay_out = phases[0]._replace(count=1)
  return [lay_out, *phases[1:]]


def _update(config, section, batch: Batch, split, device: str):
  """The phases of all passes over the batch."""
  rows, trunks_of_row, lanes = batch.shape.pack
  counter = Counter(config.model, split)
  kernel = None
  if tree_attention.is_chosen(config.model.lane_kernel, device):
    kernel = drawn.in_kernel(batch, config.model, split.row)
  cells = batch.shape.cells
  trunks = rows * trunks_of_row
  accumulate = counter.accumulate(
    Load(trunks, batch.shape.trunk, lanes / trunks_of_row, cells + 1),
    kernel=kernel,
    **_pieces(config, section, split, rows * lanes, cells),
  )
  finish = counter.finish(
    jnp.dtype(section.optim.moment_dtype).itemsize + 4,
    _trained_bytes(config.model),
  )
  times = section.passes * batch.micro_batches
  return [
    *(
      Phase(f"update: accumulate, {name}", times, work)
      for name, work in accumulate.items()
    ),
    Phase("update: finish", section.passes, finish),
  ]


def _trained_bytes(model: ModelConfig) -> int:
  """Bytes of a trained element, with its float32 copy if it has one."""
  if model.lora.rank or model.param_dtype == "float32":
    return 4
  return jnp.dtype(model.param_dtype).itemsize + 4


def _pieces(
  config: Config,
  section: RlConfig,
  split: Split,
  branches: int,
  positions: int,
) -> dict[str, int | bool]:
  """Returns the pieces in which `logprobs.token_logps` makes logits."""
  vocab_parts = split.parts("vocab")
  limit = section.loss.max_logits * split.batch * vocab_parts
  vocab = config.model.vocab_size
  if not limit or branches * positions * vocab <= limit:
    return {"chunks": 1, "is_blocked": False}
  width = logprobs.block_width(vocab // vocab_parts) * vocab_parts
  chunk = max(1, limit // (branches * width))
  return {"chunks": math.ceil(positions / chunk), "is_blocked": True}
