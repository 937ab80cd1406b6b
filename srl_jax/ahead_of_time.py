# SPDX-License-Identifier: Apache-2.0
"""The programs of an RL stage, compiled for TPUs that are not here.

The very functions that a run jits (`rollout`, `Updater.accumulate`,
`Updater.finish`, the reward on the device) are lowered on abstract arrays,
sharded over the described devices, and given to the TPU compiler of libtpu,
which needs no TPU. The two halves of a rollout are compiled as one, as they
are in a fused step. Nothing is allocated and no file of the run is read; what
decides the widths has to stand in the config. What the programs have to
compute is counted in counting.py.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from srl_jax import device_reward, optim, sharding, update
from srl_jax import rollout as rollout_lib
from srl_jax.config import Config, RlConfig
from srl_jax.models import LanguageModel
from srl_jax.rounds import OnDevice
from srl_jax.sharding import ShardingRules
from srl_jax.types import Trunks

# What libtpu would else ask a TPU machine's metadata server for, in vain; and
# leave for a second compilation, as no TPU is opened that two could not share.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
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


class Program(NamedTuple):
  """A jitted function and the abstract arrays that it is called with.

  Attributes:
    name: of the program.
    jitted: the function.
    args: its arguments.
    beside_bytes: per device, of what lives on beside it meanwhile.
  """

  name: str
  jitted: Any
  args: tuple
  beside_bytes: int


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


def devices(topology: str) -> list[Any]:
  """The devices of a topology such as "v5e:2x4".

  Raises:
    ValueError: libtpu is not installed, or it knows no such topology.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "the TPU compiler is not installed; it is part of libtpu: pip install "
      "-c constraints.txt -e '.[tpu]'"
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=topology
    )
  except Exception as error:  # whatever the plug-in raises
    raise ValueError(
      f"--topology={topology}: {error}; give a generation and its shape in "
      "chips, for example v5e:2x4, v5e:8x8, v6e:8x8 or v5p:4x4x4"
    ) from error
  return list(described.devices)


def widths(config: Config, stage: str, stem: int, target: int) -> Widths:
  """The widths of a stage, by the limits of its config.

  Raises:
    ValueError: a limit is missing, so that the data would decide.
  """
  instances = getattr(config, stage).instances
  needed = {"max_trunk_tokens": instances.max_trunk_tokens}
  points = 1
  if instances.task == "step":
    points = needed["points_per_trunk"] = instances.points_per_trunk
  for name, value in needed.items():
    if not value:
      raise ValueError(
        f"c.{stage}.instances.{name} is 0, so the data decide how wide the "
        "arrays are; set it, for example with "
        f"--config.{stage}.instances.{name}=..."
      )
  if not config.model.vocab_size:
    raise ValueError(
      "c.model.vocab_size is 0, so the tokenizer decides how large the model "
      "is; set it, for example with --config.model.vocab_size=..."
    )
  return Widths(instances.max_trunk_tokens, points, stem, target)


def programs(
  config: Config, stage: str, mesh: jax.sharding.Mesh, sizes: Widths
) -> Iterator[Program]:
  """Yields the programs of a stage, on a mesh of described devices."""
  section: RlConfig = getattr(config, stage)
  place = _Placer(mesh)
  policy = LanguageModel(config.model, config.rules)
  sampling = LanguageModel(config.model, config.rollout_rules)
  boxed = jax.eval_shape(lambda: policy.init(jax.random.key(0)))
  params = place.as_sharded(
    nn.unbox(boxed), sharding.tree_shardings(boxed, mesh, config.rules)
  )
  total = section.steps * section.passes
  updater = update.Updater(
    update.grpo_loss(policy, section.loss, section.sampling.temperature),
    optim.make_optimizer(section.optim, total),
    optim.learning_rate(section.optim, total),
    params,
    mesh,
  )
  state = updater.abstract_state()
  reference = params if section.loss.kl_coefficient else None
  moments = bytes_per_device(state.opt_state)
  kept = moments + bytes_per_device(reference)
  sampler = jax.jit(
    functools.partial(
      rollout_lib.rollout,
      sampling,
      config=section.sampling,
      # Which ids end a completion changes nothing but constants.
      stop_ids=(0, 1),
      pad_id=0,
    )
  )
  key = place.whole(jax.eval_shape(lambda: jax.random.key(0)))
  per_part = section.trunks_per_round // section.parts_per_round
  trunks = place.rows(_trunks(per_part, sizes), config.rollout_rules)
  yield Program("rollout", sampler, (params, trunks, key), kept)
  branches, _ = jax.eval_shape(sampler, params, trunks, key)
  reward = _reward(config, stage, mesh, sizes)
  if reward is not None:
    targets = _targets(per_part, sizes)
    args = place.rows((branches, targets), config.rollout_rules)
    at_rest = kept + bytes_per_device(params)
    yield Program("reward", reward.program, args, at_rest)
  sums = place.as_sharded(
    jax.eval_shape(updater.functions.zeros, state.params),
    (updater.shardings.params, sharding.replicated(mesh)),
  )
  rows = section.trunks_per_micro_batch
  batch = place.rows(
    _micro_batch(rows, sizes, section.sampling.samples, branches), config.rules
  )
  args = (params, sums, batch, reference)
  yield Program("update: accumulate", updater.accumulate, args, moments)
  number = place.whole(jax.ShapeDtypeStruct((), jnp.int32))
  yield Program(
    "update: finish",
    updater.finish,
    (state, sums, number),
    bytes_per_device(reference),
  )


