# SPDX-License-Identifier: Apache-2.0
"""Decoder-only transformer of the Qwen2 shape, on trunks and branches.

One set of weights, two passes. `trunk` runs the trunk tokens once and returns
their keys and values. `branch` runs branch tokens that attend to those and to
their own branch: with all tokens at once in the update, or token by token
with a cache in the sampler. The same code computes both, so the two agree.

Positions decide everything: -1 marks padding, wherever it lies.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from srl_jax.models import layers
from srl_jax.ops import attention
from srl_jax.sharding import ShardingRules, constrain, gathered, lookup

_REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and numerics of the model; by default the embedded student's.

  Attributes:
    vocab_size: rows of the embedding; 0 takes the tokenizer's.
    d_model: residual width.
    n_layers: transformer blocks.
    n_heads: query heads.
    n_kv_heads: key/value heads; divides n_heads.
    head_width: width of one head; even.
    d_mlp: hidden width of the feed-forward layer.
    rope_theta: base of the rotary embedding.
    norm_epsilon: added to the mean square in the norms.
    qkv_bias: biases on query, key and value projections (Qwen2).
    tie_embeddings: the output head is the embedding.
    max_positions: longest context that the model was made for, in tokens.
    dtype: of activations and matrix products.
    param_dtype: of the stored parameters.
    attention_logits: how many attention logits per trunk are held at a time;
      0 for all. Bounds the memory of long trunks; the result is the same.
    remat: what the backward pass recomputes: "none", "full" (every block) or
      "dots" (all but the matrix products).
  """

  vocab_size: int = 0
  d_model: int = 96
  n_layers: int = 3
  n_heads: int = 4
  n_kv_heads: int = 2
  head_width: int = 24
  d_mlp: int = 192
  rope_theta: float = 10_000.0
  norm_epsilon: float = 1e-6
  qkv_bias: bool = True
  tie_embeddings: bool = True
  max_positions: int = 512
  dtype: Literal["float32", "bfloat16"] = "float32"
  param_dtype: Literal["float32", "bfloat16"] = "float32"
  attention_logits: int = 1 << 27
  remat: Literal["none", "full", "dots"] = "full"

  def __post_init__(self):
    if self.n_heads % self.n_kv_heads:
      raise ValueError(
        f"n_heads={self.n_heads} is not a multiple of "
        f"n_kv_heads={self.n_kv_heads}; set c.model.n_kv_heads to a divisor"
      )
    if self.head_width % 2:
      raise ValueError(
        f"head_width={self.head_width} is odd; rotary embedding needs pairs: "
        "set c.model.head_width to an even number"
      )


class KeyValues(NamedTuple):
  """Keys and values of all layers, with the positions of the tokens.

  Of a trunk: k and v are [L, N, S, H, E], position [N, S]. Of branches:
  [L, N, R, C, H, E] and [N, R, C]. Keys are already rotated; position -1
  marks an entry that holds no token.
  """

  k: jax.Array
  v: jax.Array
  position: jax.Array

  def write(self, new: KeyValues, slot: jax.Array) -> KeyValues:
    """Writes the entries of branch tokens at branch position `slot`."""
    update = jax.lax.dynamic_update_slice_in_dim
    return KeyValues(
      update(self.k, new.k, slot, axis=3),
      update(self.v, new.v, slot, axis=3),
      update(self.position, new.position, slot, axis=2),
    )


class _Block(nn.Module):
  config: ModelConfig
  rules: ShardingRules

  @nn.compact
  def __call__(self, x_NRTD, position_NRT, views, trunk_kv, cache_kv):
    c = self.config
    dtypes = {
      "dtype": c.dtype,
      "param_dtype": c.param_dtype,
      "rules": self.rules,
    }
    norm = {**dtypes, "epsilon": c.norm_epsilon}
    attend = layers.Attention(
      **dtypes,
      name="attention",
      heads=c.n_heads,
      kv_heads=c.n_kv_heads,
      head_width=c.head_width,
      rope_theta=c.rope_theta,
      use_bias=c.qkv_bias,
      max_logits=c.attention_logits,
    )
    sources = [
      attention.Source(*kv, *view)
      for kv, view in zip((trunk_kv, cache_kv), views, strict=True)
      if kv is not None
    ]
    h_NRTD = layers.RMSNorm(**norm, name="attention_norm")(x_NRTD)
    h_NRTD, k, v = attend(h_NRTD, position_NRT, sources)
    x_NRTD = x_NRTD + h_NRTD
    h_NRTD = layers.RMSNorm(**norm, name="mlp_norm")(x_NRTD)
    h_NRTD = layers.GatedMLP(**dtypes, name="mlp", hidden=c.d_mlp)(h_NRTD)
    x_NRTD = constrain(x_NRTD + h_NRTD, ("batch", None, None, None), self.rules)
    return x_NRTD, (k, v)


