# SPDX-License-Identifier: Apache-2.0
"""The memory that the programs of a stage take, known before they run.

A stage lowers the functions that it jits on abstract arrays, and the compiler
reports the memory that they need. Called later on real arrays of the same
shapes and shardings, they are not compiled again. The devices are those of this
machine (a run, before its first update step) or described ones
(launch.compile).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax.rollout.device_rows import Widest
from srl_jax.sharding import abstract
from srl_jax.update.batch import MicroBatch
from srl_jax.update.updater import Updater


class Memory(NamedTuple):
  """Bytes per device of a compiled program.

  Attributes:
    argument: bytes of the program's arguments.
    temporary: bytes of its temporaries and its code.
    output: bytes of its results, without those that reuse an argument's memory.
    beside: bytes of arrays that stay in memory while the program runs.
    compile_s: compilation time in seconds.
  """

  argument: int
  temporary: int
  output: int
  beside: int
  compile_s: float

  @property
  def total(self) -> int:
    """Bytes of all four together."""
    return self.argument + self.temporary + self.output + self.beside


class DoesNotFitError(ValueError):
  """The compiler found no way to run the program in the device's memory."""


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function and the abstract arrays that it is called with.

  Attributes:
    name: name of the program in the table.
    jitted: the jitted function.
    args: its arguments, abstract.
    mesh: the mesh it runs on.
    remedy: what the user can change if it does not fit.
    beside_bytes: bytes per device of arrays that stay in memory meanwhile.
  """

  name: str
  jitted: Any
  args: tuple
  mesh: jax.sharding.Mesh
  remedy: str
  beside_bytes: int = 0

  def memory(self) -> Memory:
    """Compiles the program and returns the memory that it takes.

    Raises:
      DoesNotFitError: the compiler refused it; the message has its bytes.
    """
    compiled, seconds = self._compiled()
    found = compiled.memory_analysis()
    return Memory(
      argument=found.argument_size_in_bytes,
      temporary=found.temp_size_in_bytes + found.generated_code_size_in_bytes,
      output=found.output_size_in_bytes - found.alias_size_in_bytes,
      beside=self.beside_bytes,
      compile_s=seconds,
    )

  def outputs(self) -> Any:
    """Compiles the program and returns its results as abstract arrays.

    Raises:
      DoesNotFitError: the compiler refused it.
    """
    compiled, _ = self._compiled()
    with jax.set_mesh(self.mesh):
      out = jax.eval_shape(self.jitted, *self.args)
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=s, weak_type=x.weak_type
      ),
      out,
      compiled.output_shardings,
    )

  def hlo(self) -> str:
    """Compiles the program and returns what the compiler made of it.

    Raises:
      DoesNotFitError: the compiler refused it.
    """
    return self._compiled()[0].as_text()

  def is_compiled(self) -> bool:
    """Whether the compiler found a way to run it."""
    return not isinstance(self._outcome[0], DoesNotFitError)

  def _compiled(self) -> tuple[jax.stages.Compiled, float]:
    compiled, seconds = self._outcome
    if isinstance(compiled, DoesNotFitError):
      raise compiled
    return compiled, seconds

  @functools.cached_property
  def _outcome(self) -> tuple[jax.stages.Compiled | DoesNotFitError, float]:
    """The compiled program or the compiler's refusal, and the time it took."""
    start_s = time.monotonic()
    # Only for lowering: eager arrays must not be placed on described devices.
    with jax.set_mesh(self.mesh):
      lowered = self.jitted.lower(*self.args)
    try:
      outcome = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      outcome = DoesNotFitError(_in_short(str(error)))
    return outcome, time.monotonic() - start_s


def _in_short(message: str) -> str:
  """The out-of-memory sentence of the compiler's message."""
  found = re.search(r"Ran out of memory[^\n]*?HBM \([^)]*\)\.", message)
  return found[0].rstrip(".") if found else message.splitlines()[0]


def device_bytes(device: jax.Device) -> int:
  """Memory of a device of this machine; CPU devices share its memory."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"]
  whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return whole // jax.local_device_count()


def bytes_per_device(tree: Any) -> int:
  """Bytes of a device's share of abstract arrays that have shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def header(limit_bytes: int) -> str:
  """The head of the table of programs; all numbers are per device."""
  return (
    f"memory (of {readable(limit_bytes):>10})"
    "    arguments  temporary     output     beside      total"
  )


