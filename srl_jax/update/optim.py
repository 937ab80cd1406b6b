# SPDX-License-Identifier: Apache-2.0
"""The optimizer: optax's AdamW with gradient clipping and a schedule."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from srl_jax import strict


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW (Loshchilov and Hutter 2019) and its schedule.

  Attributes:
    learning_rate: peak learning rate.
    schedule: path of the rate after the warm-up: "constant", or to zero at
      the end of the stage, "linear" or "cosine".
    warmup_ratio: share of the stage's update steps in which the rate rises
      linearly from zero.
    beta1: decay rate of the first moment.
    beta2: decay rate of the second moment.
    epsilon: term added to the root of the second moment.
    weight_decay: decoupled weight decay of matrices; norms and biases have
      none.
    max_grad_norm: larger gradients are scaled down to this global norm.
    moment_dtype: dtype of the first moment. The second moment is always
      float32: with 8 bits it would never decay, as 0.999 of it rounds back.
  """

  learning_rate: float = 5e-7
  schedule: Literal["constant", "linear", "cosine"] = "constant"
  warmup_ratio: float = 0.0
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  weight_decay: float = 0.0
  max_grad_norm: float = 1.0
  moment_dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    strict.check_literals(self)
    strict.check_numbers(
      self,
      learning_rate="(0, 1]",
      warmup_ratio="[0, 1)",
      beta1="[0, 1)",
      beta2="[0, 1)",
      epsilon="(0, 1)",
      weight_decay="[0, )",
      max_grad_norm="(0, )",
    )


def learning_rate(config: OptimConfig, total_steps: int) -> optax.Schedule:
  """Returns the learning rate as a function of the update step, from 0.

  The first of w warm-up steps has the rate peak / w, not zero: an update step
  at rate zero would be wasted.
  """
  warmup = round(config.warmup_ratio * total_steps)
  rest = max(total_steps - warmup, 1)
  peak = config.learning_rate
  after = {
    "constant": optax.constant_schedule(peak),
    "linear": optax.linear_schedule(peak, 0.0, rest),
    "cosine": optax.cosine_decay_schedule(peak, rest),
  }[config.schedule]
  if not warmup:
    return after
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, after], [warmup])


def make_optimizer(
  config: OptimConfig, total_steps: int
) -> optax.GradientTransformation:
  """Returns clipping by global norm, followed by AdamW with the schedule."""
  return optax.chain(
    optax.clip_by_global_norm(config.max_grad_norm),
    optax.adamw(
      learning_rate(config, total_steps),
      b1=config.beta1,
      b2=config.beta2,
      eps=config.epsilon,
      weight_decay=config.weight_decay,
      mask=_decays,
      mu_dtype=config.moment_dtype,
    ),
  )


class MasterState(NamedTuple):
  """State of `with_master`.

  Attributes:
    master: the parameters in float32.
    inner: state of the wrapped optimizer.
  """

  master: Any
  inner: Any


def with_master(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Optimizes a float32 copy of parameters that are stored in fewer bits.

  A bfloat16 parameter has 8 significant bits, so it cannot take a step smaller
  than about 1/500 of itself. The copy takes such steps, and the parameter is
  always the rounded copy (Micikevicius et al. 2018, Section 3.1).
  """

  def init(params):
    master = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    return MasterState(master, optimizer.init(master))

  def update(grads, state, params):
    steps, inner = optimizer.update(grads, state.inner, state.master)
    master = optax.apply_updates(state.master, steps)
    steps = jax.tree.map(lambda m, p: m - p.astype(jnp.float32), master, params)
    return steps, MasterState(master, inner)

  return optax.GradientTransformation(init, update)


def _decays(params):
  """Returns True for matrices; norm scales and biases are told by name."""

  def is_matrix(path, _):
    name = path[-1].key
    return name != "scale" and not name.endswith("_bias")

  return jax.tree_util.tree_map_with_path(is_matrix, params)
