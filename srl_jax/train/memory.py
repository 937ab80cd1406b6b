# SPDX-License-Identifier: Apache-2.0
"""The programs of a stage before they run, and what memory they will take.

The very functions that a stage jits are lowered on abstract arrays and given
to the compiler, which says what they need; called later on real arrays of the
same shapes and shardings they are not compiled again. The devices may be the
ones at hand (a run, before its first step) or described ones (launch.compile).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from srl_jax import sharding
from srl_jax.device_rewards import reward as device_reward
from srl_jax.models import lora
from srl_jax.rollout.rounds import QUEUED_PARTS, DeviceScorer
from srl_jax.rollout.sampler import Sampler
from srl_jax.sharding import ShardingRules
from srl_jax.types import Trunks
from srl_jax.update.batch import MicroBatch
from srl_jax.update.updater import Updater

# What to change when a program does not fit.
REMEDIES = {
  "rollout": "lower c.{stage}.trunks_per_round or raise "
  "c.{stage}.parts_per_round or c.mesh.tensor",
  "reward": "lower c.{stage}.device_reward.max_text_bytes or chunk_cells, or "
  "set c.{stage}.reward_on='host'",
  "update: accumulate": "lower c.{stage}.trunks_per_micro_batch (a multiple "
  "of {batch} here), c.{stage}.trunks.points_per_trunk or "
  "c.{stage}.loss.max_logits, or use more chips",
  "update: finish": "raise c.mesh.fsdp, or set "
  "c.{stage}.optim.moment_dtype='bfloat16' or c.model.lora.rank",
  "step": "lower c.{stage}.trunks_per_round or trunks_per_micro_batch, or set "
  "c.{stage}.fuse=False",
}


class Widths(NamedTuple):
  """Static widths of a stage's arrays; letters as in types.py.

  Attributes:
    trunk: S.
    points: K.
    stem: given tokens at the head of a branch.
    target: characters of the longest expert step.
  """

  trunk: int
  points: int
  stem: int
  target: int


class Memory(NamedTuple):
  """Bytes per device of a compiled program.

  Attributes:
    argument: of its arguments.
    temporary: of what it needs in between, its code included.
    output: of its results, apart from those that take an argument's place.
    beside: of what lives on beside it.
    compile_s: seconds that compiling took.
  """

  argument: int
  temporary: int
  output: int
  beside: int
  compile_s: float

  @property
  def total(self) -> int:
    """Of all together."""
    return self.argument + self.temporary + self.output + self.beside


class DoesNotFitError(ValueError):
  """The compiler found no way to run the program in the device's memory."""


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function and the abstract arrays that it is called with.

  Attributes:
    name: of the program.
    jitted: the function.
    args: its arguments.
    beside_bytes: per device, of what lives on beside it meanwhile.
    mesh: where it runs.
  """

  name: str
  jitted: Any
  args: tuple
  beside_bytes: int
  mesh: jax.sharding.Mesh

  def memory(self) -> Memory:
    """What memory it takes; compiles it.

    Raises:
      DoesNotFitError: the compiler says so; the message has its bytes.
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
    """What it returns: abstract arrays, with the shardings they will have.

    Raises:
      DoesNotFitError: as `memory`.
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

  def remedy(self, stage: str, batch_devices: int) -> str:
    """What to change if it does not fit."""
    [text] = [x for name, x in REMEDIES.items() if self.name.startswith(name)]
    return text.format(stage=stage, batch=batch_devices)

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
    """The compiled program or what the compiler said, and its time."""
    start_s = time.monotonic()
    # Set for nothing else: what is computed at once would be on these devices.
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
  """The sentence of the compiler's message that says how much is too much."""
  found = re.search(r"Ran out of memory[^\n]*?HBM \([^)]*\)\.", message)
  return found[0].rstrip(".") if found else message.splitlines()[0]


