# SPDX-License-Identifier: Apache-2.0
"""How the rows of a batch divide over devices and processes."""

from __future__ import annotations

import math

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.train.stage import Run
from srl_jax.update.packing import PackShape, pack_shape


def check_multiple(
  run: Run, field: str, trunks: int, rules: sharding.ShardingRules
) -> None:
  """Raises ValueError unless trunks divide over devices and processes."""
  devices = sharding.batch_devices(run.mesh, rules)
  multiple = _rows_multiple(run, rules)
  if trunks % multiple:
    raise ValueError(
      f"c.{field}={trunks} does not divide over {devices} devices (mesh "
      f"{dict(run.mesh.shape)}) and {jax.process_count()} processes; make it a "
      f"multiple of {multiple}, or change c.mesh"
    )


def micro_batch(run: Run, trunks: int) -> int:
  """Trunks of a micro-batch: raised until they divide over the devices.

  More trunks to a micro-batch change no result, only time and memory.
  """
  multiple = _rows_multiple(run, run.rules)
  return math.ceil(trunks / multiple) * multiple


def _rows_multiple(run: Run, rules: sharding.ShardingRules) -> int:
  """What the rows of a batch must be a multiple of."""
  devices = sharding.batch_devices(run.mesh, rules)
  return int(np.lcm(jax.process_count(), devices))


def update_shape(
  run: Run, trunks: int, branches: int, filled: float
) -> PackShape:
  """Chooses the shape of a stage's micro-batches; see `pack_shape`."""
  return pack_shape(
    trunks,
    multiple=_rows_multiple(run, run.rules),
    branches=branches,
    filled=filled,
  )
