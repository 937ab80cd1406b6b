# SPDX-License-Identifier: Apache-2.0
"""One NVIDIA GPU: are its results right, and how near its limits is it?

  python -m benchmarks.gpu --out=/tmp/gpu
  python -m benchmarks.gpu --models=0.5b,1.5b --remat=full --repeats=3
  python -m benchmarks.gpu --on=cpu --models=tiny

It installs nothing and needs no network; weights are random. The parts are:

  check    samples, update and reward in float32 against the CPU of the same
           process and against difflib
  peaks    what the card reaches: a copy in its memory, a bfloat16 product
  MODEL    for each size: a rollout (prefill, and bytes read per iteration of
  the
           decoding loop against the copy), then the gradient of a micro-batch
           and an update step (operations against the product)

Bytes and operations are counted by hand; see floor.py. A failed part reports
its error, and the others go on. The exit status is 0 if no part failed, 1 if
one did, and 2 without a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jaxlib
import optax

from benchmarks import gpu_checks, gpu_parts, measuring, models
from benchmarks.gpu_parts import OPTIMIZERS, Peaks
from benchmarks.one_device import Engine
from benchmarks.workload import Workload
from srl_jax.models import zoo
from srl_jax.types import Branches
from srl_jax.update.grpo import LossConfig

_SHAPES = {
  "0.5b": zoo.MODELS["qwen2_5_0_5b"],
  "1.5b": zoo.MODELS["qwen2_5_1_5b"],
  "7b": zoo.MODELS["qwen2_5_7b"],
  "tiny": models.MODELS["tiny"],
}
MODELS = {
  name: dataclasses.replace(shape, dtype="bfloat16", param_dtype="bfloat16")
  for name, shape in _SHAPES.items()
}


class Sizes(NamedTuple):
  """Sizes of the measurements on a platform.

  Attributes:
    work: workload of the models; flags may change it.
    check: workload of the comparison with the CPU.
    pairs: number of pairs of texts of each length.
    chars: lengths of the texts in characters.
    copy_bytes: bytes of the array that is copied.
    product: rows and columns of the multiplied matrices.
  """

  work: Workload
  check: Workload
  pairs: int
  chars: tuple[int, ...]
  copy_bytes: int
  product: int


SIZES = {
  "gpu": Sizes(
    work=Workload(8, 6, 8, 512, 128, 2, 128),
    check=Workload(2, 4, 4, 64, 32, 2, 32),
    pairs=128,
    chars=(100, 400),
    # Many times the cache; a copy takes long compared to a kernel's start.
    copy_bytes=1 << 30,
    product=8192,
  ),
  "cpu": Sizes(
    work=Workload(2, 2, 2, 16, 8, 2, 6),
    check=Workload(2, 2, 2, 16, 8, 2, 6),
    pairs=4,
    chars=(40,),
    copy_bytes=1 << 22,
    product=128,
  ),
}


class Report:
  """Prints the findings of the parts, and saves them after each part."""

  def __init__(self, machine: Mapping[str, str], out: pathlib.Path | None):
    self._out, self.has_failed = out, False
    self._content: dict[str, Any] = {"machine": dict(machine), "parts": {}}
    for name, value in machine.items():
      print(f"{name}: {value}", flush=True)
    self._write()

  def part(
    self, title: str, call: Callable[[], Mapping[str, float]]
  ) -> Mapping[str, float]:
    """Returns the findings of a part; reports an error and returns none."""
    start_s, error, values = time.perf_counter(), "", {}
    try:
      values = call()
    except Exception as caught:
      error = _describe(caught)
    took = f"{time.perf_counter() - start_s:.0f} s"
    self.has_failed |= bool(error)
    found = {"error": error} if error else dict(values)
    self._content["parts"][title] = found
    print(f"\n[{title}] {took}" + (f" FAILED: {error}" if error else ""))
    width = max(map(len, values), default=0)
    for name, value in values.items():
      print(f"  {name.ljust(width)}  {_number(value):>10}")
    sys.stdout.flush()
    self._write()
    # A failed part leaves arrays in stack frames and programs in caches.
    gc.collect()
    return values

  def _write(self):
    if self._out:
      self._out.mkdir(parents=True, exist_ok=True)
      text = json.dumps(self._content, indent=2) + "\n"
      (self._out / "gpu.json").write_text(text)


def _number(value: float) -> str:
  return f"{value:,.0f}" if value >= 100 or value % 1 == 0 else f"{value:.3g}"


def _describe(error: Exception) -> str:
  first = (str(error).splitlines() or [""])[0][:400]
  if "RESOURCE_EXHAUSTED" in first or "Out of memory" in first:
    return f"out of memory: {first}"
  return f"{type(error).__name__}: {first}"


def run_model(
  report: Report, name: str, device: jax.Device, args: Any, peaks: Peaks
) -> None:
  """Runs all parts of one model, and frees its arrays."""
  model, work = MODELS[name], args.work
  made: list[Engine] = []
  sampled: list[Branches] = []

  def make():
    # A part may have consumed the arrays.
    made[:] = []
    start_s = time.perf_counter()
    made.append(Engine(model, device))
    jax.block_until_ready(made[0].params)
    return {"weights, s": time.perf_counter() - start_s}

  def with_remat(remat):
    engine = made[0]
    changed = dataclasses.replace(model, remat=remat)
    engine.policy = dataclasses.replace(engine.policy, config=changed)
    return engine

  if not report.part(f"{name}: random weights", make):
    return
  report.part(
    f"{name}: rollout",
    lambda: gpu_parts.measure_rollout(
      made[0], work, peaks, args.repeats, sampled
    ),
  )
  loss = LossConfig(max_logits=args.max_logits)
  for remat in args.remat:
    report.part(
      f"{name}: gradient, remat {remat}",
      lambda remat=remat: gpu_parts.measure_update(
        with_remat(remat),
        work,
        loss,
        args.trunks_per_micro_batch,
        peaks,
        args.repeats,
        sampled,
      ),
    )
  limit = (device.memory_stats() or {}).get("bytes_limit", float("inf"))
  fitting = gpu_parts.fitting_optimizers(model, limit)
  if not fitting:
    print(f"\n[{name}: optimizer] none fits beside the gradient sums")
  for index in fitting:
    title, optimizer, _ = OPTIMIZERS[index]
    if report.part(
      f"{name}: {title}",
      lambda o=optimizer: gpu_parts.measure_optimizer(made[0], o, args.repeats),
    ):
      break
    report.part(f"{name}: random weights again", make)
  jax.clear_caches()


def describe_card(device: jax.Device) -> dict[str, str]:
  """Returns machine, driver and versions: the first lines of the report."""
  fields = "name,driver_version,memory.total,power.limit,clocks.max.sm"
  command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
  try:
    card = subprocess.run(
      command, capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError) as error:
    card = f"nvidia-smi: {type(error).__name__}"
  limit = (device.memory_stats() or {}).get("bytes_limit", 0)
  return {
    "machine": measuring.describe_machine(),
    "device": f"{device.device_kind}, {limit / 2**30:.1f} GiB for JAX",
    f"card ({fields})": " | ".join(card.splitlines()),
    "platform": " ".join(device.client.platform_version.split()),
    "versions": f"jaxlib {jaxlib.__version__}, optax {optax.__version__}",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
  }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """Parses the command line; `work` gets the platform's workload."""
  parser = argparse.ArgumentParser(
    description="Checks and measures one NVIDIA GPU.",
    epilog="Lengths are in tokens; without them: "
    f"{SIZES['gpu'].work}, on CPU {SIZES['cpu'].work}.",
  )
  listed = lambda text: tuple(text.split(","))  # noqa: E731
  parser.add_argument("--on", choices=SIZES, default="gpu")
  parser.add_argument(
    "--models", type=listed, default=("0.5b", "1.5b", "7b"), help=str([*MODELS])
  )
  parser.add_argument(
    "--remat",
    type=listed,
    default=("full", "dots"),
    help="what is recomputed: full, dots, none",
  )
  parser.add_argument("--repeats", type=int, default=5, help="turns timed")
  parser.add_argument("--trunks_per_micro_batch", type=int, default=1)
  parser.add_argument("--max_logits", type=int, default=LossConfig().max_logits)
  parser.add_argument("--out", type=pathlib.Path, help="gpu.json goes here")
  names = [field.name for field in dataclasses.fields(Workload)]
  for name in names:
    parser.add_argument(f"--{name}", type=int)
  args = parser.parse_args(argv)
  for name, given, allowed in (
    ("models", args.models, [*MODELS]),
    ("remat", args.remat, ["full", "dots", "none"]),
  ):
    if wrong := set(given) - set(allowed):
      parser.error(f"--{name}: {sorted(wrong)}; give some of {allowed}")
  given = {n: v for n in names if (v := getattr(args, n)) is not None}
  args.work = dataclasses.replace(SIZES[args.on].work, **given)
  if not 1 <= args.trunks_per_micro_batch <= args.work.trajectories:
    parser.error(
      f"--trunks_per_micro_batch={args.trunks_per_micro_batch}; there are "
      f"{args.work.trajectories} trajectories, give 1 to as many"
    )
  return args


