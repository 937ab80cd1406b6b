# SPDX-License-Identifier: Apache-2.0
"""Described topologies, and where meshes place their chips."""

import importlib.util

import jax
import numpy as np
import pytest

from launch.tpu import ahead_of_time, chips
from srl_jax import sharding
from srl_jax.sharding import mesh as mesh_lib

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU compiler is part of libtpu (extra 'tpu')",
)


@pytest.mark.parametrize("topology", ["v9z:2x2", "v5e", "v5e:2xtwo", "v5e:"])
def test_an_unknown_topology_is_refused(topology):
  with pytest.raises(ValueError, match=r"for example v5e:2x4, v5e:8x8"):
    chips.parse_topology(topology)


@needs_libtpu
def test_a_shape_that_no_chip_comes_in_is_refused():
  with pytest.raises(ValueError, match=r"topology=v5e:3x5: .*for example"):
    ahead_of_time.devices("v5e:3x5")


@needs_libtpu
@pytest.mark.parametrize(
  ("topology", "neighbours"),
  [("v5e:8x8", 1), ("v6e:8x8", 1), ("v5e:2x4", 1), ("v5p:4x4x4", 3)],
)
def test_four_chips_of_a_tensor_group_are_a_ring(topology, neighbours):
  devices = ahead_of_time.devices(topology)
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=1, fsdp=-1, tensor=4), devices
  )
  assert {*mesh.devices.flat} == {*devices}
  for group in mesh.devices.reshape(-1, 4):
    places = np.array([chip.coords for chip in group])
    steps = np.abs(places - np.roll(places, 1, axis=0)).sum(axis=1)
    # A side of four v5p closes; that of eight v5e does not.
    assert steps.max() == neighbours, places
    assert neighbours == 3 or len({x.process_index for x in group}) == 1


@needs_libtpu
def test_only_the_data_axis_crosses_from_slice_to_slice():
  devices = ahead_of_time.devices("v5e:2x2", slices=2)

  def slices(**sizes):
    mesh = sharding.make_mesh(sharding.MeshConfig(**sizes), devices)
    return [
      sorted({device.slice_index for device in part.flat})
      for part in mesh.devices
    ]

  assert slices(data=2, fsdp=2, tensor=2) == [[0], [1]]
  assert slices(data=-1, fsdp=2) == [[0], [0], [1], [1]]
  message = (
    r"data=1 on 2 slices.*--config\.mesh\.data=2 --config\.mesh\.fsdp=-1"
  )
  with pytest.raises(ValueError, match=message):
    slices(data=1, fsdp=-1)
  assert mesh_lib.slice_count(jax.devices()) == 1
