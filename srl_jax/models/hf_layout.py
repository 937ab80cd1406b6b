# SPDX-License-Identifier: Apache-2.0
"""Where each parameter stands in a Hugging Face checkpoint, and how.

A checkpoint holds a matrix as [outputs, inputs], with heads and head widths
flattened. Ours are [inputs.., outputs..] and stacked over layers. This module
reads no files.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import PartitionSpec

from srl_jax.models.config import ModelConfig
from srl_jax.models.transformer import LanguageModel

_STACKED = "blocks/"
_LAYER = "model.layers.{}."
# Name in the checkpoint, and number of axes that are summed over.
_MATRICES = {
  "attention/q": ("self_attn.q_proj.weight", 1),
  "attention/k": ("self_attn.k_proj.weight", 1),
  "attention/v": ("self_attn.v_proj.weight", 1),
  "attention/o": ("self_attn.o_proj.weight", 3),
  "mlp/gate": ("mlp.gate_proj.weight", 1),
  "mlp/up": ("mlp.up_proj.weight", 1),
  "mlp/down": ("mlp.down_proj.weight", 1),
}
_VECTORS = {
  "attention/q_bias": "self_attn.q_proj.bias",
  "attention/k_bias": "self_attn.k_proj.bias",
  "attention/v_bias": "self_attn.v_proj.bias",
  "attention/q_norm/scale": "self_attn.q_norm.weight",
  "attention/k_norm/scale": "self_attn.k_norm.weight",
  "attention_norm/scale": "input_layernorm.weight",
  "mlp_norm/scale": "post_attention_layernorm.weight",
}
# Models with norms on both sides give these names another meaning.
_SANDWICH = {
  "attention_out_norm/scale": "post_attention_layernorm.weight",
  "mlp_norm/scale": "pre_feedforward_layernorm.weight",
  "mlp_out_norm/scale": "post_feedforward_layernorm.weight",
}
_WHOLE = {
  "embedding": ("model.embed_tokens.weight", "table"),
  "head": ("lm_head.weight", "table"),
  "final_norm/scale": ("model.norm.weight", "vector"),
}


class Place(NamedTuple):
  """A parameter's place in a checkpoint.

  Attributes:
    name: name of the tensor; "{}" stands for the number of a layer.
    kind: how the tensor is stored: "table" as it is, "vector" flattened,
      "matrix" transposed and flattened.
    shape: shape of our parameter, without the axis of layers.
    inputs: number of leading axes that a matrix is summed over.
    layers: number of tensors that our parameter stacks; 0 for a single one.
  """

  name: str
  kind: Literal["table", "vector", "matrix"]
  shape: tuple[int, ...]
  inputs: int
  layers: int

  @property
  def names(self) -> list[str]:
    """Names of all its tensors, in order of the layers."""
    if not self.layers:
      return [self.name]
    return [self.name.format(layer) for layer in range(self.layers)]

  @property
  def stored_shape(self) -> tuple[int, ...]:
    """Shape of each tensor in the checkpoint."""
    if self.kind == "table":
      return self.shape
    if self.kind == "vector":
      return (math.prod(self.shape),)
    inputs, outputs = self.shape[: self.inputs], self.shape[self.inputs :]
    return (math.prod(outputs), math.prod(inputs))

  def stored_spec(self, spec: PartitionSpec) -> PartitionSpec:
    """How stacked tensors are split where `from_stored` moves no number.

    Args:
      spec: how our parameter is split, its layers included.
    """
    layers = spec[:1] if self.layers else ()
    axes = spec[len(layers) :]
    if self.kind == "table":
      return spec
    # Of flattened axes, the tensor is cut along the first.
    firsts = (self.inputs, 0) if self.kind == "matrix" else (0,)
    return PartitionSpec(*layers, *(axes[x] for x in firsts))

  def from_stored(self, stored: jax.Array) -> jax.Array:
    """Returns the parameter whose tensors these are, stacked over layers."""
    if self.kind == "matrix":
      stored = jnp.swapaxes(stored, -1, -2)
    return stored.reshape(*stored.shape[: bool(self.layers)], *self.shape)

  def write(self, array: np.ndarray) -> np.ndarray:
    """Returns a layer's whole parameter in the checkpoint's layout."""
    if self.kind != "matrix":
      return array.reshape(self.stored_shape)
    return array.reshape(self.stored_shape[::-1]).T


def places(config: ModelConfig) -> dict[str, Place]:
  """Returns the place of each parameter by its path, without adapters."""
  model = LanguageModel(config)
  abstract = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  boxed = traverse_util.flatten_dict(abstract, sep="/")
  vectors = _VECTORS | (_SANDWICH if config.sandwich_norms else {})
  found = {}
  for path, box in boxed.items():
    shape = box.value.shape
    if path in _WHOLE:
      name, kind = _WHOLE[path]
      found[path] = Place(name, kind, shape, 0, 0)
      continue
    name = path.removeprefix(_STACKED)
    layers, *shape = shape
    if name in vectors:
      stored = _LAYER + vectors[name]
      found[path] = Place(stored, "vector", tuple(shape), 0, layers)
    elif name in _MATRICES:
      stored, inputs = _MATRICES[name]
      stored = _LAYER + stored
      found[path] = Place(stored, "matrix", tuple(shape), inputs, layers)
  return found
