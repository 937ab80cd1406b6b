# SPDX-License-Identifier: Apache-2.0
"""Does a stage fit a TPU topology, and how long would an update step take?

The report compiles the programs (ahead_of_time.py), counts their work
(counting.py), and compares both with the chip (chips.py). Times are at peak
rates: a lower bound, not a prediction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from srl_jax import sharding
from srl_jax.config import Config
from srl_jax.models import ModelConfig
from srl_jax.ops import logprobs
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.slots import cache_widths
from srl_jax.train import memory
from srl_jax.train.pieces import RlConfig
from srl_jax.train.rl import RlStage
from srl_jax.train.stage import StageData
from srl_jax.update.packing import PackShape

from . import ahead_of_time, counting
from .chips import Chip, parse_topology
from .counting import Counter, Layout, Load, Work


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


def report(
  config: Config,
  stage: str,
  topology: str,
  *,
  slices: int,
  stem: int,
  target: int,
  write: Callable[[str], None],
) -> bool:
  """Compiles the programs of an RL stage and writes a report.

  Args:
    config: config of the run.
    stage: "srl" or "rlvr".
    topology: chip and shape of a slice, such as "v5e:8x8".
    slices: number of slices, which a slower network joins.
    stem: number of given tokens at the head of a branch.
    target: length of the longest expert step in characters.
    write: function that gets each line as soon as it is known.

  Returns:
    True if every program fits.

  Raises:
    ValueError: the topology is unknown, there is no compiler, the mesh does
      not fit the topology, or the config leaves widths to the data.
  """
  chip, sides = parse_topology(topology)
  data = ahead_of_time.widths(config, stage, stem, target)
  mesh = sharding.make_mesh(
    config.mesh, ahead_of_time.devices(topology, slices)
  )
  section = ahead_of_time.with_reward(config, stage)
  where = topology if slices == 1 else f"{slices} slices of {topology}"
  for line in _headlines(config, stage, where, mesh, data):
    write(line)
  built = ahead_of_time.build_stage(config, stage, mesh, data)
  if config.model.lora.rank:
    write(_saving(config, stage, mesh, built))
  write("")
  write(memory.header(chip.memory_bytes))
  fits = True
  names = []
  for program in built.plan():
    names.append(program.name)
    line, is_fit = memory.try_program(program, chip.memory_bytes)
    write(line)
    fits &= is_fit
  write("")
  link = chip.link_bytes_per_s(sides)
  shape = built.updates.pieces.update_shape
  phases = [
    p for p in phases_of(config, section, mesh, data, shape) if _is_of(p, names)
  ]
  for line in _table(phases, chip, link):
    write(line)
  write("")
  for line in summary(phases, section, chip, link, mesh.size):
    write(line)
  if slices > 1:
    write(_between_slices(config, phases, mesh, slices))
  return fits


def _between_slices(config, phases, mesh, slices: int) -> str:
  layout = Layout(dict(mesh.shape), config.rules)
  [batches] = [x.count for x in phases if x.name == "update: accumulate"]
  received = batches * Counter(config.model, layout).between_slices(slices)
  return (
    f"between the {slices} slices: {received / 1e9:.3g} GB per chip and step, "
    f"the gradients of {batches} micro-batch(es); counted above as if its "
    "links were those within a slice"
  )


def _is_of(phase: Phase, programs: list[str]) -> bool:
  part = phase.name.partition(":")[0]
  return any(name.startswith(part) for name in programs)


def _headlines(config, stage, where, mesh, data: StageData):
  c, sizes = getattr(config, stage), data.widths
  axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
  yield f"{config.name}, stage {stage}, on {where}: {axes}"
  yield (
    f"{c.sampling.trunks_per_round} trunks of {sizes.trunk} tokens per round "
    f"in {c.sampling.parts_per_round} part(s), {c.trunks_per_micro_batch} per "
    "micro-batch, "
    f"{sizes.points} branch points x {c.sampling.samples} samples of "
    f"{sizes.stem} + {c.sampling.max_new_tokens} tokens"
  )
  if c.sampling.rows:
    yield (
      f"rounds share {c.sampling.rows} rows of slots; the times below are of "
      "rounds one after the other"
    )


def _saving(config: Config, stage: str, mesh: Mesh, adapters: RlStage) -> str:
  lora = config.model.lora
  whole = dataclasses.replace(
    config,
    model=dataclasses.replace(
      config.model, lora=dataclasses.replace(lora, rank=0)
    ),
  )
  full = ahead_of_time.build_stage(whole, stage, mesh, adapters.data)
  of_adapters, of_all = (
    memory.readable(ahead_of_time.training_bytes(x)) for x in (adapters, full)
  )
  return (
    f"weights, optimizer state and gradient sums of adapters of rank "
    f"{lora.rank}: {of_adapters} a device; of full fine-tuning: {of_all}"
  )


def phases_of(
  config: Config, section: RlConfig, mesh, data: StageData, shape: PackShape
) -> list[Phase]:
  """Returns the phases of an update step whose groups are all kept."""
  sizes = data.widths
  samples = section.sampling.samples
  width = sizes.stem + section.sampling.max_new_tokens
  branches = sizes.points * samples
  groups = section.groups_per_batch

  def load(trunks):
    return Load(trunks, sizes.trunk, branches, width)

  def layout(rules):
    return Layout(dict(mesh.shape), rules)

  at_rest, in_rollout = layout(config.rules), layout(config.rollout_rules)
  per_part = (
    section.sampling.trunks_per_round // section.sampling.parts_per_round
  )
  parts = section.sampling.parts_per_round * math.ceil(
    groups / (section.sampling.trunks_per_round * sizes.points)
  )
  # Completions of full length: a lane holds one branch.
  rows, trunks_of_row, lanes = shape
  passes = section.passes
  batches = passes * math.ceil(groups * samples / (rows * lanes))
  micro = Load(rows * trunks_of_row, sizes.trunk, lanes / trunks_of_row, width)
  rollout = Counter(config.model, in_rollout).rollout(
    load(per_part),
    at_rest,
    slots=min(section.sampling.slots or branches, branches),
    cache=cache_widths(SamplingConfig().cache_start, width - 1),
  )
  update = Counter(config.model, at_rest)
  pairs = per_part * branches / in_rollout.batch
  optim = section.optim
  return [
    *(Phase(f"rollout: {k}", parts, work) for k, work in rollout.items()),
    Phase(
      "reward",
      parts,
      counting.reward(pairs, data.target_chars, section.reward.function),
    ),
    Phase(
      "update: accumulate",
      batches,
      update.accumulate(
        micro,
        **_pieces(config, section, at_rest, rows * lanes, width - 1),
      ),
    ),
    Phase(
      "update: finish",
      passes,
      update.finish(
        jnp.dtype(optim.moment_dtype).itemsize + 4,
        _trained_bytes(config.model),
      ),
    ),
  ]


def _trained_bytes(model: ModelConfig) -> int:
  """Bytes of a trained element, with its float32 copy if it has one."""
  if model.lora.rank or model.param_dtype == "float32":
    return 4
  return jnp.dtype(model.param_dtype).itemsize + 4


def _pieces(
  config: Config,
  section: RlConfig,
  layout: Layout,
  branches: int,
  positions: int,
) -> dict[str, int | bool]:
  """Returns the pieces in which `logprobs.token_logps` makes logits."""
  vocab_parts = layout.parts("vocab")
  limit = section.loss.max_logits * layout.batch * vocab_parts
  vocab = config.model.vocab_size
  if not limit or branches * positions * vocab <= limit:
    return {"chunks": 1, "is_blocked": False}
  width = logprobs.block_width(vocab // vocab_parts) * vocab_parts
  chunk = max(1, limit // (branches * width))
  return {"chunks": math.ceil(positions / chunk), "is_blocked": True}


def _times(work: Work, chip: Chip, link: float) -> dict[str, float]:
  """Seconds at each of the chip's peak rates."""
  return {
    "compute": work.flops / chip.flops_per_s,
    "memory": work.memory_bytes / chip.memory_bytes_per_s,
    "links": work.link_bytes / link,
  }


