# SPDX-License-Identifier: Apache-2.0
"""Arrays that are only described: shapes, dtypes and shardings.

Programs are compiled on them before there are any arrays, and checkpoints are
restored to them.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding

from srl_jax import sharding


def like(tree: Any) -> Any:
  """Shapes, dtypes and shardings of arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def with_shardings(tree: Any, shardings: Any) -> Any:
  """The same arrays, abstract, with these shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def batch(
  tree: Any, rows: int, mesh: jax.sharding.Mesh, rules: sharding.ShardingRules
) -> Any:
  """A batch of `rows` rows like these, abstract, split as `put_batch` does."""
  spec = NamedSharding(mesh, rules.spec(("batch",)))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (rows, *x.shape[1:]), x.dtype, sharding=spec
    ),
    tree,
  )


def scalar(value: jax.Array, mesh: jax.sharding.Mesh) -> Any:
  """A key or a number as the argument of a program that is only compiled.

  A jitted function is compiled anew for a scalar that is placed otherwise, so
  a mesh of devices that are here gets the value itself. Devices that are only
  described get an abstract one, on every device.
  """
  if mesh.devices.flat[0] in jax.devices():
    return value
  return jax.ShapeDtypeStruct(
    value.shape, value.dtype, sharding=sharding.replicated(mesh)
  )
