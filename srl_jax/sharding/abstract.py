# SPDX-License-Identifier: Apache-2.0
"""Abstract arrays: shapes, dtypes and shardings without values.

Programs are compiled for abstract arrays before real arrays exist, and
checkpoints are restored to them.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding

from srl_jax import sharding


def like(tree: Any) -> Any:
  """Returns the shapes, dtypes and shardings of arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )


def with_shardings(tree: Any, shardings: Any) -> Any:
  """Returns abstract arrays like those of `tree`, with `shardings`."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def batch(
  tree: Any, rows: int, mesh: jax.sharding.Mesh, rules: sharding.ShardingRules
) -> Any:
  """Returns an abstract batch of `rows` rows, split as `put_batch` does."""
  spec = NamedSharding(mesh, rules.spec(("batch",)))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (rows, *x.shape[1:]), x.dtype, sharding=spec
    ),
    tree,
  )


def scalar(value: jax.Array, mesh: jax.sharding.Mesh) -> Any:
  """Returns a key or number as an argument of a program to be compiled.

  A jitted function is compiled again for a scalar with another placement, so
  on a mesh of real devices this is the value itself. On devices that are only
  described it is an abstract scalar, replicated.
  """
  if mesh.devices.flat[0] in jax.devices():
    return value
  return jax.ShapeDtypeStruct(
    value.shape, value.dtype, sharding=sharding.replicated(mesh)
  )
