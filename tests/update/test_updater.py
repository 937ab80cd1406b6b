# SPDX-License-Identifier: Apache-2.0
"""The updater with parameters of one number: dtypes, shardings, optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srl_jax.testing.tiny import small_mesh
from srl_jax.types import Ratio
from srl_jax.update.grpo import LossConfig
from srl_jax.update.optim import OptimConfig, learning_rate, make_optimizer
from srl_jax.update.updater import Updater


def test_sums_are_float32_whatever_the_parameters():
  # The sum of 300 equal gradients would stop at 256 in bfloat16.
  optim = OptimConfig(learning_rate=1.0, max_grad_norm=1e9)
  mesh = small_mesh()
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = {"x": jax.device_put(jnp.zeros((), jnp.bfloat16), whole)}

  def loss_fn(params, batch, reference):
    return Ratio(params["x"] * batch, jnp.float32(0)), {}

  updater = Updater(
    loss_fn, optax.sgd(1.0), learning_rate(optim, 1), params, mesh
  )
  state = updater.init(params)
  one = jnp.ones((), jnp.bfloat16)
  state, _, metrics = updater.update(state, [one] * 300, 0)
  assert metrics.grad_norm == 300


def test_make_optimizer_fits_the_updater():
  # Adam's first step is the rate, for a gradient of any size.
  optim = OptimConfig(learning_rate=0.1)
  mesh = small_mesh()
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = {"x": jax.device_put(jnp.zeros(2), whole)}

  def loss_fn(params, batch, reference):
    return Ratio((params["x"] * batch).sum(), jnp.float32(1)), {}

  updater = Updater(
    loss_fn, make_optimizer(optim, 1), learning_rate(optim, 1), params, mesh
  )
  abstract = updater.abstract_state()
  state, _, _ = updater.update(
    updater.init(params), [jnp.array([0.2, -0.1])], 0
  )
  np.testing.assert_allclose(state.params["x"], [-0.1, 0.1], rtol=1e-4)
  for got, want in zip(
    jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True
  ):
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert got.sharding == want.sharding


def test_a_fixed_divisor_has_to_be_given():
  with pytest.raises(ValueError, match="set divisor_tokens to a length"):
    LossConfig(aggregation="fixed_divisor")
