# SPDX-License-Identifier: Apache-2.0
"""Seeds at once against runs one by one: CPU and wall seconds per seed.

  python -m benchmarks.seeds
  python -m benchmarks.seeds --members 1 8 --devices 1 2 --steps=10

Each cell of the table is a process of its own, as a run is: it loads the
data, compiles the program of srl_jax.seeds for so many members, and trains
them. The first column is what one run costs; a ratio to it below 1 is what
doing several at once saves. With several devices, CPU devices of one process,
the members are split over them. Curves of the first seed have to agree.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from benchmarks import measuring

# The first value of a cell is not of a seed: by the number of seeds divided.
QUANTITIES = ("start and data", "compilation", "training")


def measure_members(
  source: str, count: int, steps: int, workdir: pathlib.Path
) -> dict[str, list[float]]:
  """Trains `count` seeds in this process.

  Returns:
    {quantity: [CPU seconds, wall seconds]}, and "reward": its curve, of the
    first seed.
  """
  marks = [(time.process_time(), time.perf_counter())]
  # Imported here: a process that only starts others needs none of it.
  import jax

  from srl_jax import main as main_lib
  from srl_jax import seeds

  config = main_lib.load_config(source, [f"--config.srl.steps={steps}"])
  members = seeds.make_members(config.srl, range(count), {})

  def mark():
    marks.append((time.process_time(), time.perf_counter()))

  program, arguments = seeds.make_program(config, workdir, members)
  mark()
  compiled = program.lower(*arguments).compile()
  mark()
  curves = jax.device_get(compiled(*arguments))
  mark()
  # With what Python took to start, and to import.
  first_cpu_s, first_wall_s = marks[0]
  marks[0] = (0.0, first_wall_s - first_cpu_s)
  spent = np.diff(marks, axis=0).tolist()
  found = dict(zip(QUANTITIES, spent, strict=True))
  return found | {"reward": curves["reward"][0].tolist()}


def in_process(
  source: str, count: int, steps: int, devices: int
) -> dict[str, list[float]]:
  """`measure_members` in a process with so many CPU devices.

  Raises:
    RuntimeError: it failed; its output is above.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  flags += f" --xla_force_host_platform_device_count={devices}"
  command = [sys.executable, "-m", "benchmarks.seeds", f"--config={source}"]
  command += [f"--members={count}", f"--steps={steps}", "--here"]
  done = subprocess.run(
    command,
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    raise RuntimeError(f"{count} members on {devices} devices: see above")
  return json.loads(done.stdout.splitlines()[-1])


def per_seed(
  cells: dict[int, dict[str, list[float]]], steps: int
) -> dict[str, dict[str, float]]:
  """The table of one number of devices, from {members: cell}.

  Raises:
    AssertionError: the first seed learnt something else in company.
  """
  results: dict[str, dict[str, float]] = {}
  alone = next(iter(cells.values()))["reward"]
  for count, cell in cells.items():
    np.testing.assert_allclose(cell["reward"], alone, rtol=1e-4, atol=1e-5)
    values: dict[str, float] = {}
    for i, unit in enumerate(("CPU s", "wall s")):
      spent = [cell[name][i] / count for name in QUANTITIES]
      names = (f"{name}, {unit} per seed" for name in QUANTITIES)
      values |= dict(zip(names, spent, strict=True))
      values[f"all, {unit} per seed"] = sum(spent)
      values[f"a step, {unit} per seed"] = spent[-1] / steps
    results[f"{count} seeds" if count > 1 else "1 seed"] = values
  return results


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="Seeds at once against runs one by one.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--config", default="experiments/math.py", help=" ")
  parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4, 8])
  parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
  parser.add_argument("--steps", type=int, default=5, help="of each seed")
  parser.add_argument(
    "--here",
    action="store_true",
    help="measure the first of --members in this process, print JSON",
  )
  args = parser.parse_args(argv)
  if args.here:
    with tempfile.TemporaryDirectory() as folder:
      found = measure_members(
        args.config, args.members[0], args.steps, pathlib.Path(folder)
      )
    print(json.dumps(found))
    return
  print(f"{args.config}, {args.steps} steps\n{measuring.describe_machine()}")
  for devices in args.devices:
    cells = {
      count: in_process(args.config, count, args.steps, devices)
      for count in args.members
      if count == 1 or count >= devices
    }
    print(f"\n{devices} device(s)")
    print(measuring.table(per_seed(cells, args.steps)), flush=True)


if __name__ == "__main__":
  main()
