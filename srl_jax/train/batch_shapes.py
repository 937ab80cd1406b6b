# SPDX-License-Identifier: Apache-2.0
"""How the rows of a batch divide over devices."""

from __future__ import annotations

from srl_jax import sharding
from srl_jax.train.stage import Run
from srl_jax.update.pack_shapes import pack_shape
from srl_jax.update.packing import PackShape


def check_sampled(run: Run, field: str, trunks: int) -> None:
  """Raises ValueError unless trunks divide over the devices of a rollout."""
  devices = sharding.batch_devices(run.mesh, run.rollout_rules)
  if trunks % devices:
    raise ValueError(
      f"c.{field}={trunks} does not divide over {devices} devices (mesh "
      f"{dict(run.mesh.shape)}); make it a multiple of {devices}, or change "
      "c.mesh"
    )


def micro_batch_trunks(run: Run, trunks: int) -> int:
  """Trunks of a micro-batch: raised until they divide over the devices.

  More trunks to a micro-batch change no result, only time and memory.
  """
  devices = sharding.batch_devices(run.mesh, run.rules)
  return sharding.rounded_up(trunks, devices)


def update_shape(
  run: Run, trunks: int, branches: int, filled: float
) -> PackShape:
  """Chooses the shape of a stage's micro-batches; see `pack_shape`."""
  return pack_shape(
    trunks,
    multiple=sharding.batch_devices(run.mesh, run.rules),
    branches=branches,
    filled=filled,
  )