def readable(count: int) -> str:
  """Returns a number of bytes as text, in MiB or GiB."""
  if count < 1000 * 2**20:
    return f"{count / 2**20:.1f} MiB"
  return f"{count / 2**30:.2f} GiB"


def try_program(program: Program, limit_bytes: int) -> tuple[str, bool]:
  """Compiles a program; returns its line of the table and whether it fits."""
  try:
    memory = program.memory()
  except DoesNotFitError as error:
    return f"{program.name:22}  does not fit: {error}; {program.remedy}", False
  columns = " ".join(f"{readable(x):>10}" for x in (*memory[:4], memory.total))
  line = f"{program.name:22}  {columns}"
  if memory.total > limit_bytes:
    return f"{line}  does not fit; {program.remedy}", False
  return f"{line}  fits ({memory.compile_s:.0f} s to compile)", True


def decoding_programs(
  widest: Widest,
  *,
  params: Any,
  key: Any,
  remedy: str,
  beside_bytes: int,
  name: str = "rollout",
) -> Generator[Program, None, int]:
  """Yields the programs of decoding in slots that take the most memory.

  Widths that grow take less beside the rows: a layer at a time is copied.

  Args:
    widest: the rows, and what they are given.
    params: the parameters, abstract.
    key: a random key, abstract.
    remedy: what takes less.
    beside_bytes: bytes per device of other arrays in memory.
    name: what is decoded, for the table.

  Returns:
    Bytes per device of the rows and of the parameters as decoding needs them.
  """
  device_rows = widest.device_rows
  sizes = device_rows.sizes

  def program(
    title: str, *args: Any, beside: Any = None, **static: Any
  ) -> Program:
    return Program(
      f"{name}: {title}",
      device_rows.bound(title, **static),
      args,
      device_rows.mesh,
      remedy,
      beside_bytes + bytes_per_device((params, beside)),
    )

  laid = program("lay out", params).outputs()
  rows = program("make", laid, **sizes).outputs()
  device_rows.expect(rows)
  tokens_MS = np.zeros((widest.room, sizes["trunk_width"]), np.int32)
  numbers_M = np.zeros(widest.room, np.int32)
  place_M = numbers_M if "places" in sizes else None
  trunks_M = tokens_MS, numbers_M, numbers_M, place_M
  yield program("admit", laid, rows.trunk, *trunks_M, beside=rows.cache)
  if widest.tails_DMT:
    tokens_DMT = np.zeros(widest.tails_DMT, np.int32)
    numbers_DM = tokens_DMT[..., 0]
    tails = tokens_DMT, numbers_DM, numbers_DM, numbers_DM, numbers_DM == 0
    yield program("extend", laid, rows.trunk, *tails, beside=rows.cache)
  yield program(
    "segment",
    laid,
    rows,
    widest.queue,
    key,
    np.int32(0),
    settings=widest.settings,
  )
  return bytes_per_device((laid, rows))


def update_programs(
  updater: Updater,
  batches: Iterable[MicroBatch],
  *,
  mesh: jax.sharding.Mesh,
  name: str,
  rows_multiple: int,
  narrower: str,
  has_reference: bool = False,
) -> Iterator[Program]:
  """Yields the accumulation of each shape of micro-batch, then the update.

  Args:
    updater: the updater that runs them.
    batches: abstract micro-batches, with shardings.
    mesh: the mesh they run on.
    name: name of the stage, for remedies.
    rows_multiple: the rows of a micro-batch are a multiple of this.
    narrower: the field of c.STAGE that makes rows narrower.
    has_reference: whether the loss has a KL reference.
  """
  state = updater.abstract_state()
  reference = state.trained if has_reference else None
  sums = updater.abstract_sums()
  for batch in batches:
    yield Program(
      "update: accumulate",
      updater.accumulate,
      (state.trained, state.frozen, sums, batch, reference),
      mesh,
      f"lower c.{name}.trunks_per_micro_batch (a multiple of {rows_multiple} "
      f"here), c.{name}.{narrower} or the logits held at a time "
      "(max_logits, c.model.attention_logits), or use more chips",
      bytes_per_device(state.opt_state),
    )
  yield Program(
    "update: finish",
    updater.finish,
    (state, sums, abstract.scalar(jnp.int32(0), mesh)),
    mesh,
    f"raise c.mesh.fsdp, or set c.{name}.optim.moment_dtype='bfloat16' or "
    "c.model.lora.rank",
    bytes_per_device(reference),
  )
