# SPDX-License-Identifier: Apache-2.0
"""One update step, as two compiled programs.

A batch is any number of micro-batches of one shape. Each micro-batch adds the
gradient of its loss numerator, and the update step divides by the summed
denominators, so that the result does not depend on how the batch was cut. Two
programs are compiled, for any number of micro-batches.

Trained parameters that are not stored in float32 have a float32 copy in the
optimizer state, which takes the steps (optim.with_master).

If the parameters contain adapters, only adapters are trained (models/lora.py);
all other parameters pass through an update step unchanged, in the same
buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from srl_jax import sharding
from srl_jax.models import lora
from srl_jax.reductions import metric
from srl_jax.sharding import abstract
from srl_jax.types import Array
from srl_jax.update import optim
from srl_jax.update.batch import LossFn, MicroBatch


class TrainState(NamedTuple):
  """The state that an update step takes and returns.

  Attributes:
    trained: the trained parameters: adapters if there are any, else all.
    frozen: all other parameters.
    opt_state: optimizer state of the trained parameters.
  """

  trained: Any
  frozen: Any
  opt_state: Any

  @property
  def params(self) -> Any:
    """All parameters, in the form that the model takes."""
    return lora.join(self.trained, self.frozen)

  def to_save(self) -> dict[str, Any]:
    """Returns what a checkpoint must hold: all that an update step changes."""
    return {"params": self.trained, "opt_state": self.opt_state}


@flax.struct.dataclass
class UpdateMetrics:
  """Metrics of an update step."""

  grad_norm: Array = metric("mean", "1", "global gradient norm, unclipped")
  learning_rate: Array = metric("mean", "1", "learning rate of the step")
  skipped_updates: Array = metric(
    "sum",
    "update steps",
    "steps with nothing to train on, which change nothing",
  )


class UpdateFunctions(NamedTuple):
  """The pieces of an update step, as pure functions.

  Attributes:
    init: params -> TrainState.
    zeros: trained -> sums, (float32 gradient, float32 denominator).
    accumulate: (trained, frozen, sums, micro-batch, reference) -> (sums,
      metrics); `reference` is the trained part of the KL reference, or None.
    finish: (state, sums, update step) -> (state, UpdateMetrics).
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
  """Makes the pieces of an update step.

  `schedule` is only reported as a metric; the optimizer has its own.
  """

  def init(params):
    trained, frozen = lora.split(params)
    return TrainState(trained, frozen, optimizer.init(trained))

  def zeros(trained):
    zero = lambda x: jnp.zeros(x.shape, jnp.float32)  # noqa: E731
    return jax.tree.map(zero, trained), jnp.float32(0)

  @jax.named_scope("accumulate")
  def accumulate(trained, frozen, sums, batch, reference):
    if reference is not None:
      reference = lora.join(reference, frozen)

    def numerator(trained):
      loss, metrics = loss_fn(lora.join(trained, frozen), batch, reference)
      return loss.numerator, (loss.denominator, metrics)

    grads, (denominator, metrics) = jax.grad(numerator, has_aux=True)(trained)
    grads = jax.tree.map(jnp.add, sums[0], grads)
    return (grads, sums[1] + denominator), metrics

  @jax.named_scope("finish")
  def finish(state, sums, update_step):
    grads, denominator = sums
    is_empty = denominator == 0
    grads = jax.tree.map(lambda g: g / jnp.maximum(denominator, 1), grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trained)
    metrics = UpdateMetrics(
      grad_norm=optax.tree.norm(grads),
      learning_rate=jnp.asarray(schedule(update_step)),
      skipped_updates=is_empty.astype(jnp.int32),
    )
    trained = optax.apply_updates(state.trained, updates)
    # Momentum and weight decay would move parameters even without a gradient.
    trained, opt_state = _unless(
      is_empty, (trained, opt_state), (state.trained, state.opt_state)
    )
    return TrainState(trained, state.frozen, opt_state), metrics

  return UpdateFunctions(init, zeros, accumulate, finish)