class Transformer(nn.Module):
  """The module behind `LanguageModel`; see there for the methods."""

  config: ModelConfig
  rules: ShardingRules

  def setup(self):
    c = self.config
    block = _Block
    if c.remat != "none":
      block = nn.remat(block, prevent_cse=False, policy=_REMAT[c.remat])
    self.blocks = nn.scan(
      block,
      length=c.n_layers,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, nn.broadcast, 0, 0),
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(c, self.rules)
    normal = nn.initializers.normal(c.d_model**-0.5)
    self.embedding_VD = self._table("embedding", ("vocab", "embed"), normal)
    if not c.tie_embeddings:
      self.head_VD = self._table("head", ("vocab", "embed"), normal)
    self.final_norm = layers.RMSNorm(
      dtype=c.dtype,
      param_dtype=c.param_dtype,
      rules=self.rules,
      epsilon=c.norm_epsilon,
    )

  def _table(self, name, axes, init):
    c = self.config
    return self.param(
      name,
      nn.with_logical_partitioning(init, axes),
      (c.vocab_size, c.d_model),
      jnp.dtype(c.param_dtype),
    )

  def __call__(self, tokens_NS):
    """Touches every parameter once; only for initialisation."""
    n, s = tokens_NS.shape
    position_NS = jnp.broadcast_to(jnp.arange(s), (n, s))
    x_NRTD, _ = self._run(tokens_NS[:, None], position_NS[:, None])
    return self.logits(x_NRTD)

  def trunk(self, tokens_NS, position_NS):
    _, (k, v) = self._run(tokens_NS[:, None], position_NS[:, None])
    return KeyValues(k[:, :, 0], v[:, :, 0], position_NS)

  def branch(self, tokens_NRT, position_NRT, branch_at_NR, trunk, cache):
    x_NRTD, (k, v) = self._run(
      tokens_NRT, position_NRT, trunk, branch_at_NR, cache
    )
    return x_NRTD, KeyValues(k, v, position_NRT)

  def _run(
    self,
    tokens,
    position,
    trunk=None,
    branch_at=None,
    cache=None,
  ):
    # Looked up in the dtype of the parameters, so that the gradients of a
    # frequent token are not added up in bfloat16; and where the table lies,
    # so that they are never a whole table.
    x_NRTD = lookup(self.embedding_VD, tokens, self.rules)
    x_NRTD = x_NRTD.astype(self.config.dtype)
    x_NRTD = constrain(x_NRTD, ("batch", None, None, None), self.rules)
    # Per source: positions of its keys, and how far each query may look.
    views = (
      trunk and (trunk.position, branch_at[..., None] - 1),
      cache and (cache.position, position),
    )
    x_NRTD, kv = self.blocks(
      x_NRTD,
      position,
      views,
      trunk and (trunk.k, trunk.v),
      cache and (cache.k, cache.v),
    )
    return self.final_norm(x_NRTD), kv

  def logits(self, hidden_D):
    table = self.embedding_VD if self.config.tie_embeddings else self.head_VD
    table = jnp.asarray(table, self.config.dtype)
    return jnp.einsum(
      "...D,VD->...V",
      hidden_D,
      gathered(table, ("vocab", "embed"), self.rules),
      preferred_element_type=jnp.float32,
    )


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """Pure functions of (params, arrays), which is all that other code sees.

  Anything with the methods `trunk`, `branch`, `logits` and `init_cache` can
  stand in for it (see `srl_jax.testing.ScriptedModel`).
  """

  config: ModelConfig
  rules: ShardingRules = ShardingRules()

  @property
  def _module(self) -> Transformer:
    return Transformer(self.config, self.rules)

  def init(self, key: jax.Array) -> Any:
    """Random parameters, boxed with their logical axis names."""
    return self._module.init(key, jnp.zeros((1, 2), jnp.int32))["params"]

  def lay_out(self, params: Any) -> Any:
    """Parameters in the compute dtype, split as these rules say.

    For a program that reads them many times. The numbers computed from them
    are the same: the layers round parameters to that dtype anyway.
    """
    boxed = jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def of_leaf(box, x):
      return constrain(x.astype(self.config.dtype), box.names, self.rules)

    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree.map(of_leaf, boxed, params, is_leaf=is_box)

  def trunk(
    self, params: Any, tokens_NS: jax.Array, position_NS: jax.Array
  ) -> KeyValues:
    """Keys and values of the trunks, computed once for all branches."""
    return self._module.apply(
      {"params": params}, tokens_NS, position_NS, method="trunk"
    )

  def branch(
    self,
    params: Any,
    tokens_NRT: jax.Array,
    position_NRT: jax.Array,
    branch_at_NR: jax.Array,
    trunk: KeyValues,
    cache: KeyValues | None = None,
  ) -> tuple[jax.Array, KeyValues]:
    """Hidden states [N, R, T, D] of branch tokens, and their keys and values.

    A token sees the trunk before `branch_at_NR`, the cached tokens of its
    branch and the given ones, each up to its own position.
    """
    return self._module.apply(
      {"params": params},
      tokens_NRT,
      position_NRT,
      branch_at_NR,
      trunk,
      cache,
      method="branch",
    )

  def logits(self, params: Any, hidden_D: jax.Array) -> jax.Array:
    """Float32 logits [..., V] of hidden states [..., D]."""
    return self._module.apply({"params": params}, hidden_D, method="logits")

  def init_cache(self, trunks: int, branches: int, width: int) -> KeyValues:
    """An empty branch cache of `width` positions."""
    return init_cache(self.config, trunks, branches, width, self.rules)


def init_cache(
  config: ModelConfig,
  trunks: int,
  branches: int,
  width: int,
  rules: ShardingRules,
) -> KeyValues:
  """An empty cache: zeros, every position -1."""
  shape = (config.n_layers, trunks, branches, width)
  axes = ("layers", "batch", None, None, "kv_heads", None)
  zeros = jnp.zeros(
    (*shape, config.n_kv_heads, config.head_width), jnp.dtype(config.dtype)
  )
  zeros = constrain(zeros, axes, rules)
  position_NRC = jnp.full(shape[1:], -1, jnp.int32)
  return KeyValues(zeros, zeros, position_NRC)
