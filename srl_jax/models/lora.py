# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (Hu et al. 2021), as parameters beside their matrices.

The adapter of the matrix "q" is "q_lora_a" [inputs, rank] and "q_lora_b"
[rank, outputs]; the layers add `scale * (x A) B` to x W. If a tree of
parameters holds adapters, only these are trained. `split` separates them for
the update and the checkpoints; `merge` folds them into the matrices, for export
and for sampling in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from srl_jax.models.config import LoraConfig

# Suffixes of the name of a matrix.
A, B = "_lora_a", "_lora_b"


def scale(config: LoraConfig) -> float:
  """The factor of A B."""
  return config.alpha / config.rank


def init_a(fan_in: int) -> Callable:
  """PEFT's initialiser of A: uniform up to 1 / sqrt(fan-in)."""
  bound = fan_in**-0.5

  def init(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def products(product: str) -> tuple[str, str]:
  """Einsums of x with A, and of their product with B; "P" is the rank.

  Example: "...D,DF->...F" gives "...D,DP->...P" and "...P,PF->...F".
  """
  operands, out = product.split("->")
  x, matrix = operands.split(",")
  inputs = x.removeprefix("...")
  outputs = matrix.removeprefix(inputs)
  return f"{x},{inputs}P->...P", f"...P,P{outputs}->{out}"


def adapters(params: Any) -> Any:
  """The part of a parameter tree that is adapters; {} if there are none."""
  flat = traverse_util.flatten_dict(params)
  found = {path: x for path, x in flat.items() if is_adapter(path[-1])}
  return traverse_util.unflatten_dict(found)


def split(params: Any) -> tuple[Any, Any]:
  """(trained, frozen) parameters: if there are adapters, only they train."""
  trained = adapters(params)
  if not trained:
    return params, {}
  flat = traverse_util.flatten_dict(params)
  rest = {path: x for path, x in flat.items() if not is_adapter(path[-1])}
  return trained, traverse_util.unflatten_dict(rest)


def join(trained: Any, frozen: Any) -> Any:
  """Puts together what `split` took apart."""
  flatten = traverse_util.flatten_dict
  return traverse_util.unflatten_dict(flatten(trained) | flatten(frozen))


def trained(params: Any) -> Any:
  """What is trained of these parameters; see `split`."""
  return split(params)[0]


def with_trained(params: Any, trained: Any) -> Any:
  """The parameters with another value of what is trained of them."""
  return join(trained, split(params)[1])


def is_adapter(name: str) -> bool:
  """Whether a parameter of this name is part of an adapter."""
  return name.endswith((A, B))


def merge(params: Any, config: LoraConfig, dtype: Any) -> Any:
  """Returns the same model without adapters: W + scale * A B.

  The sum is made in float32 and rounded to `dtype`.
  """
  if not config.rank:
    return params
  flat = traverse_util.flatten_dict(params)
  merged = {}
  for path, x in flat.items():
    if is_adapter(path[-1]):
      continue
    a = flat.get((*path[:-1], path[-1] + A))
    if a is not None:
      b = flat[(*path[:-1], path[-1] + B)]
      x = _add(x, a, b, scale(config)).astype(dtype)
    merged[path] = x
  return traverse_util.unflatten_dict(merged)


def _add(w, a, b, factor):
  """W + factor * A B; any leading axis of layers is common to all three."""
  layers = a.ndim + b.ndim - 2 - w.ndim
  product = lambda a, b: jnp.tensordot(a, b, 1)  # noqa: E731
  for _ in range(layers):
    product = jax.vmap(product)
  delta = product(a.astype(jnp.float32), b.astype(jnp.float32))
  return w.astype(jnp.float32) + factor * delta