def _unless(is_empty: Array, new: Any, old: Any) -> Any:
  """`old` in an empty step, but the schedule still counts the step."""
  is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)  # noqa: E731
  return jax.tree.map(
    lambda n, o: n if is_schedule(n) else jnp.where(is_empty, o, n),
    new,
    old,
    is_leaf=is_schedule,
  )


class Updater:
  """The two compiled programs of an update step.

  `accumulate` adds the gradient of one micro-batch; `finish` divides, clips
  and applies the sums. State and sums are donated where they are consumed, and
  keep the sharding of the parameters.
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
    trained, frozen = lora.split(jax.tree.map(lambda x: x.sharding, params))
    params = jax.eval_shape(lambda x: x, params)
    abstract_trained, _ = lora.split(params)
    whole = sharding.replicated(mesh)
    if any(x.dtype != jnp.float32 for x in jax.tree.leaves(abstract_trained)):
      optimizer = optim.with_master(optimizer)
    opt_state = jax.eval_shape(optimizer.init, abstract_trained)
    opt_state = _like_params(opt_state, abstract_trained, trained, whole)
    self.functions = update_functions(loss_fn, optimizer, schedule)
    self.shardings = TrainState(trained, frozen, opt_state)
    self._sums_shardings = (trained, whole)
    self._abstract = jax.eval_shape(self.functions.init, params)
    # The state before the first update step; consumes the parameters.
    self.init = jax.jit(
      self.functions.init, out_shardings=self.shardings, donate_argnums=0
    )
    self.zeros = jax.jit(
      lambda: self.functions.zeros(abstract_trained),
      out_shardings=self._sums_shardings,
    )
    self.accumulate = jax.jit(
      self.functions.accumulate,
      donate_argnums=2,
      out_shardings=(self._sums_shardings, whole),
    )
    self.finish = jax.jit(
      self.functions.finish,
      donate_argnums=0,
      out_shardings=(self.shardings, whole),
    )

  def abstract_state(self) -> TrainState:
    """Returns the shapes, dtypes and shardings of the state."""
    return abstract.with_shardings(self._abstract, self.shardings)

  def abstract_sums(self) -> Any:
    """Returns the shapes, dtypes and shardings of the gradient sums."""
    return abstract.with_shardings(
      jax.eval_shape(self.zeros), self._sums_shardings
    )

  def update(
    self,
    state: TrainState,
    batches: Iterable[MicroBatch],
    update_step: int,
    reference: Any = None,
  ) -> tuple[TrainState, list[Any], UpdateMetrics]:
    """Takes one update step on all micro-batches together.

    Args:
      state: the state before the update step; it is consumed.
      batches: micro-batches of one shape; without any the state stays as it
        is, and the schedule counts the step.
      update_step: number of earlier update steps of this stage.
      reference: the trained part of the KL reference, or None.

    Returns:
      (new state, metrics of each micro-batch, metrics of the update step).
      All are still being computed: reading a metric waits for it.
    """
    sums = self.zeros()
    metrics = []
    for batch in batches:
      sums, of_batch = self.accumulate(
        state.trained, state.frozen, sums, batch, reference
      )
      metrics.append(of_batch)
    state, of_update = self.finish(state, sums, jnp.int32(update_step))
    return state, metrics, of_update


def _like_params(
  opt_state: Any, params: Any, shardings: Any, whole: Any
) -> Any:
  """Shardings of an optimizer's state: those of the parameters, else `whole`.

  An array belongs to the parameter whose path ends its own. Optimizers also
  keep less of one, such as sums of rows (Adafactor), or only of some.
  """
  paths, _ = jax.tree_util.tree_flatten_with_path(params)
  known = {
    path: (x.shape, split)
    for (path, x), split in zip(paths, jax.tree.leaves(shardings), strict=True)
  }

  def of_array(path, x):
    ends = (path[i:] for i in range(len(path)))
    shape, split = next((known[e] for e in ends if e in known), (None, whole))
    return split if x.shape == shape else whole

  return jax.tree_util.tree_map_with_path(of_array, opt_state)


def compiled_count(*jitted: Callable) -> int:
  """Counts the programs of jitted functions; constant after warm-up.

  0 with a JAX that does not say.
  """
  return sum(getattr(x, "_cache_size", lambda: 0)() for x in jitted)