def compile_program(program: Program, mesh: jax.sharding.Mesh) -> Memory:
  """Compiles a program and says what memory it takes.

  Raises:
    DoesNotFitError: the compiler says so; the message has its bytes.
  """
  start_s = time.monotonic()
  # Set for nothing else: what is computed at once would be on these devices.
  with jax.set_mesh(mesh):
    lowered = program.jitted.lower(*program.args)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise DoesNotFitError(_in_short(str(error))) from error
  found = compiled.memory_analysis()
  return Memory(
    argument=found.argument_size_in_bytes,
    temporary=found.temp_size_in_bytes + found.generated_code_size_in_bytes,
    output=found.output_size_in_bytes - found.alias_size_in_bytes,
    beside=program.beside_bytes,
    compile_s=time.monotonic() - start_s,
  )


def bytes_per_device(tree: Any) -> int:
  """Bytes of a device's share of abstract arrays that have shardings."""
  total = 0
  for x in jax.tree.leaves(tree):
    share = x.sharding.shard_shape(x.shape)
    size = x.dtype.itemsize
    for length in share:
      size *= length
    total += size
  return total


def _in_short(message: str) -> str:
  """The sentence of the compiler's message that says how much is too much."""
  found = re.search(r"Ran out of memory[^\n]*?HBM \([^)]*\)\.", message)
  return found[0].rstrip(".") if found else message.splitlines()[0]


class _Placer:
  """Gives abstract arrays their shardings on a mesh."""

  def __init__(self, mesh: jax.sharding.Mesh):
    self._mesh = mesh

  def as_sharded(self, tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree,
      shardings,
    )

  def whole(self, tree: Any) -> Any:
    everywhere = sharding.replicated(self._mesh)
    return self.as_sharded(tree, jax.tree.map(lambda _: everywhere, tree))

  def rows(self, tree: Any, rules: ShardingRules) -> Any:
    spec = jax.sharding.NamedSharding(self._mesh, rules.spec(("batch",)))
    return self.as_sharded(tree, jax.tree.map(lambda _: spec, tree))


def _array(dtype, *shape):
  return jax.ShapeDtypeStruct(shape, dtype)


def _trunks(rows: int, sizes: Widths, stem: int | None = None) -> Trunks:
  n, k = rows, sizes.points
  return Trunks(
    tokens_NS=_array(jnp.int32, n, sizes.trunk),
    length_N=_array(jnp.int32, n),
    branch_at_NK=_array(jnp.int32, n, k),
    stem_NKC=_array(jnp.int32, n, k, stem or sizes.stem),
    stem_length_NK=_array(jnp.int32, n, k),
    instance_NK=_array(jnp.uint32, n, k),
    is_real_NK=_array(jnp.bool_, n, k),
  )


def _micro_batch(rows, sizes, samples, branches) -> update.MicroBatch:
  """As `dynamic_sampling.pack` makes them; `branches` are a sampler's."""
  points = (rows, sizes.points)
  of_rows = lambda x: _array(x.dtype, rows, *x.shape[1:])  # noqa: E731
  return update.MicroBatch(
    # Stems are the heads of the branches already.
    trunks=_trunks(rows, sizes, stem=1),
    branches=jax.tree.map(of_rows, branches),
    reward_NKG=_array(jnp.float32, *points, samples),
    is_fresh_NK=_array(jnp.bool_, *points),
  )


def _targets(rows: int, sizes: Widths) -> device_reward.Targets:
  points = (rows, sizes.points)
  return device_reward.Targets(
    code_NKY=_array(jnp.int32, *points, sizes.target),
    length_NK=_array(jnp.int32, *points),
    is_real_NK=_array(jnp.bool_, *points),
  )


class _Spelling:
  """Stands in for a tokenizer, of which the reward only wants the bytes."""

  # Byte-level BPE: a handful on average, 128 in the longest (spaces).
  def __init__(self, vocab_size: int):
    self.vocab_size = vocab_size

  def token_bytes(self, token: int) -> bytes:
    return b" " * (128 if token == 0 else 6)


def _reward(config, stage, mesh, sizes) -> OnDevice | None:
  """The reward of a run on TPUs, if it is one for the device."""
  section = getattr(config, stage)
  reason = device_reward.host_reason(section.reward, section.device_reward)
  longest = section.device_reward.sizes[-1]
  if reason or section.reward_on == "host" or sizes.target > longest:
    return None
  of_tpu = dataclasses.replace(
    section.device_reward, chunk_cells=section.device_reward.cells("tpu")
  )
  reward = device_reward.DeviceReward(
    section.reward, of_tpu, _Spelling(config.model.vocab_size)
  )
  return OnDevice(reward, sizes.target, mesh, config.rollout_rules)
