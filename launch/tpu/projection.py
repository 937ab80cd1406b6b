# SPDX-License-Identifier: Apache-2.0
"""Does a stage fit a TPU topology, and how long would an update step take?

The report compiles the programs (ahead_of_time.py), counts the phases of an
update step (phases.py), and compares both with the chip (chips.py). Each phase
takes as long as the one of its resources that takes longest at peak rates, and
one phase comes after the other. For the completions that are assumed, a run
cannot be faster; it is no prediction.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from jax.sharding import Mesh

from srl_jax import sharding
from srl_jax.config import Config
from srl_jax.train import memory
from srl_jax.train.data import StageData
from srl_jax.train.rl import RlStage

from . import ahead_of_time, evaluation, gathers
from .chips import Chip, parse_topology
from .counting import Counter
from .drawn import Lengths, lengths_of
from .phases import Phase, Step, step_of
from .work import Split, Work


def report(
  config: Config,
  stage: str,
  topology: str,
  *,
  slices: int,
  stem: int,
  target: int,
  kept: float = 1.0,
  mean: float = 0.0,
  with_evaluation: bool = False,
  write: Callable[[str], None],
) -> bool:
  """Compiles the programs of a stage and writes a report.

  Of SFT it says whether the programs fit, and counts nothing.

  Args:
    config: config of the run.
    stage: "sft", "srl" or "rlvr".
    topology: chip and shape of a slice, such as "v5e:8x8".
    slices: number of slices, which a slower network joins.
    stem: number of given tokens at the head of a branch.
    target: length of the longest expert step in characters.
    kept: share of the sampled groups whose rewards differ.
    mean: mean length of a completion in tokens; 0 for its limit.
    with_evaluation: whether the programs of the run's evaluation are compiled
      after those of the stage.
    write: function that gets each line as soon as it is known.

  Returns:
    True if every program fits.

  Raises:
    ValueError: the topology is unknown, there is no compiler, the mesh does
      not fit the topology, the config leaves widths to the data, or no step
      can find what is assumed.
  """
  chip, sides = parse_topology(topology)
  data = ahead_of_time.widths(config, stage, stem, target)
  if stage == "sft" and (kept != 1 or mean):
    raise ValueError(
      "--kept and --mean_tokens are of what a stage samples, and sft samples "
      "nothing; leave them out"
    )
  if stage != "sft":
    limit = getattr(config, stage).sampling.max_new_tokens
    lengths = lengths_of(stage, limit, kept, mean)
  mesh = sharding.make_mesh(
    config.mesh, ahead_of_time.devices(topology, slices)
  )
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
  plans = [built.plan()]
  if with_evaluation:
    state = built.updater.abstract_state()
    run = ahead_of_time.make_run(config, mesh)
    plans.append(
      evaluation.programs(config, run, state.params, state.opt_state)
    )
  for program in itertools.chain(*plans):
    names.append(program.name)
    line, is_fit = memory.try_program(program, chip.memory_bytes)
    write(line)
    if program.name == "update: accumulate" and program.is_compiled():
      write(_gathers(program))
    fits &= is_fit
  if stage == "sft":
    return fits
  write("")
  link = chip.link_bytes_per_s(sides)
  shapes = built.updates.setup.update_shapes
  section = ahead_of_time.with_reward(config, stage)
  step = step_of(
    config,
    section,
    mesh,
    data,
    shapes,
    lengths,
    on_chip=chip.on_chip_bytes,
  )
  step = step._replace(phases=[x for x in step.phases if _is_of(x, names)])
  write(_drawn(section, lengths, step))
  for line in _table(step.phases, chip, link):
    write(line)
  write("")
  for line in [*_beside_ideal(step, chip, link), ""]:
    write(line)
  for line in summary(step, chip, link, mesh.size):
    write(line)
  if slices > 1:
    write(_between_slices(config, step.phases, mesh, slices))
  return fits


def _gathers(program: memory.Program) -> str:
  beside, every = gathers.beside_other_work(program.hlo())
  return (
    f"{program.name}: other work runs beside {beside} of {every} all-gathers "
    "(one for all layers of a loop)"
  )


def _drawn(section, lengths: Lengths, step: Step) -> str:
  rounds, most = step.rounds, section.dynamic_sampling.max_rounds
  note = ""
  if rounds > most:
    note = f"; dynamic_sampling.max_rounds is {most}"
  return (
    f"{lengths.kept:.0%} of the groups kept, completions of "
    f"{lengths.mean:,.0f} tokens on average: {rounds} round(s){note}, "
    f"{step.batch.micro_batches} micro-batch(es)"
  )


def _between_slices(config, phases, mesh, slices: int) -> str:
  split = Split(dict(mesh.shape), config.rules)
  batches = next(
    x.count for x in phases if x.name.startswith("update: accumulate")
  )
  received = batches * Counter(config.model, split).between_slices(slices)
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
  if stage == "sft":
    yield (
      f"{c.trunks_per_micro_batch} trunks of {sizes.trunk} tokens per "
      f"micro-batch, {sizes.points} branch points, branches of {sizes.target} "
      "tokens"
    )
    return
  yield (
    f"{c.sampling.trunks_per_round} trunks of {sizes.trunk} tokens per round "
    f"in {c.sampling.parts_per_round} part(s), {c.trunks_per_micro_batch} per "
    "micro-batch, "
    f"{sizes.points} branch points x {c.sampling.samples} samples of "
    f"{sizes.stem} + {c.sampling.max_new_tokens} tokens"
  )
  if c.sampling.rows:
    slots = c.sampling.slots_of(sizes.points * c.sampling.samples)
    yield f"rounds share {c.sampling.rows} rows of {slots} slots"


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


def _times(work: Work, chip: Chip, link: float) -> dict[str, float]:
  """Seconds at each of the chip's peak rates."""
  return {
    "compute": work.flops / chip.flops_per_s,
    "memory": work.memory_bytes / chip.memory_bytes_per_s,
    "links": work.link_bytes / link,
  }


