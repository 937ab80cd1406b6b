# SPDX-License-Identifier: Apache-2.0
"""The rotary embedding of a layer: its frequencies, and how they are applied.

ops/rope.py has the functions of arrays; this chooses among them by the config,
the layer and the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax.models.config import ModelConfig
from srl_jax.ops import rope
from srl_jax.sharding import device_kind


def of_layer(
  c: ModelConfig,
  is_local: jax.Array | bool | None,
  position_NRT: jax.Array,
  room: int,
) -> Callable[[jax.Array], jax.Array]:
  """Returns the function that turns the queries or the keys of a layer.

  Args:
    c: the model.
    is_local: whether the layer has a sliding window; None in a model without.
    position_NRT: positions of the tokens; -1 marks padding.
    room: a bound that all positions are below; 0 if none is known, as
      everywhere but in decoding.
  """
  frequency_E = frequencies(c, is_local)
  if not room or device_kind() != "cpu":
    rotate = rope.rotate
  else:
    rotate = functools.partial(rope.rotate_by_table, length=room)
  return functools.partial(
    rotate, position_NRT=position_NRT, frequency_E=frequency_E
  )


def frequencies(
  c: ModelConfig, is_local: jax.Array | bool | None
) -> np.ndarray | jax.Array:
  """Returns the angles per position in a layer [E/2].

  They are a numpy array, known when compiling, unless `is_local` is traced.
  """
  frequency_E = rope.frequencies(c.head_width, c.rope_theta)
  scaling = c.rope_scaling
  if scaling.kind == "linear":
    frequency_E = frequency_E / scaling.factor
  elif scaling.kind == "llama3":
    frequency_E = rope.stretch_long_waves(
      frequency_E,
      factor=scaling.factor,
      low_frequency_factor=scaling.low_frequency_factor,
      high_frequency_factor=scaling.high_frequency_factor,
      original_positions=scaling.original_positions,
    )
  if is_local is None or not c.rope_local_theta:
    return frequency_E
  local_E = rope.frequencies(c.head_width, c.rope_local_theta)
  if isinstance(is_local, bool):
    return local_E if is_local else frequency_E
  return jnp.where(is_local, local_E, frequency_E)
