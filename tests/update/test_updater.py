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
  # The sum of 300 equal gradients would stop at 256 in bfloat16, and the mean
  # would be 0.85.
  optim = OptimConfig(learning_rate=1.0, max_grad_norm=1e9)
  mesh = small_mesh()
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = {"x": jax.device_put(jnp.zeros((), jnp.bfloat16), whole)}

  def loss_fn(params, batch, reference):
    return Ratio(params["x"] * batch, jnp.float32(1)), {}

  updater = Updater(
    loss_fn, optax.sgd(1.0), learning_rate(optim, 1), params, mesh
  )
  state = updater.init(params)
  one = jnp.ones((), jnp.bfloat16)
  state, _, metrics = updater.update(state, [one] * 300, 0)
  assert metrics.grad_norm == 1


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


def bfloat16_updater(learning_rate_, mesh):
  """The loss is x * batch, so that the gradient is the batch."""
  optim = OptimConfig(learning_rate=learning_rate_, max_grad_norm=1e9)
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
  params = {"x": jax.device_put(jnp.ones(4, jnp.bfloat16), rows)}

  def loss_fn(params, batch, reference):
    return Ratio((params["x"] * batch).sum(), jnp.float32(1)), {}

  updater = Updater(
    loss_fn, make_optimizer(optim, 1), learning_rate(optim, 1), params, mesh
  )
  return updater, updater.init(params)


def test_the_second_moment_of_bfloat16_parameters_decays():
  updater, state = bfloat16_updater(5e-7, small_mesh())
  for number, gradient in enumerate([1.0] * 200 + [1e-3] * 1500):
    batch = jnp.full(4, gradient, jnp.bfloat16)
    state, _, _ = updater.update(state, [batch], number)
  [nu] = [x.nu for x in state.opt_state.inner[1] if hasattr(x, "nu")]
  # (1 - 0.999^200) * 0.999^1500 + 1e-6. In bfloat16 it stays at 0.196.
  assert nu["x"].dtype == jnp.float32
  np.testing.assert_allclose(nu["x"], 0.0404, atol=1e-4)


def test_bfloat16_parameters_add_up_steps_that_they_cannot_hold():
  # Numbers below 1 are 1/256 apart in bfloat16, so a step of 1e-4 from 1 is
  # rounded away: without a copy, all 200 are. The rounding of Adam's first
  # steps is below 1e-6 in sum.
  updater, state = bfloat16_updater(1e-4, small_mesh())
  for number in range(200):
    state, _, _ = updater.update(state, [jnp.ones(4, jnp.bfloat16)], number)
  np.testing.assert_allclose(state.opt_state.master["x"], 0.98, atol=1e-5)
  assert state.params["x"].dtype == jnp.bfloat16
  # The nearest bfloat16: 251 / 256 = 0.98047.
  np.testing.assert_array_equal(state.params["x"], np.full(4, 251 / 256))


def test_the_copy_of_bfloat16_parameters_is_sharded_and_saved():
  mesh = small_mesh(fsdp=2)
  updater, state = bfloat16_updater(1e-4, mesh)
  state, _, _ = updater.update(state, [jnp.ones(4, jnp.bfloat16)], 0)
  saved = state.to_save()["opt_state"]
  for x in (saved.master["x"], saved.inner[1][0].mu["x"]):
    assert x.sharding == state.params["x"].sharding
  assert not state.params["x"].sharding.is_fully_replicated


@pytest.mark.parametrize(
  "optimizer",
  [
    optax.adafactor(0.1, min_dim_size_to_factor=2),
    optax.contrib.muon(0.1),
    optax.masked(optax.adam(0.1), {"layer": {"x": True, "b": False}}),
  ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_of_other_optimizers_are_sharded(optimizer, dtype):
  mesh = small_mesh(fsdp=2)
  split = tuple(
    jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    for axes in ((None, "fsdp"), ("fsdp",))
  )
  x, b = jax.device_put((jnp.ones((4, 6), dtype), jnp.ones(6, dtype)), split)

  def loss_fn(params, batch, reference):
    found = (params["layer"]["x"] * batch).sum() + params["layer"]["b"].sum()
    return Ratio(found, jnp.float32(1)), {}

  params = {"layer": {"x": x, "b": b}}
  updater = Updater(
    loss_fn, optimizer, learning_rate(OptimConfig(), 1), params, mesh
  )
  state = updater.init(params)
  state, _, metrics = updater.update(state, [jnp.ones((4, 6), dtype)], 0)
  assert metrics.grad_norm > 0 and np.all(state.params["layer"]["x"] < 1)
  full = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (4, 6)]
  assert {x.sharding for x in full} <= {split[0]}


def test_a_step_of_nothing_is_skipped_and_its_rate_is_passed_over():
  optim = OptimConfig(learning_rate=0.4, schedule="linear", weight_decay=0.5)
  mesh = small_mesh()
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = {"x": jax.device_put(jnp.ones(()), whole)}

  def loss_fn(params, batch, reference):
    return Ratio(params["x"] * batch, (batch != 0).astype(jnp.float32)), {}

  updater = Updater(
    loss_fn, make_optimizer(optim, 4), learning_rate(optim, 4), params, mesh
  )
  states, skipped = [updater.init(params)], []
  for number, gradient in enumerate([0.5, 0.0, 0.5]):
    state = jax.tree.map(jnp.copy, states[-1])
    state, _, metrics = updater.update(state, [jnp.float32(gradient)], number)
    states.append(state)
    skipped.append(int(metrics.skipped_updates))
  assert skipped == [0, 1, 0]
  x = [float(state.params["x"]) for state in states]
  # Equal gradients: Adam steps by the rate, and decays by half of rate * x.
  # With momentum and decay x[2] would be -0.1 or so; if the rates had waited,
  # x[3] would be 0.4 - 0.3 * 1.2 = 0.04.
  assert x[2] == x[1]
  # The bias correction of float32 moments is right to some 1e-5.
  np.testing.assert_allclose(x, [1, 0.4, 0.4, 0.4 - 0.2 * 1.2], rtol=1e-4)
  [before], [after] = (
    [x for x in state.opt_state[1] if hasattr(x, "mu")] for state in states[1:3]
  )
  jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_fixed_divisor_has_to_be_given():
  with pytest.raises(ValueError, match="set divisor_tokens to a length"):
    LossConfig(aggregation="fixed_divisor")


def test_a_dual_clip_below_the_clip_is_refused():
  assert LossConfig(clip_high=4.0).dual_clip == 3.0
  with pytest.raises(ValueError, match=r"not above 1 \+ clip_high=1.28; set"):
    LossConfig(surrogate="dual_clipped", clip_high=0.28, dual_clip=1.2)
