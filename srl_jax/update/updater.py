# SPDX-License-Identifier: Apache-2.0
"""One update step, as two compiled programs.

A batch is any number of micro-batches of one shape: each adds the gradient of
its loss numerator, and the update step divides by the summed denominators, so
that the result does not depend on how the batch was cut. Two programs are
compiled, whatever that number is.

If the parameters hold adapters, only these are trained (models/lora.py); all
other parameters pass through an update step unchanged, in the same buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from srl_jax import sharding
from srl_jax.models import lora
from srl_jax.reductions import metric
from srl_jax.types import Array
from srl_jax.update.batch import LossFn, MicroBatch


class TrainState(NamedTuple):
  """What an optimizer step maps to its successor.

  Attributes:
    params: all of them.
    opt_state: of those that are trained.
  """

  params: Any
  opt_state: Any

  def trained(self) -> TrainState:
    """What a checkpoint has to hold: without what stays as it is."""
    return self._replace(params=lora.split(self.params)[0])


@flax.struct.dataclass
class UpdateMetrics:
  """Metrics of an optimizer step."""

  grad_norm: Array = metric("mean", "1", "global gradient norm, unclipped")
  learning_rate: Array = metric("mean", "1", "learning rate of the step")


class UpdateFunctions(NamedTuple):
  """The pieces of an optimizer step, as pure functions.

  Attributes:
    init: params -> TrainState.
    zeros: params -> sums, (float32 gradient, float32 denominator).
    accumulate: (params, sums, micro-batch, reference) -> (sums, metrics);
      the reference is what is trained of the KL reference, or None.
    finish: (state, sums, step) -> (state, UpdateMetrics).
  """

  init: Callable[..., Any]
  zeros: Callable[..., Any]
  accumulate: Callable[..., Any]
  finish: Callable[..., Any]


def update_functions(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
) -> UpdateFunctions:
  """Makes them; `schedule` is only reported, the optimizer has its own."""

  def init(params):
    return TrainState(params, optimizer.init(lora.split(params)[0]))

  def zeros(params):
    zero = lambda x: jnp.zeros(x.shape, jnp.float32)  # noqa: E731
    return jax.tree.map(zero, lora.split(params)[0]), jnp.float32(0)

  def accumulate(params, sums, batch, reference):
    trained, frozen = lora.split(params)
    if reference is not None:
      reference = lora.join(reference, frozen)

    def numerator(trained):
      loss, metrics = loss_fn(lora.join(trained, frozen), batch, reference)
      return loss.numerator, (loss.denominator, metrics)

    grads, (denominator, metrics) = jax.grad(numerator, has_aux=True)(trained)
    grads = jax.tree.map(jnp.add, sums[0], grads)
    return (grads, sums[1] + denominator), metrics

  def finish(state, sums, step):
    trained, frozen = lora.split(state.params)
    grads, denominator = sums
    grads = jax.tree.map(lambda g: g / jnp.maximum(denominator, 1), grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    metrics = UpdateMetrics(
      grad_norm=optax.tree.norm(grads),
      learning_rate=jnp.asarray(schedule(step)),
    )
    params = lora.join(optax.apply_updates(trained, updates), frozen)
    return TrainState(params, opt_state), metrics

  return UpdateFunctions(init, zeros, accumulate, finish)


class Updater:
  """The two compiled programs of an optimizer step.

  `accumulate` adds one micro-batch's gradient; `finish` divides, clips and
  applies. State and sums are donated where they are consumed, and keep the
  sharding of the parameters.
  """

  def __init__(
    self,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    params: Any,
    mesh: jax.sharding.Mesh,
  ):
    """Prepares the programs; `params` may be abstract, with shardings."""
    shardings = jax.tree.map(lambda x: x.sharding, params)
    params = jax.eval_shape(lambda x: x, params)
    whole = sharding.replicated(mesh)
    of_trained, _ = lora.split(shardings)
    moments = optax.tree_map_params(
      optimizer,
      lambda _, param_sharding: param_sharding,
      jax.eval_shape(optimizer.init, lora.split(params)[0]),
      of_trained,
      transform_non_params=lambda _: whole,
    )
    state_shardings = TrainState(shardings, moments)
    sums_shardings = (of_trained, whole)
    functions = update_functions(loss_fn, optimizer, schedule)
    self.functions = functions
    self.shardings = state_shardings
    self._sums_shardings = sums_shardings
    self._abstract = jax.eval_shape(functions.init, params)
    self._init = jax.jit(
      functions.init, out_shardings=state_shardings, donate_argnums=0
    )
    self._zeros = jax.jit(
      lambda: functions.zeros(params), out_shardings=sums_shardings
    )
    self.accumulate = jax.jit(
      functions.accumulate,
      donate_argnums=1,
      out_shardings=(sums_shardings, whole),
    )
    self.finish = jax.jit(
      functions.finish,
      donate_argnums=0,
      out_shardings=(state_shardings, whole),
    )

  def init(self, params: Any) -> TrainState:
    """The state before the first step; `params` is consumed."""
    return self._init(params)

  def abstract_state(self) -> TrainState:
    """Shapes, dtypes and shardings of the state."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      self._abstract,
      self.shardings,
    )

  def abstract_sums(self) -> Any:
    """Likewise of the sums that `accumulate` adds to."""
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      jax.eval_shape(self._zeros),
      self._sums_shardings,
    )

  def update(
    self,
    state: TrainState,
    batches: Sequence[MicroBatch],
    step: int,
    reference: Any = None,
  ) -> tuple[TrainState, list[Any], UpdateMetrics]:
    """One optimizer step on all micro-batches together.

    Args:
      state: consumed.
      batches: at least one, all of one shape.
      step: number of optimizer steps done before in this stage.
      reference: what is trained of the KL reference, or None.

    Returns:
      (new state, metrics of each micro-batch, metrics of the step), all still
      being computed: reading a metric waits for it.
    """
    sums = self._zeros()
    metrics = []
    for batch in batches:
      sums, of_batch = self.accumulate(state.params, sums, batch, reference)
      metrics.append(of_batch)
    state, of_step = self.finish(state, sums, jnp.int32(step))
    return state, metrics, of_step


def compiled_count(*jitted: Callable) -> int:
  """How many programs these jitted functions hold; constant after warm-up."""
  return sum(function._cache_size() for function in jitted)