def _table(phases, chip, link):
  yield (
    "per chip and step         times     TFLOP  GB memory   GB links |"
    " s compute   s memory    s links  binds"
  )
  for phase in phases:
    work = phase.work.times(phase.count)
    times = _times(work, chip, link)
    numbers = (
      work.flops / 1e12,
      work.memory_bytes / 1e9,
      work.link_bytes / 1e9,
    )
    yield (
      f"{phase.name:24} {phase.count:6d} "
      + " ".join(f"{x:9.1f} " for x in numbers)
      + "| "
      + " ".join(f"{x:9.2f} " for x in times.values())
      + f" {max(times, key=times.get)}"
    )


def step_seconds(phases: list[Phase], chip: Chip, link: float) -> float:
  """Seconds of an update step in which each phase is bound by one resource."""
  return sum(
    max(_times(x.work.times(x.count), chip, link).values()) for x in phases
  )


def summary(phases, section, chip, link, chips):
  bound = {}
  for phase in phases:
    times = _times(phase.work.times(phase.count), chip, link)
    resource = max(times, key=times.get)
    bound[phase.name, resource] = times[resource]
  total = step_seconds(phases, chip, link)
  (name, resource), most = max(bound.items(), key=lambda item: item[1])
  tokens = (
    section.groups_per_batch
    * section.sampling.samples
    * section.sampling.max_new_tokens
  )
  yield (
    f"step at peak rates: {total:.1f} s, {tokens / total:,.0f} sampled "
    f"tokens/s ({tokens / total / chips:,.0f} per chip); "
    f"{most / total:.0%} of it is {name}, bound by {resource}"
  )
  yield (
    "counted: completions of full length, every group kept, links of one torus "
    "axis at a time; not counted: the host"
  )
