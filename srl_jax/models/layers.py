# SPDX-License-Identifier: Apache-2.0
"""The layers of the transformer. Every parameter names its logical axes.

Axes: N trunks, R branches, T positions of this stream, D model width, H
key/value heads, M query heads per key/value head, E head width, F mlp width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from srl_jax.models import lora, plans, rotation
from srl_jax.models.config import ModelConfig
from srl_jax.models.plans import DecodePlans, RowPlans
from srl_jax.ops import (
  decode_attention,
  decode_plan,
  kernels,
  tree_attention,
)
from srl_jax.ops.attention import (
  Scoring,
  Source,
  attend,
  attend_causal,
  source_of,
)
from srl_jax.sharding import (
  ShardingRules,
  device_kind,
  gather_weight,
  per_device,
  row_split,
)


class Module(nn.Module):
  """Base: declares parameters with shape, logical axes and initialiser."""

  config: ModelConfig
  rules: ShardingRules

  def weight(
    self,
    name: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    init: Callable | None = None,
    fan_in: int = 1,
    param_dtype: str = "",
  ) -> jax.Array:
    """Declares a parameter and returns it in the compute dtype.

    Without `init` the parameter is a matrix that keeps the scale of its input:
    its standard deviation is 1 / sqrt(fan-in). At widths of some thousands
    that is the customary 0.02; at a width of 100, 0.02 would leave attention
    flat for thousands of update steps.
    """
    if init is None:
      init = nn.initializers.normal(fan_in**-0.5)
    boxed = nn.with_logical_partitioning(init, tuple(axes))
    dtype = jnp.dtype(param_dtype or self.config.param_dtype)
    value = self.param(name, boxed, tuple(shape), dtype)
    return gather_weight(
      jnp.asarray(value, self.config.dtype), axes, self.rules
    )

  def project(
    self,
    name: str,
    product: str,
    x: jax.Array,
    inputs: Sequence[tuple[int, str | None]],
    outputs: Sequence[tuple[int, str | None]],
  ) -> jax.Array:
    """Multiplies x by the matrix `name`, and by its adapter if it has one.

    Args:
      name: name of the matrix, one of those that LoraConfig lists.
      product: einsum of x and the matrix, such as "...D,DF->...F".
      x: the array to project.
      inputs: (length, logical axis) of the axes that are summed over, which
        come first in the matrix.
      outputs: (length, logical axis) of the other axes of the matrix.
    """
    fan_in = math.prod(length for length, _ in inputs)
    shape, axes = zip(*inputs, *outputs, strict=True)
    rows = x.shape[: x.ndim - len(inputs)]
    matrix = self.weight(name, shape, axes, fan_in=fan_in)
    # (Rows that are split cannot become one axis with the rows of others.)
    if device_kind() == "cpu" and row_split(self.rules)[1] == 1:
      # With several axes of rows XLA on CPU transposes x for the gradient:
      # forward and backward pass of the MLP then take 1.5 times as long. With
      # several axes to sum over it may transpose the matrix, at every iteration
      # of a decoding loop.
      x = x.reshape(-1, *x.shape[len(rows) :])
      out = x.reshape(-1, fan_in) @ matrix.reshape(fan_in, -1)
      out = out.reshape(-1, *(length for length, _ in outputs))
    else:
      out = jnp.einsum(product, x, matrix)
    adapters = self.config.lora
    out_shape = (*rows, *(length for length, _ in outputs))
    if not adapters.rank or name not in adapters.targets:
      return out.reshape(out_shape)

    def factor(suffix, axes_of, init):
      shape, axes = zip(*axes_of, strict=True)
      return self.weight(
        name + suffix, shape, axes, init, param_dtype="float32"
      )

    rank = (adapters.rank, None)
    a = factor(lora.A, (*inputs, rank), lora.init_a(fan_in))
    b = factor(lora.B, (rank, *outputs), nn.initializers.zeros)
    to_rank, from_rank = lora.products(product)
    added = jnp.einsum(from_rank, jnp.einsum(to_rank, x, a), b)
    return (out + added * lora.scale(adapters)).reshape(out_shape)


class RMSNorm(Module):
  """Root mean square norm (Zhang and Sennrich 2019), in float32."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c, width = self.config, x.shape[-1]
    init = nn.initializers.zeros if c.norm_plus_one else nn.initializers.ones
    # The norm scales are replicated: D values cost less than gathering them.
    scale_D = self.weight("scale", (width,), (None,), init)
    scale_D = scale_D.astype(jnp.float32) + c.norm_plus_one
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(x32**2, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(mean_square + c.norm_epsilon)
    return (x32 * scale_D).astype(x.dtype)


class CacheView(NamedTuple):
  """Where the next tokens of branches go in the cache.

  Attributes:
    position_NRC: positions of the tokens, with those about to be written.
    column: first entry to write.
  """

  position_NRC: jax.Array
  column: jax.Array


class Cache(NamedTuple):
  """Keys and values of branches so far, and where their next tokens go.

  B is N * R here.

  Attributes:
    k_BHEC: keys; entries from `view.column` on are overwritten.
    v_BHCE: values, likewise.
    view: positions, and where to write.
  """

  k_BHEC: jax.Array
  v_BHCE: jax.Array
  view: CacheView


class Lanes(NamedTuple):
  """Which tokens of a lane belong to the same branch.

  Attributes:
    cell_NRT: cell of the token; -1 where there is none.
    first_NRT: cell of the first token of its branch.
  """

  cell_NRT: jax.Array
  first_NRT: jax.Array


class Attention(Module):
  """Grouped-query attention to the given sources and to the stream itself."""

  @nn.compact
  def __call__(
    self,
    x_NRTD: jax.Array,
    position_NRT: jax.Array,
    sources: Sequence[Source],
    cache: Cache | None,
    layout: Lanes | RowPlans | DecodePlans | None,
    is_local: jax.Array | bool | None,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (output [N, R, T, D], keys [N * R, H, E, T], values).

    Without other sources the positions must rise along T. With a cache, the
    keys and values returned are the whole cache, with those of these tokens
    written into it. Attention reads this new cache: if it read the old one,
    XLA would copy the cache at every iteration of a decoding loop. In lanes,
    where positions begin again with each branch, a token sees its own branch by
    cells. In rows (R = 1), which hold trunks and branches, a plan says who sees
    whom, and in an iteration of decoding by a kernel, what is read. `is_local`
    is None in a model without sliding windows.
    """
    c = self.config
    kv_heads = (c.n_kv_heads, "kv_heads")
    groups = (c.n_heads // c.n_kv_heads, None)
    head = (c.head_width, "head_width")
    q_NRTHME = self._heads("q", "HME", x_NRTD, (kv_heads, groups, head))
    k_NRTHE = self._heads("k", "HE", x_NRTD, (kv_heads, head))
    v_NRTHE = self._heads("v", "HE", x_NRTD, (kv_heads, head))
    if c.qk_norm:
      q_NRTHME = RMSNorm(c, self.rules, name="q_norm")(q_NRTHME)
      k_NRTHE = RMSNorm(c, self.rules, name="k_norm")(k_NRTHE)
    rotate = rotation.of_layer(c, is_local, position_NRT, _room(cache, sources))
    q_NRTHME, k_NRTHE = rotate(q_NRTHME), rotate(k_NRTHE)
    own = source_of(k_NRTHE, v_NRTHE, position_NRT, position_NRT)
    if cache is not None:
      write = jax.lax.dynamic_update_slice_in_dim
      own = Source(
        write(cache.k_BHEC, own.k, cache.view.column, axis=3),
        write(cache.v_BHCE, own.v, cache.view.column, axis=2),
        cache.view.position_NRC,
        position_NRT,
      )
    if isinstance(layout, Lanes):
      own = own._replace(
        position=layout.cell_NRT,
        limit_NRT=layout.cell_NRT,
        first_NRT=layout.first_NRT,
      )
    if isinstance(layout, RowPlans):
      out_NRTHME = self._in_rows(layout, is_local, q_NRTHME, k_NRTHE, v_NRTHE)
    elif isinstance(layout, DecodePlans):
      [trunk] = sources
      out_NRTHME = self._in_slots(layout, is_local, q_NRTHME, trunk, own)
    elif sources:
      seen = [
        *(plans.of_trunk(c, s, position_NRT, is_local) for s in sources),
        plans.of_branch(c, own, is_local),
      ]
      # In an iteration, blocks would move every cache, which takes more than
      # logits.
      bound = 0 if cache is not None else c.attention_logits
      out_NRTHME = attend(q_NRTHME, seen, scoring=_scoring(c), max_logits=bound)
    else:
      out_NRTHME = self._alone(
        is_local, q_NRTHME, k_NRTHE, v_NRTHE, position_NRT
      )
    out_NRTD = self.project(
      "o",
      "...HME,HMED->...D",
      out_NRTHME,
      (kv_heads, groups, head),
      ((c.d_model, "embed"),),
    )
    return out_NRTD, own.k, own.v

  def _in_rows(self, rows, is_local, *qkv_NR):
    """Attention by the kernels, in a local or a global layer."""
    leaves, structure = jax.tree.flatten(plans.of_layer(rows, is_local))
    interpret = not device_kind().startswith("TPU")
    mesh_axes, shards = row_split(self.rules)

    def attend_rows(q_NTHME, k_NTHE, v_NTHE, *leaves):
      shard = 0
      if shards > 1:
        shard = jax.lax.axis_index(mesh_axes)
        k_NTHE, v_NTHE = (
          jax.lax.all_gather(x, mesh_axes, axis=1, tiled=True)
          for x in (k_NTHE, v_NTHE)
        )
      return tree_attention.attend(
        q_NTHME,
        k_NTHE,
        v_NTHE,
        structure.unflatten(leaves),
        scoring=_scoring(self.config),
        interpret=interpret,
        shards=shards,
        shard=shard,
      )

    q_axes = ("batch", "tokens", "kv_heads", None, None)
    # Labels are needed of all keys; lists of blocks are the devices' own.
    of_plan = [("batch", None, None)]
    of_plan += [("batch", "tokens", None)] * (len(leaves) - 1)
    axes = (q_axes, q_axes[:-1], q_axes[:-1], *of_plan)
    run = per_device(attend_rows, axes, q_axes, self.rules)
    # The row is the only branch of itself.
    qkv_N = (x.squeeze(1) for x in qkv_NR)
    return run(*qkv_N, *leaves)[:, None]

  def _in_slots(self, decode_plans, is_local, q_NBTHME, trunk, own):
    """Attention of an iteration of decoding by the kernel, T = 1."""

    def attend_slots(q_NBHME, *arrays):
      return decode_attention.attend(
        q_NBHME,
        *arrays[:4],
        decode_plan.Plan(*arrays[4:]),
        scoring=_scoring(self.config),
        interpret=not device_kind().startswith("TPU"),
      )

    q_axes = ("batch", None, "kv_heads", None, None)
    kv_axes = ("batch", "kv_heads", None, None)
    axes = (q_axes, *(kv_axes,) * 4, *decode_plan.AXES)
    run = per_device(attend_slots, axes, q_axes, self.rules)
    plan = plans.of_layer(decode_plans, is_local)
    out = run(q_NBTHME[:, :, 0], trunk.k, trunk.v, own.k, own.v, *plan)
    return out[:, :, None]

  def _alone(self, is_local, *arrays):
    """`attend_causal`, in a local or a global layer."""
    if not isinstance(is_local, jax.Array):
      return self._attend_alone(self.config.sliding_window * bool(is_local))(
        *arrays
      )
    # A kernel must know its window when it is compiled.
    return jax.lax.cond(
      is_local,
      self._attend_alone(self.config.sliding_window),
      self._attend_alone(0),
      *arrays,
    )

  def _attend_alone(self, window: int):
    """`attend_causal` with the kernel of the platform."""
    c = self.config
    kernel = kernels.choose(
      c.attention_kernel,
      device=device_kind(),
      dtype=c.dtype,
      head_width=c.head_width,
      scoring=_scoring(c),
      window=window,
    )
    function = functools.partial(
      attend_causal,
      kernel=kernel,
      scoring=_scoring(c),
      window=window,
      max_logits=c.attention_logits,
    )
    if kernel is None:
      return function
    q_axes = ("batch", None, None, "kv_heads", None, None)
    axes = (q_axes, q_axes[:-1], q_axes[:-1], q_axes[:3])
    return per_device(function, axes, q_axes, self.rules)

  def _heads(self, name, letters, x_NRTD, heads):
    product = f"...D,D{letters}->...{letters}"
    inputs = ((self.config.d_model, "embed"),)
    out = self.project(name, product, x_NRTD, inputs, heads)
    if self.config.qkv_bias:
      shape, axes = zip(*heads, strict=True)
      zeros = nn.initializers.zeros
      out = out + self.weight(f"{name}_bias", shape, axes, zeros)
    return out


def _scoring(c: ModelConfig) -> Scoring:
  return Scoring((c.query_scalar or c.head_width) ** -0.5, c.attention_softcap)


def _room(cache: Cache | None, sources: Sequence[Source]) -> int:
  """Positions that a branch can have while it is decoded; 0 without a cache."""
  if cache is None:
    return 0
  # It leaves its trunk at one of its tokens, and does not outgrow the cache.
  trunks = sum(source.position.shape[-1] for source in sources)
  return trunks + cache.view.position_NRC.shape[-1]


class GatedMLP(Module):
  """Gated feed-forward layer (Shazeer 2020): SwiGLU or GeGLU."""

  @nn.compact
  def __call__(self, x_NRTD: jax.Array) -> jax.Array:
    c = self.config
    width, hidden = ((c.d_model, "embed"),), ((c.d_mlp, "mlp"),)
    into, out_of = "...D,DF->...F", "...F,FD->...D"
    gate_NRTF = self.project("gate", into, x_NRTD, width, hidden)
    up_NRTF = self.project("up", into, x_NRTD, width, hidden)
    # The tanh approximation of gelu is JAX's default.
    activation = {"silu": nn.silu, "gelu": nn.gelu}[c.activation]
    return self.project(
      "down", out_of, activation(gate_NRTF) * up_NRTF, hidden, width
    )