def device_bytes(device: jax.Device) -> int:
  """Memory of a device that is here; of a CPU, its part of the machine's."""
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
  """The head of a table of programs; all of it is per device."""
  return (
    f"memory (of {readable(limit_bytes):>10})"
    "    arguments  temporary     output     beside      total"
  )


def readable(count: int) -> str:
  """Bytes as MiB or GiB."""
  if count < 1000 * 2**20:
    return f"{count / 2**20:.1f} MiB"
  return f"{count / 2**30:.2f} GiB"


def try_program(
  program: Program, limit_bytes: int, remedy: str
) -> tuple[str, bool]:
  """Compiles a program; its line of the table, and whether it fits."""
  try:
    memory = program.memory()
  except DoesNotFitError as error:
    return f"{program.name:22}  does not fit: {error}; {remedy}", False
  columns = " ".join(f"{readable(x):>10}" for x in (*memory[:4], memory.total))
  line = f"{program.name:22}  {columns}"
  if memory.total > limit_bytes:
    return f"{line}  does not fit; {remedy}", False
  return f"{line}  fits ({memory.compile_s:.0f} s to compile)", True


class Placer:
  """Gives abstract arrays their shardings on a mesh."""

  def __init__(self, mesh: jax.sharding.Mesh):
    self._mesh = mesh

  def as_sharded(self, tree: Any, shardings: Any) -> Any:
    """As an array of each of the shardings."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree,
      shardings,
    )

  def whole(self, tree: Any) -> Any:
    """On every device."""
    everywhere = sharding.replicated(self._mesh)
    return self.as_sharded(tree, jax.tree.map(lambda _: everywhere, tree))

  def rows(self, tree: Any, rules: ShardingRules) -> Any:
    """Split as a batch, as `sharding.put_batch` does."""
    spec = NamedSharding(self._mesh, rules.spec(("batch",)))
    return self.as_sharded(tree, jax.tree.map(lambda _: spec, tree))


def _array(dtype, *shape):
  return jax.ShapeDtypeStruct(shape, dtype)


def abstract_trunks(rows: int, sizes: Widths, stem: int = 0) -> Trunks:
  """As `batching.collate` makes them, of all processes together."""
  n, k = rows, sizes.points
  return Trunks(
    tokens_NS=_array(jnp.int32, n, sizes.trunk),
    length_N=_array(jnp.int32, n),
    branch_at_NK=_array(jnp.int32, n, k),
    stem_NKC=_array(jnp.int32, n, k, stem or sizes.stem),
    stem_length_NK=_array(jnp.int32, n, k),
    point_id_NK=_array(jnp.uint32, n, k),
    is_real_NK=_array(jnp.bool_, n, k),
  )


def _micro_batch(rows, sizes, samples, branches) -> MicroBatch:
  """As `dynamic_sampling.pack` makes them; `branches` are a sampler's."""
  points = (rows, sizes.points)
  of_rows = lambda x: _array(x.dtype, rows, *x.shape[1:])  # noqa: E731
  return MicroBatch(
    # Stems are the heads of the branches already.
    trunks=abstract_trunks(rows, sizes, stem=1),
    branches=jax.tree.map(of_rows, branches),
    reward_NKG=_array(jnp.float32, *points, samples),
    is_fresh_NK=_array(jnp.bool_, *points),
  )


def abstract_targets(rows: int, sizes: Widths) -> device_reward.Targets:
  """As `device_reward.encode_targets` makes them."""
  points = (rows, sizes.points)
  return device_reward.Targets(
    code_NKY=_array(jnp.int32, *points, sizes.target),
    length_NK=_array(jnp.int32, *points),
    is_real_NK=_array(jnp.bool_, *points),
  )


class Scalars(NamedTuple):
  """Of the runs' arguments those that are no arrays of a batch.

  A jitted function is compiled anew for a scalar that is placed otherwise, so
  a run gives its own, and described devices get abstract ones.
  """

  key: Any
  number: Any


