# SPDX-License-Identifier: Apache-2.0
"""Which presets fit my chips, how long do they take, and what does that cost?

  srl_jax fit --type=v5litepod-8
  srl_jax fit --type=v5litepod-8 --kept=0.4 --mean_tokens=420
  srl_jax fit --type=v5p-128 --price=1.68
  srl_jax fit --type=v5e-64 --config=experiments/software.py:srl

An experiment with PLACEMENTS, as experiments/math.py, is spread over the chips,
preset by preset. Any other is counted as it is.

All numbers are counted: memory per device, and time at the chips' peak rates
for as many groups kept, and completions as long, as the flags say. They are no
bounds: a run that keeps fewer groups samples longer, and one of short
completions may take less. What "may fit" needs so much memory that padding and
copies could be too much; `srl_jax compile` asks the TPU compiler, which takes
minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from srl_jax import config as config_lib
from srl_jax.arguments import HelpFormatter

from .pods import machines
from .tpu import ahead_of_time, drawn, fitting
from .tpu.chips import CHIPS, Chip

_GIB = 2**30
# For the presets that were compiled (benchmarks/RESULTS.md), the compiler took
# up to 1.51 times what is counted here: copies and temporaries.
_COMPILED = 1.55
_PRICED = f"list price on demand in us-central1, read on {machines.READ}"
# One GPU: peak rate of bfloat16 (of float16 on a T4, which has no bfloat16),
# three quarters of the memory, which is what JAX takes by default, and its
# bandwidth. From NVIDIA's data sheets.
_GPUS = {
  "h100": Chip("h100", 989e12, 80 * 10**9 * 3 // 4, 3350e9, 1.0, 1),
  "t4": Chip("t4", 65e12, 15 * _GIB * 3 // 4, 320e9, 1.0, 1),
}


@dataclasses.dataclass(frozen=True)
class Machine:
  """What a run would be on.

  Attributes:
    text: the machine in words.
    chip: one device of it.
    devices: what a mesh is made of.
    link_bytes_per_s: what a device receives in a collective.
    chips: number of chips, for the price.
    lanes: as of `fitting.need`.
    usd: list price of a chip and hour, or None.
    topology: for launch.compile; "" for none.
  """

  text: str
  chip: Chip
  devices: list[Any]
  link_bytes_per_s: float
  chips: int
  lanes: int
  usd: float | None
  topology: str


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; the status is 0 if any preset fits, else 1."""
  parser = argparse.ArgumentParser(
    prog="srl_jax fit",
    description="Which presets fit my chips, how long, at what price?",
    formatter_class=HelpFormatter,
  )
  parser.add_argument(
    "--type",
    required=True,
    help="a TPU type such as v5litepod-8 or v5p-128, or h100 or t4",
  )
  parser.add_argument(
    "--config",
    default="experiments/math.py",
    help="as of srl_jax.main: file.py[:preset]",
  )
  parser.add_argument(
    "--price", type=float, help="USD per chip and hour (default: list price)"
  )
  drawn.add_flags(parser)
  options = parser.parse_args(arguments)
  jax.config.update("jax_platforms", "cpu")
  try:
    machine = find(options.type)
    count = functools.partial(_need, machine=machine, options=options)
    placements = _placements(options.config)
    for name in placements:
      _lengths(config_lib.load(f"{options.config}:{name}"), options)
    if not placements:
      config = config_lib.load(options.config)
      need = count(options.config)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  price = machine.usd if options.price is None else options.price
  priced = "yours" if options.price is not None else _PRICED
  print(machine.text)
  print(f"counted at peak rates, {_assumed(options)}; a real run differs")
  print(
    f"{price:.2f} USD per chip and hour ({priced})"
    if price is not None
    else "no list price is known; give one with --price=USD"
  )
  if placements:
    path = options.config
    fits = [
      _say(name, _choose(path, name, placement, machine, count), machine, price)
      for name, placement in placements.items()
    ]
  else:
    fits = [_say(config.name, (need, options.config), machine, price)]
  return 0 if any(fits) else 1


def find(name: str) -> Machine:
  """Returns the machine of a type of TPUs, or of one GPU.

  Raises:
    ValueError: there is none of that name, or no compiler to describe it.
  """
  if name.lower() in _GPUS:
    chip = _GPUS[name.lower()]
    # Nothing is allocated on it, so any device will do.
    text = (
      f"one {name.upper()}: {chip.memory_bytes / _GIB:.1f} GiB that JAX takes "
      "by default (XLA_PYTHON_CLIENT_MEM_FRACTION takes more)"
    )
    return Machine(text, chip, jax.devices("cpu")[:1], math.inf, 1, 1, None, "")
  try:
    found = machines.find(name)
  except ValueError as error:
    raise ValueError(f"{error}; or one of {', '.join(_GPUS)}") from error
  chip = CHIPS[found.generation.name]
  sides = tuple(map(int, found.topology.split("x")))
  text = (
    f"{found.type}: {found.chips} chips, {found.topology}; {found.devices} "
    f"devices of {chip.memory_bytes / _GIB:.2f} GiB"
  )
  return Machine(
    text,
    chip,
    ahead_of_time.devices(_described(found))[: found.devices],
    chip.link_bytes_per_s(sides),
    found.chips,
    128,
    found.generation.usd_per_chip_hour,
    found.compiler_topology,
  )


