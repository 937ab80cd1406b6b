# SPDX-License-Identifier: Apache-2.0
"""A TPU kernel for attention within rows that hold trees of tokens.

It serves the update, where a row holds trunks with their branches: one softmax
over a trunk and a branch, without a copy of the trunk for each branch, and
without logits in memory. trees.py says who sees whom, and which blocks of
queries and keys are computed; all others are skipped.

The backward pass makes the logits once, for the gradients of queries, keys and
values together. For that the gradients of all keys lie in on-chip memory; if
they are too many, it takes one part of the keys after the other. What a kernel
does with a pair of blocks is in tree_kernels.py.

With remat, the result and a number per query and head (its log-sum) are what
the backward pass needs: a policy that saves RESIDUALS keeps them, and then the
forward kernel is not run again.

Axes: N rows, T tokens of a row, H key/value heads, M query heads per key/value
head, E head width.
"""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from srl_jax.ops import tree_kernels, trees
from srl_jax.ops.attention import Scoring

# Tokens of a block, and what a token costs in blocks of this size, relatively:
# by the compiler's cycle counts for v5e, if a third of a layer is attention.
_SIZES = {512: 1.0, 640: 1.005, 768: 1.01, 384: 1.02, 256: 1.12, 128: 1.6}
# On-chip memory that a kernel may take; every generation since v5 has more.
VMEM_BYTES = 60 * 2**20
# The name of what the backward pass needs, for policies of remat.
RESIDUALS = "tree_attention"


def is_chosen(kernel: str, device: str) -> bool:
  """Whether the update attends by these kernels.

  Args:
    kernel: "plain", "tree", or "auto" for the kernels where they suit.
    device: kind of the devices, as JAX names it: "TPU v5 lite", "cpu".

  Raises:
    ValueError: "tree" is asked for and cannot run here.
  """
  return suits(kernel, "tree", device, field="c.model.lane_kernel")


def suits(kernel: str, own: str, device: str, *, field: str) -> bool:
  """Whether a field asks for the kernel `own`, or leaves it to the device.

  Raises:
    ValueError: the kernel is asked for and cannot run here.
  """
  is_old = re.match(r"TPU v[2-4]\b", device)
  if kernel == own and is_old:
    raise ValueError(
      f"{field.rpartition('.')[2]}={own!r} needs the on-chip memory of TPU v5 "
      f"or later, and the device is {device!r}; set {field} to 'auto' or "
      "'plain'"
    )
  # Without a TPU they are interpreted: correct, but slow.
  is_tpu = device.startswith("TPU") and not is_old
  return kernel == own or (kernel == "auto" and is_tpu)