def rollout_programs(
  mesh: jax.sharding.Mesh,
  sampler: Sampler,
  reward: DeviceScorer | None,
  params: Any,
  trunks: Trunks,
  targets: device_reward.Targets,
  scalars: Scalars,
  beside_bytes: int,
  parts: int = 1,
) -> Iterator[Program]:
  """The two halves of a rollout, and the reward of what they sample.

  If one does not fit, those that read its results are left out.

  Args:
    mesh: where they run.
    sampler: whose programs they are.
    reward: if it is computed on the device.
    params: abstract.
    trunks: abstract, of one part of a round.
    targets: likewise, for the reward.
    scalars: the key is used.
    beside_bytes: of what lives beside the parameters.
    parts: of a round; `rounds.QUEUED_PARTS` of them are queued at a time.
  """
  prefill = Program(
    "rollout: prefill", sampler.prefill, (params, trunks), beside_bytes, mesh
  )
  yield prefill
  at_rest = beside_bytes + bytes_per_device(params)
  with contextlib.suppress(DoesNotFitError):
    prefilled = prefill.outputs()
    waiting = min(parts, QUEUED_PARTS) - 1
    decode = Program(
      "rollout: decode",
      sampler.decode,
      (prefilled, trunks, scalars.key),
      at_rest + waiting * bytes_per_device(prefilled),
      mesh,
    )
    yield decode
    branches, _ = decode.outputs()
    if reward is not None:
      args = (branches, targets)
      yield Program("reward", reward.program, args, at_rest, mesh)


def update_programs(
  mesh: jax.sharding.Mesh,
  updater: Updater,
  batches: Iterable[Any],
  scalars: Scalars,
  *,
  has_reference: bool = False,
) -> Iterator[Program]:
  """Accumulation of one micro-batch of each shape, and the optimizer step."""
  state = updater.abstract_state()
  trained = state.trained().params
  reference = trained if has_reference else None
  moments = bytes_per_device(state.opt_state)
  sums = updater.abstract_sums()
  for batch in batches:
    args = (state.params, sums, batch, reference)
    yield Program("update: accumulate", updater.accumulate, args, moments, mesh)
  yield Program(
    "update: finish",
    updater.finish,
    (state, sums, scalars.number),
    bytes_per_device(reference),
    mesh,
  )


def rl_programs(
  *,
  mesh: jax.sharding.Mesh,
  rules: ShardingRules,
  sampler: Sampler,
  reward: DeviceScorer | None,
  updater: Updater,
  sizes: Widths,
  trunks_per_part: int,
  parts: int,
  trunks_per_micro_batch: int,
  scalars: Scalars,
  has_reference: bool,
) -> Iterator[Program]:
  """The programs of a stage whose steps are taken piece by piece.

  Args:
    mesh: where they run.
    rules: of the update; the sampler has its own.
    sampler: as the run has it.
    reward: likewise, if it is computed on the device.
    updater: likewise.
    sizes: widths of the arrays.
    trunks_per_part: trunks of each part of a round, all processes together.
    parts: of a round.
    trunks_per_micro_batch: rows, likewise.
    scalars: see there.
    has_reference: whether the loss has a KL reference.
  """
  place = Placer(mesh)
  state = updater.abstract_state()
  kept = bytes_per_device(state.opt_state)
  if has_reference:
    kept += bytes_per_device(lora.split(state.params)[0])
  trunks, targets = place.rows(
    (
      abstract_trunks(trunks_per_part, sizes),
      abstract_targets(trunks_per_part, sizes),
    ),
    sampler.rules,
  )
  params = state.params
  yield from rollout_programs(
    mesh, sampler, reward, params, trunks, targets, scalars, kept, parts
  )
  with jax.set_mesh(mesh):
    prefilled = jax.eval_shape(sampler.prefill, params, trunks)
    branches, _ = jax.eval_shape(sampler.decode, prefilled, trunks, scalars.key)
  batch = place.rows(
    _micro_batch(
      trunks_per_micro_batch, sizes, sampler.config.samples, branches
    ),
    rules,
  )
  yield from update_programs(
    mesh, updater, [batch], scalars, has_reference=has_reference
  )