def _seconds(work: Work, chip: Chip, link: float) -> float:
  """Seconds of work that is bound by one resource."""
  return max(_times(work, chip, link).values())


def _beside_links(work: Work, chip: Chip, link: float) -> float:
  """Seconds of links that count as hidden, or of what is hidden by them."""
  *others, links = _times(work, chip, link).values()
  return min(links, max(others))


def _table(phases, chip, link):
  yield (
    "per chip and step                 times     TFLOP  GB memory   GB links |"
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
      f"{phase.name:32} {phase.count:6d} "
      + " ".join(f"{x:9.1f} " for x in numbers)
      + "| "
      + " ".join(f"{x:9.2f} " for x in times.values())
      + f" {max(times, key=times.get)}"
    )


def step_seconds(phases: list[Phase], chip: Chip, link: float) -> float:
  """Seconds of an update step in which each phase is bound by one resource."""
  return sum(_seconds(x.work.times(x.count), chip, link) for x in phases)


def _beside_ideal(step: Step, chip: Chip, link: float):
  yield f"{'':32} projected      ideal  projected / ideal"
  rest, total = list(step.phases), 0.0
  for name, work in step.ideal.items():
    of_name = [x for x in rest if x.name.startswith(name)]
    rest = [x for x in rest if not x.name.startswith(name)]
    total += (ideal := _seconds(work, chip, link))
    yield _ratio(name, step_seconds(of_name, chip, link), ideal)
  other = step_seconds(rest, chip, link)
  yield f"{'all else':32} {other:7.2f} s"
  yield _ratio("step", step_seconds(step.phases, chip, link), total)


def _ratio(name: str, projected: float, ideal: float) -> str:
  ratio = projected / ideal
  return f"{name:32} {projected:7.2f} s  {ideal:7.2f} s  {ratio:17.2f}"


def summary(step: Step, chip: Chip, link: float, chips: int):
  bound = {}
  for phase in step.phases:
    times = _times(phase.work.times(phase.count), chip, link)
    resource = max(times, key=times.get)
    bound[phase.name, resource] = times[resource]
  total = step_seconds(step.phases, chip, link)
  (name, resource), most = max(bound.items(), key=lambda item: item[1])
  links = sum(
    _beside_links(x.work.times(x.count), chip, link)
    for x in step.phases
    if x.name.startswith("rollout: decode")
  )
  rate = step.tokens / total
  yield (
    f"step at peak rates: {total:.1f} s, {rate:,.0f} sampled tokens/s "
    f"({rate / chips:,.0f} per chip); {most / total:.0%} of it is {name}, "
    f"bound by {resource}"
  )
  yield (
    f"in decoding a product waits for the sums of the one before: {links:.1f} "
    "s more where nothing else is done meanwhile"
  )
  yield (
    "counted: phases one after the other, links of one torus axis at a time; "
    "not counted: the host"
  )
