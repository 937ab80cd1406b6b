# SPDX-License-Identifier: Apache-2.0
"""Measures time and memory of a call, and prints tables of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from benchmarks import memory


class Cost(NamedTuple):
  """The cost of one call.

  Attributes:
    wall_s: wall-clock time in seconds.
    cpu_s: CPU time of all cores together, in seconds.
    rss_bytes: largest rise of the resident memory during the call; 0 outside
      Linux.
  """

  wall_s: float
  cpu_s: float
  rss_bytes: int


def timed(call: Callable[[], Any]) -> Cost:
  """Runs a call and waits for the arrays that it returns."""
  before_bytes = memory.reset_peak_rss()
  wall_s, cpu_s = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
  return Cost(wall_s, cpu_s, memory.peak_rss() - before_bytes)


def compiled_bytes(program: jax.stages.Compiled) -> int:
  """Returns bytes of arguments, outputs and temporaries, donated ones once."""
  found = program.memory_analysis()
  return (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )


def describe_machine() -> str:
  """Date, machine and versions, in one line."""
  device = jax.devices()[0]
  return (
    f"{time.strftime('%Y-%m-%d')}, {device.device_kind}, {os.cpu_count()} "
    f"cores, load {os.getloadavg()[0]:.2f}, Python "
    f"{platform.python_version()}, JAX {jax.__version__}"
  )


def table(results: Mapping[str, Mapping[str, float]]) -> str:
  """Lays out {variant: {quantity: value}} with ratios to the first variant.

  A value of 0 means that it is not known.
  """
  first, *others = results
  rows = [["", *results, *(f"{name} / {first}" for name in others)]]
  for quantity, base in results[first].items():
    values = [of_variant[quantity] for of_variant in results.values()]
    ratios = [f"{x / base:.2f}" if x and base else "-" for x in values[1:]]
    rows.append([quantity, *map(_number, values), *ratios])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  )


def _number(value: float) -> str:
  if not value:
    return "-"
  return f"{value:,.0f}" if value >= 100 or value % 1 == 0 else f"{value:.3g}"
