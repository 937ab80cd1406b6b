# SPDX-License-Identifier: Apache-2.0
"""Attention kernels of the platforms, for a stream that sees only itself.

They serve the pass over the trunks, where the work grows as S^2. The kernels
hold one block of logits at a time, in the forward and in the backward pass,
skip what lies above the diagonal, and read the keys of a group of heads
without a copy per head. They mask by index where `attention.attend` masks by
position, so they need a stream in order: the positions of its tokens rise
along T. No token sees padding; padding itself gets finite numbers without a
meaning.

Branches do not use them. `attend` reads the trunk once for all R branches, in
one matrix product. With kernels, a softmax over two sources would have to be
combined from the log-sums of two kernels, and neither kernel passes gradients
through its log-sum.

Axes: N trunks, T positions, H key/value heads, M query heads per key/value
head, E head width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash_kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as splash_mask,
)

from srl_jax.ops.attention import Scoring

# Lanes of a TPU register, and the longest side of a block of logits.
_LANES = 128
_BLOCK = 512


def choose(
  kernel: str,
  *,
  device: str,
  dtype: str,
  head_width: int,
  scoring: Scoring,
  window: int = 0,
) -> Callable[..., jax.Array] | None:
  """Chooses the kernel for `attention.attend_causal`.

  Args:
    kernel: "plain", "splash", "cudnn", or "auto" for the platform's kernel
      where it applies.
    device: kind of the devices, as JAX names it: "TPU v5 lite", "cpu".
    dtype: dtype of queries, keys and values.
    head_width: width of one head.
    scoring: how logits are made.
    window: number of positions that a token sees, its own included; 0 for
      all.

  Returns:
    A function of (queries, keys, values, positions); None for "plain".

  Raises:
    ValueError: "cudnn" is asked for and cannot run here.
  """
  is_tpu = device.startswith("TPU")
  if kernel == "splash" or (kernel == "auto" and is_tpu):
    # Without a TPU it is interpreted: correct, but slow.
    return functools.partial(
      splash, scoring=scoring, window=window, interpret=not is_tpu
    )
  if kernel == "plain":
    return None
  limits = {
    f"the device is {device!r}, not NVIDIA's": not device.startswith("NVIDIA"),
    f"dtype={dtype!r} is not 'bfloat16'": dtype != "bfloat16",
    # Hopper and later allow 256, which was never tried.
    f"head_width={head_width} is not a multiple of 8 up to 128": (
      head_width % 8 or head_width > 128
    ),
    f"softcap={scoring.softcap} is not 0": scoring.softcap != 0,
  }
  reasons = [reason for reason, holds in limits.items() if holds]
  if not reasons:
    return functools.partial(cudnn, scale=scoring.scale, window=window)
  if kernel == "auto":
    return None
  raise ValueError(
    f"attention_kernel='cudnn' cannot run here: {' and '.join(reasons)}; set "
    "c.model.attention_kernel to 'auto' or 'plain'"
  )


def splash(
  q_NTHME: jax.Array,
  k_NTHE: jax.Array,
  v_NTHE: jax.Array,
  position_NT: jax.Array,
  *,
  scoring: Scoring,
  window: int,
  interpret: bool,
) -> jax.Array:
  """JAX's splash attention for TPUs; padding may lie anywhere.

  It differs from the plain products in rounding only, because the queries are
  scaled before they are multiplied.

  Args:
    q_NTHME: queries, not yet scaled.
    k_NTHE: keys.
    v_NTHE: values.
    position_NT: positions, rising along T; -1 marks padding.
    scoring: how logits are made.
    window: see `choose`.
    interpret: True runs the kernel without a TPU.
  """
  n, t, h, m, e = q_NTHME.shape
  # The fewest blocks of at most _BLOCK, each as small as the lanes allow.
  block = -(-t // _BLOCK)
  block = -(-t // (block * _LANES)) * _LANES
  width = -(-t // block) * block

  def heads_first(x_NT):
    """Lays [N, T, .., E] out as [N, heads, width, E]."""
    x_NTQE = x_NT.reshape(n, t, -1, e)
    x_NTQE = jnp.pad(x_NTQE, ((0, 0), (0, width - t), (0, 0), (0, 0)))
    return x_NTQE.swapaxes(1, 2)

  # The fused backward pass would hold T / block copies of the gradient of the
  # queries.
  sizes = splash_kernel.BlockSizes(
    block_q=block,
    block_kv=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_q_dq=block,
    block_kv_dq=block,
  )
  mask = splash_mask.CausalMask((width, width))
  if window:
    mask = splash_mask.LocalMask((width, width), (window - 1, 0), 0)
  attend = splash_kernel.make_splash_mha(
    splash_mask.MultiHeadMask([mask] * (h * m)),
    block_sizes=sizes,
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=scoring.softcap or None,
    interpret=interpret,
  )
  # Tokens see tokens and padding sees padding, so every query sees something.
  padded_NT = jnp.pad(position_NT, ((0, 0), (0, width - t)), constant_values=-1)
  segment_NT = (padded_NT >= 0).astype(jnp.int32)
  segments = splash_kernel.SegmentIds(segment_NT, segment_NT)
  scaled = (q_NTHME.astype(jnp.float32) * scoring.scale).astype(q_NTHME.dtype)
  out = jax.vmap(attend)(
    heads_first(scaled), heads_first(k_NTHE), heads_first(v_NTHE), segments
  )
  return out.swapaxes(1, 2)[:, :t].reshape(n, t, h, m, e)


def cudnn(
  q_NTHME: jax.Array,
  k_NTHE: jax.Array,
  v_NTHE: jax.Array,
  position_NT: jax.Array,
  *,
  scale: float,
  window: int,
) -> jax.Array:
  """Flash attention of cuDNN; padding must lie right of the tokens.

  There it comes after every token, so that no token sees it. Positions are not
  read, and no lengths are needed.
  """
  del position_NT
  n, t, h, m, e = q_NTHME.shape
  out_NTQE = jax.nn.dot_product_attention(
    q_NTHME.reshape(n, t, h * m, e),
    k_NTHE,
    v_NTHE,
    scale=scale,
    is_causal=True,
    local_window_size=(window - 1, 0) if window else None,
    implementation="cudnn",
  )
  return out_NTQE.reshape(n, t, h, m, e)
