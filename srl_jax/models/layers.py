# SPDX-License-Identifier: Apache-2.0
"""The layers of the transformer. Every parameter names its logical axes.

Axes: N trunks, R branches, T positions of this stream, D model width, H
key/value heads, M query heads per key/value head, E head width, F mlp width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from srl_jax.ops import kernels
from srl_jax.ops.attention import Source, attend, attend_causal, laid_out
from srl_jax.ops.rope import rotate
from srl_jax.sharding import ShardingRules, device_kind, gathered, per_device


class Module(nn.Module):
  """Base: declares parameters with shape, logical axes and initialiser."""

  param_dtype: str
  dtype: str
  rules: ShardingRules

  def weight(
    self,
    name: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    init: Callable | None = None,
    fan_in: int = 1,
  ) -> jax.Array:
    """Declares a parameter and returns it in the compute dtype.

    Without `init` it is a matrix that keeps the scale of its input: the
    standard deviation is 1 / sqrt(fan-in), which at widths of some thousands
    is the customary 0.02. At a width of 100, 0.02 leaves attention flat for
    thousands of steps.
    """
    if init is None:
      init = nn.initializers.normal(fan_in**-0.5)
    boxed = nn.with_logical_partitioning(init, tuple(axes))
    value = self.param(name, boxed, tuple(shape), jnp.dtype(self.param_dtype))
    return gathered(jnp.asarray(value, self.dtype), axes, self.rules)


class RMSNorm(Module):
  """Root mean square norm (Zhang and Sennrich 2019), in float32."""

  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    # The norm scales are replicated: D values cost less than gathering them.
    scale_D = self.weight("scale", (width,), (None,), nn.initializers.ones)
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(x32**2, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(mean_square + self.epsilon)
    return (x32 * scale_D.astype(jnp.float32)).astype(x.dtype)


class Cache(NamedTuple):
  """What a branch has run so far, and where its next tokens go.

  B is N * R here.

  Attributes:
    k_BHEC: keys; `column` onwards is overwritten.
    v_BHCE: values.
    position_NRC: of the tokens, those about to be written included.
    column: first entry to write.
  """

  k_BHEC: jax.Array
  v_BHCE: jax.Array
  position_NRC: jax.Array
  column: jax.Array


class Attention(Module):
  """Grouped-query attention to the given sources and to the stream itself."""

  heads: int
  kv_heads: int
  head_width: int
  rope_theta: float
  use_bias: bool
  max_logits: int
  kernel: str

  @nn.compact
  def __call__(
    self,
    x_NRTD: jax.Array,
    position_NRT: jax.Array,
    sources: Sequence[Source],
    cache: Cache | None,
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (output [N, R, T, D], keys [N * R, H, E, T], values).

    Without other sources the positions must rise along T. With a cache the
    keys and values are all of the cache, these tokens' own written into it.
    What is read is what was written, or XLA would copy the cache at every
    turn of a decoding loop to keep the old one.
    """
    groups = self.heads // self.kv_heads
    q_NRTHME = self._project("q", x_NRTD, (self.kv_heads, groups))
    k_NRTHE = self._project("k", x_NRTD, (self.kv_heads,))
    v_NRTHE = self._project("v", x_NRTD, (self.kv_heads,))
    q_NRTHME = rotate(q_NRTHME, position_NRT, self.rope_theta)
    k_NRTHE = rotate(k_NRTHE, position_NRT, self.rope_theta)
    own = laid_out(k_NRTHE, v_NRTHE, position_NRT, position_NRT)
    if cache is not None:
      write = jax.lax.dynamic_update_slice_in_dim
      own = Source(
        write(cache.k_BHEC, own.k, cache.column, axis=3),
        write(cache.v_BHCE, own.v, cache.column, axis=2),
        cache.position_NRC,
        position_NRT,
      )
    if sources:
      out_NRTHME = attend(q_NRTHME, [*sources, own], max_logits=self.max_logits)
    else:
      alone = self._attend_alone()
      out_NRTHME = alone(q_NRTHME, k_NRTHE, v_NRTHE, position_NRT)
    width = x_NRTD.shape[-1]
    out_HMED = self.weight(
      "o",
      (self.kv_heads, groups, self.head_width, width),
      ("kv_heads", None, "head_width", "embed"),
      fan_in=self.heads * self.head_width,
    )
    out_NRTD = jnp.einsum("NRTHME,HMED->NRTD", out_NRTHME, out_HMED)
    return out_NRTD, own.k, own.v

  def _attend_alone(self):
    """`attend_causal` with the kernel of the platform."""
    kernel = kernels.choose(
      self.kernel,
      device=device_kind(),
      dtype=self.dtype,
      head_width=self.head_width,
    )
    function = functools.partial(
      attend_causal, kernel=kernel, max_logits=self.max_logits
    )
    if kernel is None:
      return function
    q_axes = ("batch", None, None, "kv_heads", None, None)
    axes = (q_axes, q_axes[:-1], q_axes[:-1], q_axes[:3])
    return per_device(function, axes, q_axes, self.rules)

  def _project(self, name, x_NRTD, heads):
    width = x_NRTD.shape[-1]
    shape = (*heads, self.head_width)
    axes = ("kv_heads", *(None for _ in heads[1:]), "head_width")
    letters = "HME" if len(heads) == 2 else "HE"
    kernel = self.weight(name, (width, *shape), ("embed", *axes), fan_in=width)
    out = jnp.einsum(f"NRTD,D{letters}->NRT{letters}", x_NRTD, kernel)
    if self.use_bias:
      bias = self.weight(f"{name}_bias", shape, axes, nn.initializers.zeros)
      out = out + bias
    return out


class GatedMLP(Module):
  """SwiGLU feed-forward layer (Shazeer 2020)."""

  hidden: int

  @nn.compact
  def __call__(self, x_NRTD: jax.Array) -> jax.Array:
    width = x_NRTD.shape[-1]
    shape, axes = (width, self.hidden), ("embed", "mlp")
    gate_DF = self.weight("gate", shape, axes, fan_in=width)
    up_DF = self.weight("up", shape, axes, fan_in=width)
    down_FD = self.weight("down", shape[::-1], axes[::-1], fan_in=self.hidden)
    gate_NRTF = jnp.einsum("NRTD,DF->NRTF", x_NRTD, gate_DF)
    up_NRTF = jnp.einsum("NRTD,DF->NRTF", x_NRTD, up_DF)
    return jnp.einsum("NRTF,FD->NRTD", nn.silu(gate_NRTF) * up_NRTF, down_FD)
