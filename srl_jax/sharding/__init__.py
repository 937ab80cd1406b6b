# SPDX-License-Identifier: Apache-2.0
"""Over which devices arrays are split, and how they get there.

mesh.py places devices along the mesh's axes, rules.py says over which axes each
logical axis is split, placement.py brings arrays to devices and back, and
abstract.py describes arrays without their values.
"""

from srl_jax.sharding.mesh import (
  MESH_AXES,
  MeshConfig,
  make_mesh,
  slice_count,
)
from srl_jax.sharding.placement import (
  born_sharded,
  for_every_process,
  gather_objects,
  gather_rows,
  own_rows,
  put_batch,
  read,
  replicated,
  tree_shardings,
)
from srl_jax.sharding.rules import (
  ShardingRules,
  batch_devices,
  constrain,
  constrain_tokens,
  device_kind,
  gather_weight,
  lookup,
  parts,
  per_device,
  rounded_up,
  row_split,
)

__all__ = [
  "MESH_AXES",
  "MeshConfig",
  "ShardingRules",
  "batch_devices",
  "born_sharded",
  "constrain",
  "constrain_tokens",
  "device_kind",
  "for_every_process",
  "gather_objects",
  "gather_rows",
  "gather_weight",
  "lookup",
  "make_mesh",
  "own_rows",
  "parts",
  "per_device",
  "put_batch",
  "read",
  "replicated",
  "rounded_up",
  "row_split",
  "slice_count",
  "tree_shardings",
]
