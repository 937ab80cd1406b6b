# SPDX-License-Identifier: Apache-2.0
"""Schedules, clipping and AdamW, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srl_jax.update.optim import (
  OptimConfig,
  learning_rate,
  make_optimizer,
  with_master,
)


def rates(total, **fields):
  schedule = learning_rate(OptimConfig(learning_rate=0.4, **fields), total)
  return [10 * float(schedule(step)) for step in range(total)]


@pytest.mark.parametrize(
  ("total", "fields", "want"),
  [
    (4, {}, [4, 4, 4, 4]),
    # A quarter of 8 update steps is warm-up. The first is not wasted at rate
    # 0, and the second has the peak rate.
    (8, {"warmup_ratio": 0.25}, [2, 4, 4, 4, 4, 4, 4, 4]),
    (4, {"warmup_ratio": 0.25}, [4, 4, 4, 4]),
    # The rate would be zero one update step after the last.
    (4, {"schedule": "linear"}, [4, 3, 2, 1]),
    (6, {"schedule": "linear", "warmup_ratio": 0.34}, [2, 4, 4, 3, 2, 1]),
    # The rate is (1 + cos(pi t / 4)) / 2 of the peak.
    (4, {"schedule": "cosine"}, [4, 2 + 2**0.5, 2, 2 - 2**0.5]),
    (
      6,
      {"schedule": "cosine", "warmup_ratio": 0.34},
      [2, 4, 4, 2 + 2**0.5, 2, 2 - 2**0.5],
    ),
    (1, {"schedule": "cosine"}, [4]),
  ],
)
def test_schedules_by_hand(total, fields, want):
  np.testing.assert_allclose(rates(total, **fields), want, rtol=1e-6)


def test_a_rate_warms_up_over_its_share_of_the_steps():
  # The paper's SFT has a warm-up ratio of 0.3.
  got = rates(10, schedule="cosine", warmup_ratio=0.3)
  np.testing.assert_allclose(got[:4], [4 / 3, 8 / 3, 4, 4], rtol=1e-6)
  assert got[4] < 4


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_an_impossible_warm_up_is_refused(ratio):
  with pytest.raises(ValueError, match=f"warmup_ratio={ratio}; set it to 0"):
    OptimConfig(warmup_ratio=ratio)


PARAMS = {
  "blocks": {
    "mlp": {"gate": jnp.full((2, 2), 2.0)},
    "norm": {"scale": jnp.full(2, 2.0)},
    "attention": {"q_bias": jnp.full(2, 2.0)},
  },
  "embedding": jnp.full((3, 2), 2.0),
}


def one_step(gradient, **fields):
  """Returns parameters and state after a step with this gradient."""
  config = OptimConfig(learning_rate=0.1, **fields)
  optimizer = make_optimizer(config, 10)
  grads = jax.tree.map(lambda x: jnp.full_like(x, gradient), PARAMS)
  state = optimizer.init(PARAMS)
  updates, state = jax.jit(optimizer.update)(grads, state, PARAMS)
  return jax.tree.map(lambda p, u: np.asarray(p + u), PARAMS, updates), state


@pytest.mark.parametrize("gradient", [0.001, -0.01, 0.1])
def test_the_first_step_of_adam_is_the_rate(gradient):
  # After bias correction, m / sqrt(v) is the sign. The epsilon of 1e-8 is
  # small compared to a gradient of 0.001.
  params, _ = one_step(gradient)
  for leaf in jax.tree.leaves(params):
    np.testing.assert_allclose(leaf, 2 - 0.1 * np.sign(gradient), rtol=1e-5)


def test_epsilon_is_added_to_the_root():
  # The step is 0.001 / (0.001 + 0.003) = 1/4 of the rate.
  params, _ = one_step(0.001, epsilon=0.003)
  np.testing.assert_allclose(params["embedding"], 2 - 0.1 / 4, rtol=1e-5)


def test_weight_decay_is_decoupled_and_for_matrices_only():
  params, _ = one_step(0.001, weight_decay=0.5)
  # Decay is rate * 0.5 * 2 = 0.1, added to the step of 0.1. If it were added to
  # the gradient, it would vanish in the sign.
  for matrix in (params["blocks"]["mlp"]["gate"], params["embedding"]):
    np.testing.assert_allclose(matrix, 1.8, rtol=1e-5)
  for vector in (
    params["blocks"]["norm"]["scale"],
    params["blocks"]["attention"]["q_bias"],
  ):
    np.testing.assert_allclose(vector, 1.9, rtol=1e-5)


def test_of_rounded_parameters_the_copy_decays():
  optimizer = with_master(optax.add_decayed_weights(0.5))
  params = {"x": jnp.ones(1, jnp.bfloat16)}  # The nearest to the copy.
  copy = jnp.full(1, 1 + 2**-9, jnp.float32)
  state = optimizer.init(params)._replace(master={"x": copy})
  grads = jax.tree.map(jnp.zeros_like, params)
  _, state = optimizer.update(grads, state, params)
  assert state.master["x"] == 1.5 * (1 + 2**-9)


def moments(state, name):
  [adam] = [
    x
    for x in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu"))
    if hasattr(x, "mu")
  ]
  return jax.tree.leaves(getattr(adam, name))


def test_betas_and_clipping_are_the_configured_ones():
  # The gradient has 14 entries of 1: its norm sqrt(14) is clipped to 0.5.
  _, state = one_step(1.0, beta1=0.8, beta2=0.9, max_grad_norm=0.5)
  clipped = 0.5 / 14**0.5
  for first, second in zip(
    moments(state, "mu"), moments(state, "nu"), strict=True
  ):
    np.testing.assert_allclose(first, 0.2 * clipped, rtol=1e-5)
    np.testing.assert_allclose(second, 0.1 * clipped**2, rtol=1e-4)


def test_a_gradient_below_the_limit_is_not_scaled_up():
  _, state = one_step(0.01, max_grad_norm=0.5)
  for first in moments(state, "mu"):
    np.testing.assert_allclose(first, 0.1 * 0.01, rtol=1e-5)


def test_the_dtype_of_the_first_moment_is_a_choice_and_the_second_is_float32():
  _, state = one_step(0.01, moment_dtype="bfloat16")
  assert {x.dtype for x in moments(state, "mu")} == {jnp.dtype("bfloat16")}
  assert {x.dtype for x in moments(state, "nu")} == {jnp.dtype("float32")}
