# SPDX-License-Identifier: Apache-2.0
"""The programs that change the rows of a stream: what they compile and free."""

import dataclasses

import jax
import numpy as np
import pytest

from srl_jax.models import LanguageModel
from srl_jax.rollout.device_rows import DeviceRows
from srl_jax.testing.tiny import TINY, random_params, small_mesh


@pytest.fixture
def programs():
  # No other test has this model, so these compile for it.
  model = LanguageModel(dataclasses.replace(TINY, d_mlp=48))
  mesh = small_mesh()
  sizes = {"rows": 2, "slots": 1, "entries": 2}
  sizes |= {"trunk_width": 16, "cache_width": 16}
  with jax.set_mesh(mesh):
    yield DeviceRows(model, random_params(model), mesh=mesh, **sizes)


def test_trunks_are_run_by_the_same_programs_however_wide_the_ring_is(programs):
  def run():
    programs.admit([(0, np.arange(1, 5))], 1, 16)
    programs.copy({1: 0})
    # Other streams may have compiled theirs.
    jitted = programs.jitted["admit"], programs.jitted["copy"]
    return [x._cache_size() for x in jitted]

  before = run()
  for width in (32, 16):
    programs.resize(cache_width=width)
    assert run() == before


def test_an_old_width_is_freed_layer_by_layer(programs):
  old = []

  def noted(resize):
    def of_layer(policy, layer, *args, **width):
      assert all(x.is_deleted() for x in old)
      old.extend((*layer.k, *layer.v))
      return resize(policy, layer, *args, **width)

    return of_layer

  for name in ("resize trunk", "resize cache"):
    programs.jitted[name] = noted(programs.jitted[name])
  programs.resize(trunk_width=32, cache_width=32)
  assert programs.trunk_width == programs.cache_width == 32
  # Keys and values of trunks and ring.
  assert len(old) == 2 * 2 * TINY.n_layers
  assert all(x.is_deleted() for x in old)