def padded(tokens: int, shards: int = 1) -> int:
  """The smallest efficient row length for these tokens, on `shards` devices."""
  whole = _size(tokens, shards) * shards
  return -(-tokens // whole) * whole


def _size(tokens: int, shards: int) -> int:
  """Tokens of a block: many, but without much padding."""
  return min(_SIZES, key=lambda x: -(-tokens // (x * shards)) * x * _SIZES[x])


def plan(
  labels: trees.Labels,
  *,
  kv_heads: int,
  group: int,
  head_width: int,
  window: int = 0,
  shards: int = 1,
) -> trees.Plan:
  """Plans the kernels' work for rows of these labels.

  Args:
    labels: labels of the tokens; T is a length that `padded` returns.
    kv_heads: number H of key/value heads on a device.
    group: number M of query heads per key/value head.
    head_width: width E of one head.
    window: how many positions a token sees, its own included; 0 for all.
    shards: number P of devices that the queries of a row are split over.
  """
  tokens = labels.enter_NT.shape[1]
  width = tree_kernels.together(kv_heads, head_width) * head_width
  block = _size(tokens, shards)
  # Four arrays of a block of queries and two of keys come and go while the
  # kernel works on others; float32, if not less.
  queries = block * group * width * (4 * 2 * 4 + 4)
  keys = max(block, (VMEM_BYTES * 3 // 4 - queries) // (width * 2 * 2 * 4))
  return trees.plan(
    labels,
    block=block,
    parts=-(-tokens // keys),
    window=window,
    shards=shards,
  )


def attend(
  q_NTHME: jax.Array,
  k_NTHE: jax.Array,
  v_NTHE: jax.Array,
  plan: trees.Plan,
  *,
  scoring: Scoring,
  interpret: bool,
  shards: int = 1,
  shard: jax.Array | int = 0,
) -> jax.Array:
  """Attention of the tokens of a row to themselves and to their ancestors.

  Tokens get the same result as from `attention.attend`, up to rounding. Padding
  gets finite numbers without a meaning.

  Args:
    q_NTHME: queries, not yet scaled; of P devices, those of this one.
    k_NTHE: keys, all of them.
    v_NTHE: values, all of them.
    plan: the plan of these rows, with this device's lists (P = 1).
    scoring: how logits are made.
    interpret: True runs the kernels without a TPU.
    shards: number P of devices that the queries of a row are split over.
    shard: number of this device, from 0.

  Returns:
    [N, T, H, M, E] in the dtype of the queries, for these.
  """
  _, t, h, m, e = q_NTHME.shape
  size = _size(t * shards, shards)
  static = tree_kernels.Static(h, m, e, size, scoring, interpret)
  flat = (x.reshape(*x.shape[:2], -1) for x in (q_NTHME, k_NTHE, v_NTHE))
  keys_N4T = plan.labels_N4T
  queries_N4T = jax.lax.dynamic_slice_in_dim(keys_N4T, shard * t, t, axis=2)
  blocks, *parts = (
    [x.squeeze(1) for x in found] for found in (plan.forward, *plan.backward)
  )
  seen = (queries_N4T, keys_N4T), blocks, parts
  return _attend(static, seen, *flat).reshape(q_NTHME.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, seen, q, k, v):
  return _forward(static, seen, q, k, v)[0]


def _attend_forward(static, seen, q, k, v):
  out, log_sum = (
    checkpoint_name(x, RESIDUALS) for x in _forward(static, seen, q, k, v)
  )
  return out, (seen, q, k, v, out, log_sum)


def _attend_backward(static, residuals, grad):
  (labels, _, lists), q, k, v, out, log_sum = residuals
  size = -(-k.shape[1] // static.block // len(lists))
  parts = [
    _backward(
      static,
      (labels, blocks),
      (q, k, v, out, grad, log_sum),
      slice(part * size, (part + 1) * size),
    )
    for part, blocks in enumerate(lists)
  ]
  grads_q, grads_k, grads_v = zip(*parts, strict=True)
  grad_k = jnp.concatenate(grads_k, axis=1) * static.scoring.scale
  grad_v = jnp.concatenate(grads_v, axis=1)
  return None, sum(grads_q), grad_k.astype(k.dtype), grad_v.astype(v.dtype)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(static, seen, q, k, v):
  """Returns the result, and the log-sum of each query and head, base 2."""
  b, kv, e = static.block, static.together, static.width
  heads = kv * static.group
  sums = (len(q), static.heads // kv, heads, q.shape[1])
  return _call(
    static,
    tree_kernels.forward,
    "tree_attention_forward",
    seen[:2],
    arrays=[("query", q), ("key", k), ("key", v)],
    outs=[("query", q.shape, q.dtype), ("number", sums, jnp.float32)],
    scratch=[
      ((kv, b, e), k.dtype),
      ((kv, e, b), v.dtype),
      ((heads, e, b), jnp.float32),
      ((heads, b), jnp.float32),
      ((heads, b), jnp.float32),
    ],
  )


def _backward(static, seen, arrays, part):
  """Returns the gradients of q, and of the keys and values of a part.

  The gradients of the keys lack the scale of the logits.
  """
  q, k, v, out, grad, log_sum = arrays
  b, kv, e = static.block, static.together, static.width
  heads = kv * static.group
  start, stop, _ = part.indices(k.shape[1] // b)
  of_part = ("part", (len(k), (stop - start) * b, k.shape[2]), jnp.float32)
  return _call(
    static,
    functools.partial(tree_kernels.backward, start=start),
    "tree_attention_backward",
    seen,
    arrays=[
      *(("query", q), ("key", k), ("key", v)),
      *(("query", out), ("query", grad), ("number", log_sum)),
    ],
    outs=[("query", q.shape, q.dtype), of_part, of_part],
    scratch=[
      ((kv, b, e), k.dtype),
      ((kv, e, b), k.dtype),
      ((kv, b, e), v.dtype),
      ((kv, b, e), jnp.float32),
      ((kv, b, e), jnp.float32),
      ((heads, e, b), jnp.float32),
      ((heads, b), jnp.float32),
    ],
  )


def _call(static, kernel, name, seen, *, arrays, outs, scratch):
  """Runs a kernel on the pairs of blocks of all rows and heads.

  Args:
    static: what is known when the kernel is compiled.
    kernel: its body.
    name: its name in profiles.
    seen: labels of queries and of keys, and the pairs of blocks.
    arrays: kind and array of each input.
    outs: kind, shape and dtype of each output.
    scratch: shape and dtype of each array in on-chip memory.
  """
  labels, (query_NI, key_NI, flags_NI) = seen
  specs = _specs(static)
  # Rows have unequal numbers of pairs.
  pairs = (flags_NI > 0).sum(-1).max()
  return pl.pallas_call(
    functools.partial(kernel, static),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=3,
      grid=(len(query_NI), static.heads // static.together, pairs),
      in_specs=[
        specs["query label"](),
        specs["key label"](),
        *(specs[kind]() for kind, _ in arrays),
      ],
      out_specs=[specs[kind](shape[1]) for kind, shape, _ in outs],
      scratch_shapes=[pltpu.VMEM(*x) for x in scratch],
    ),
    out_shape=[jax.ShapeDtypeStruct(*x) for _, *x in outs],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=VMEM_BYTES,
    ),
    interpret=static.interpret,
    name=name,
  )(query_NI, key_NI, flags_NI, *labels, *(x for _, x in arrays))


def _specs(static):
  """How each kind of array is cut, for pair i of row n and heads h.

  Kinds are arrays of queries [N, T, H * M * E] and keys [N, T, H * E], numbers
  of queries [N, heads, .., T], labels [N, 4, T], and a part of the keys that
  is there as a whole.
  """
  b, width = static.block, static.together * static.width
  heads = static.together * static.group

  def spec(shape, place):
    return lambda *_: pl.BlockSpec((None, *shape), place)

  return {
    "query": spec(
      (b, heads * static.width), lambda n, h, i, q, k, f: (n, q[n, i], h)
    ),
    "key": spec((b, width), lambda n, h, i, q, k, f: (n, k[n, i], h)),
    "number": spec(
      (None, heads, b), lambda n, h, i, q, k, f: (n, h, 0, q[n, i])
    ),
    "query label": spec((4, b), lambda n, h, i, q, k, f: (n, 0, q[n, i])),
    "key label": spec((4, b), lambda n, h, i, q, k, f: (n, 0, k[n, i])),
    "part": lambda keys: pl.BlockSpec(
      (None, keys, width), lambda n, h, i, q, k, f: (n, 0, h)
    ),
  }
