# SPDX-License-Identifier: Apache-2.0
"""Arrays that are born, placed and read as a mesh and its rules say.

Every process holds whole batches: its devices take the rows that they hold,
and results come back to every process.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from srl_jax.sharding.rules import ShardingRules, batch_devices, parts

# No fewer bytes are gathered of an object.
_LEAST_BYTES = 4096


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def born_sharded(
  init: Callable[..., Any],
  *args: Any,
  mesh: jax.sharding.Mesh,
  rules: ShardingRules,
) -> Any:
  """Runs `init` under jit so that each array is created already sharded.

  Args:
    init: function that returns a pytree whose leaves may be boxed with logical
      axis names (`nn.with_logical_partitioning`); other leaves are replicated.
    *args: arguments of `init`.
    mesh: the mesh.
    rules: logical to mesh axes.

  Returns:
    The unboxed pytree of sharded arrays.
  """
  shardings = tree_shardings(jax.eval_shape(init, *args), mesh, rules)

  def unboxed(*args):
    return nn.unbox(init(*args))

  return jax.jit(unboxed, out_shardings=shardings)(*args)


def tree_shardings(
  abstract: Any, mesh: jax.sharding.Mesh, rules: ShardingRules
) -> Any:
  """Returns the NamedSharding of each leaf with boxed logical axis names.

  Raises:
    ValueError: a length does not divide over the devices that split it.
  """

  def of_leaf(leaf):
    if not isinstance(leaf, nn.LogicallyPartitioned):
      return NamedSharding(mesh, PartitionSpec())
    spec = rules.spec(leaf.names)
    for axis, length, names in zip(
      leaf.names, leaf.value.shape, spec, strict=False
    ):
      names = (names,) if isinstance(names, str) else names or ()
      if length % parts(mesh, names):
        sizes = ", ".join(f"c.mesh.{x}={mesh.shape[x]}" for x in names)
        raise ValueError(
          f"{length} {axis} do not divide over {parts(mesh, names)} devices "
          f"({sizes}); change the mesh, or set c.rules.{axis} (and "
          f"c.rollout_rules.{axis}) to None"
        )
    return NamedSharding(mesh, spec)

  return jax.tree.map(
    of_leaf, abstract, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def put_batch(batch: Any, mesh: jax.sharding.Mesh, rules: ShardingRules) -> Any:
  """Places host rows [N, ...] as a global array split along N.

  Every process passes the same rows, and its devices take those that they
  hold. So it does not matter which devices of the mesh a process has.

  Raises:
    ValueError: N does not divide over the batch devices.
  """
  devices = batch_devices(mesh, rules)
  rows = NamedSharding(mesh, rules.spec(("batch",)))

  def place(x):
    x = np.asarray(x)
    if len(x) % devices:
      raise ValueError(
        f"batch of {len(x)} trunks does not divide over {devices} devices "
        f"(mesh {dict(mesh.shape)}, batch axes {rules.batch}); make "
        f"trunks_per_round and trunks_per_micro_batch multiples of {devices}"
      )
    return jax.make_array_from_callback(x.shape, rows, x.__getitem__)

  return jax.tree.map(place, batch)


def for_every_process(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Starts to send global arrays to all processes, which `read` then gives.

  It returns without waiting, so what devices are asked next comes after it.
  """
  if jax.process_count() == 1:
    return batch
  return _copied(replicated(mesh))(batch)


@functools.cache
def _copied(everywhere: NamedSharding) -> Callable[[Any], Any]:
  return jax.jit(lambda x: x, out_shardings=everywhere)


def read(batch: Any) -> Any:
  """Returns arrays, of one process or from `for_every_process`, as numpy."""
  return jax.tree.map(np.asarray, batch)


def own_rows(batch: Any) -> Any:
  """This process's share of rows that all processes have; see gather_rows."""
  index, count = jax.process_index(), jax.process_count()
  return jax.tree.map(lambda x: x[index::count], batch)


def gather_rows(rows: Any, count: int) -> Any:
  """Gives every process the numpy rows of all processes, interleaved.

  Of P processes, process p holds the rows p, p + P, p + 2P, ... of a batch, as
  `own_rows` returns them. So the result is in the order of the batch and does
  not depend on P.

  Args:
    rows: arrays of this process's rows, of 32 bits at most.
    count: rows of the batch.
  """
  processes = jax.process_count()
  if processes == 1:
    return rows
  most = -(-count // processes)

  def gather(x):
    x = np.pad(x, [(0, most - len(x)), *[(0, 0)] * (x.ndim - 1)])
    x_PN = multihost_utils.process_allgather(x, tiled=False)
    return np.swapaxes(x_PN, 0, 1).reshape(-1, *x_PN.shape[2:])[:count]

  return jax.tree.map(gather, rows)


def gather_objects(value: Any) -> list[Any]:
  """Gives every process the picklable values of all processes, in order."""
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  size_P = multihost_utils.process_allgather(np.array(len(data)))
  # Every size is a program, so few are used: powers of two. The padding is
  # harmless: a pickle knows where it ends.
  size = max(_LEAST_BYTES, 1 << int(size_P.max() - 1).bit_length())
  data = np.pad(data, (0, size - len(data)))
  data_PB = multihost_utils.process_allgather(data)
  return [pickle.loads(row.tobytes()) for row in data_PB]