def _described(slice_: machines.Slice) -> str:
  # The compiler describes no single chip.
  shape = "2x2" if slice_.topology == "1x1" else slice_.topology
  return f"{slice_.generation.name}:{shape}"


def _placements(source: str) -> dict[str, Any]:
  """Returns what a file says of spreading its presets, which may be nothing."""
  path = config_lib.find_experiment(source)  # None where a preset is named.
  return runpy.run_path(path).get("PLACEMENTS", {}) if path else {}


def spreads(
  placement: Any, devices: int, trunks_per_round: int
) -> Iterator[str]:
  """Yields overrides that spread a placement over a number of devices.

  First, a device gets as many trunks of a micro-batch and of a round as it has
  in the placement. Then fewer and fewer, down to one of each.
  """
  tensor = math.gcd(placement.tensor, devices)
  trunks = placement.trunks_per_chip
  parts = max(1, placement.parts * placement.chips // devices)
  while True:
    changes = {
      "mesh.tensor": (tensor, placement.tensor),
      "srl.trunks_per_micro_batch": (
        trunks * devices,
        placement.trunks_per_chip * placement.chips,
      ),
      "srl.sampling.parts_per_round": (parts, placement.parts),
    }
    yield "".join(
      f",{key}={value}" for key, (value, was) in changes.items() if value != was
    )
    if trunks == 1 and parts * devices >= trunks_per_round:
      return
    trunks, parts = max(1, trunks // 2), parts * 2


def _stage(config: config_lib.Config) -> str:
  """Returns the first stage of RL, which is the one that is counted."""
  for stage in config.stages:
    if stage != "sft":
      return stage
  raise ValueError(
    f"{config.name} has no stage of RL (c.stages={config.stages}), and only "
    "such are counted; srl_jax compile takes all"
  )


def _lengths(config: config_lib.Config, options) -> drawn.Lengths:
  """Returns what the flags assume of a config; see `drawn.lengths_of`."""
  stage = _stage(config)
  limit = getattr(config, stage).sampling.max_new_tokens
  return drawn.lengths_of(stage, limit, options.kept, options.mean_tokens)


def _assumed(options) -> str:
  mean = "of full length"
  if options.mean_tokens:
    mean = f"of {options.mean_tokens:,} tokens on average"
  return f"{options.kept:.0%} of the groups kept, completions {mean}"


def _need(source: str, machine: Machine, options) -> fitting.Need:
  config = config_lib.load(source)
  return fitting.need(
    config,
    _stage(config),
    machine.devices,
    machine.chip,
    machine.link_bytes_per_s,
    _lengths(config, options),
    lanes=machine.lanes,
  )


def _choose(
  path: str,
  name: str,
  placement: Any,
  machine: Machine,
  count: Callable[[str], fitting.Need],
) -> tuple[fitting.Need, str] | None:
  """Returns what a preset needs in its best spread, and what to type.

  None if it cannot be spread over the devices.
  """
  has = machine.chip.memory_bytes
  need = source = None
  sampling = config_lib.load(f"{path}:{name}").srl.sampling
  for spread in spreads(
    placement, len(machine.devices), sampling.trunks_per_round
  ):
    tried = f"{path}:{name}{spread}"
    try:
      found = count(tried)
    except ValueError:
      break  # A round cannot be cut into as many parts.
    is_first = need is None or need.memory_bytes > has >= found.memory_bytes
    if is_first or found.memory_bytes * _COMPILED <= has:
      # The largest pieces that fit, or else that may.
      need, source = found, tried
    if need.memory_bytes * _COMPILED <= has or need.state_bytes > has:
      break
  if need is None:
    return None
  # Where there is room, products are not computed again.
  tried = f"{source},model.remat=dots"
  if need.memory_bytes * _COMPILED <= has:
    found = count(tried)
    if found.memory_bytes * _COMPILED <= has and found.step_s < need.step_s:
      need, source = found, tried
  return need, source


def _say(
  name: str,
  chosen: tuple[fitting.Need, str] | None,
  machine: Machine,
  price: float | None,
) -> bool:
  """Says whether an experiment fits, and how; returns whether it does."""
  has = machine.chip.memory_bytes
  if chosen is None:
    print(f"{name:16} cannot be spread over {len(machine.devices)} devices")
    return False
  need, source = chosen
  of = f"{need.memory_bytes / _GIB:6.2f} of {has / _GIB:.2f} GiB"
  if need.memory_bytes > has:
    print(f"{name:16} {of}: does not fit", flush=True)
    return False
  config = config_lib.load(source)
  steps = getattr(config, _stage(config)).update_steps
  hours = need.step_s * steps / 3600
  cost = ""
  if price is not None:
    cost = f", {hours * machine.chips * price:,.0f} USD"
  verdict = "fits"
  if need.memory_bytes * _COMPILED > has:
    verdict = "may fit"
  print(
    f"{name:16} {of}: {verdict}; {need.step_s:.1f} s a step, {steps} steps in "
    f"{hours:.1f} h{cost}\n  --config={source}",
    flush=True,
  )
  return True


if __name__ == "__main__":
  sys.exit(main())
