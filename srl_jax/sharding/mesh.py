# SPDX-License-Identifier: Apache-2.0
"""The device mesh: its axes, their sizes, and which device goes where."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Number of devices along each mesh axis; one may be -1: all that remain.

  What each axis splits is described for the default `ShardingRules`.

  Attributes:
    data: devices that split the batch and copy the parameters. Of several TPU
      slices each holds an equal part of this axis. So only sums of gradients
      cross the network between them, and in sampling the keys and values of
      trunks that begin and, at each turn, whether the loop goes on.
    fsdp: devices that split both the batch and the parameters.
    tensor: devices that split heads, MLPs and vocabulary.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1


def make_mesh(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """Builds the mesh.

  Args:
    config: sizes of the axes.
    devices: devices of a described topology; by default all devices of all
      processes.

  Raises:
    ValueError: the axis sizes do not multiply to the number of devices, or the
      data axis does not divide over the slices.
  """
  sizes = [getattr(config, axis) for axis in MESH_AXES]
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  known = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) > 1 or min(sizes) < -1 or 0 in sizes or count % known:
    raise ValueError(
      f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} does not fit "
      f"{count} devices; set c.mesh.data, c.mesh.fsdp and c.mesh.tensor to "
      "positive numbers whose product divides it, at most one of them -1"
    )
  sizes = [count // known if s == -1 else s for s in sizes]
  if math.prod(sizes) != count:
    raise ValueError(
      f"mesh {dict(zip(MESH_AXES, sizes, strict=True))} uses "
      f"{math.prod(sizes)} of {count} devices; set c.mesh.data=-1 to use all"
    )
  slices = slice_count(devices)
  data, *others = sizes
  if data % slices:
    raise ValueError(
      f"the mesh has data={data} on {slices} slices, and only that axis may "
      f"cross the network between them; set c.mesh.data to {slices} or a "
      "multiple of it, for example --config.mesh.data="
      f"{slices} --config.mesh.fsdp=-1"
    )
  if slices == 1 and others[-1] == 4 and _is_plane(devices):
    placed = np.array(sorted(devices, key=_square)).reshape(sizes)
  # Without splitting, 16 x 4 devices would not fit an 8 x 8 torus.
  elif slices == 1:
    placed = mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  else:
    placed = mesh_utils.create_hybrid_device_mesh(
      (data // slices, *others),
      (slices, *(1 for _ in others)),
      devices,
      allow_split_physical_axes=True,
    )
  return jax.sharding.Mesh(
    placed, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(sizes)
  )


def _is_plane(devices: Sequence[jax.Device]) -> bool:
  """Whether devices are TPU chips that squares of 2 x 2 cover, as v5e and v6e.

  Four chips in a row are no ring and belong to two hosts; in a square they are
  a ring on one host.
  """
  if devices[0].platform != "tpu":
    return False
  *sides, height = np.ptp([x.coords for x in devices], axis=0) + 1
  is_one_to_a_chip = math.prod(sides) * height == len(devices)
  return is_one_to_a_chip and height == 1 and not any(x % 2 for x in sides)


def _square(device: jax.Device) -> tuple[int, ...]:
  """The place of a chip's square, and that of the chip around it."""
  x, y, _ = device.coords
  return x // 2, y // 2, x % 2, (x + y) % 2


def slice_count(devices: Sequence[jax.Device]) -> int:
  """Returns the number of TPU slices; 1 for devices of another kind."""
  if devices[0].platform != "tpu":
    return 1
  # Devices of a single slice may lack the attribute.
  return len({getattr(device, "slice_index", 0) for device in devices})