def find_devices(platform: str) -> tuple[jax.Device, jax.Device]:
  """Returns (device to measure, CPU to compare with).

  With platform "cpu", the device to measure is the last CPU device; XLA_FLAGS
  may make several.

  Raises:
    RuntimeError: there is no such device.
  """
  cpus = jax.devices("cpu")
  return (jax.devices("cuda")[0] if platform == "gpu" else cpus[-1]), cpus[0]


def main(argv: Sequence[str] | None = None) -> int:
  args = parse(argv)
  # This takes nearly all of the card; JAX's default is three quarters.
  os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
  try:
    device, reference = find_devices(args.on)
  except RuntimeError as error:
    print(
      f"error: JAX finds no NVIDIA GPU ({str(error).splitlines()[0]}). On a "
      "machine with one and its driver, pip install -e '.[gpu]', and unset "
      "JAX_PLATFORMS. To try the script without: --on=cpu --models=tiny",
      file=sys.stderr,
    )
    return 2
  sizes = SIZES[args.on]
  report = Report(
    describe_card(device)
    | {"work": str(args.work)}
    | {"micro-batch": f"{args.trunks_per_micro_batch} trunk(s)"},
    args.out,
  )
  report.part(
    "check: model against CPU",
    lambda: gpu_checks.check_model(
      _SHAPES["tiny"], sizes.check, device, reference
    ),
  )
  report.part(
    "check: reward against difflib",
    lambda: gpu_checks.check_reward(device, sizes.pairs, sizes.chars),
  )
  found = report.part(
    "peaks",
    lambda: gpu_parts.measure_peaks(
      device, sizes.copy_bytes, sizes.product, args.repeats
    ),
  )
  peaks = Peaks()
  if found:
    peaks = Peaks(
      found["memory, GB/s"] * 1e9, found["bfloat16 product, TFLOP/s"] * 1e12
    )
  for name in args.models:
    run_model(report, name, device, args, peaks)
  return int(report.has_failed)


if __name__ == "__main__":
  sys.exit(main())
