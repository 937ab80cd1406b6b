# SPDX-License-Identifier: Apache-2.0
"""Operations and bytes that rollout and update need, counted by hand.

The counts are what no implementation can leave out: each trunk once, each pair
of tokens that see each other, the vocabulary where a token is predicted, only
cached tokens that exist. So whatever a program does in addition lowers its
share of the machine's peak. The floor of an update step is its operations over
the rate of large float32 matrix products on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.workload import Workload
from srl_jax.models import ModelConfig

_BYTES = {"float32": 4, "bfloat16": 2}


class Operations(NamedTuple):
  """Floating-point operations of an update step, two per multiply-add."""

  prefill: int
  decode: int
  update: int


class Flops(NamedTuple):
  """Floating-point operations, two per multiply-add.

  Attributes:
    layers: products with the weights of the layers.
    attention: visible pairs of query and key.
    head: logits.
  """

  layers: int
  attention: int
  head: int


def operations(model: ModelConfig, work: Workload) -> Operations:
  """Counts the operations of an update step with shared trunks.

  Sampling counts a forward pass; the update counts a forward pass and a
  backward pass of twice that.
  """
  return Operations(
    prefill=sum(prefill_flops(model, work)),
    decode=sum(_branch_flops(model, work, np.ones_like(work.is_kept))),
    update=3 * sum(forward_flops(model, work)),
  )


def prefill_flops(model: ModelConfig, work: Workload) -> Flops:
  """Returns the operations of the trunks alone, which need no logits."""
  length = trunk_tokens(work)
  tokens, pairs = work.trajectories * np.array([length, _triangle(length)])
  return _flops(model, tokens, pairs, 0)


def forward_flops(model: ModelConfig, work: Workload) -> Flops:
  """Returns the operations of an update's forward pass: of the kept groups."""
  trunks = prefill_flops(model, work)
  branches = _branch_flops(model, work, work.is_kept)
  return Flops(*map(sum, zip(trunks, branches, strict=True)))


def update_flops(model: ModelConfig, work: Workload) -> tuple[int, int]:
  """Counts forward and backward pass.

  Returns:
    (operations that are needed, which are three forward passes; the same plus
    what the model's `remat` and the chunks of the log-probs recompute).
  """
  forward = forward_flops(model, work)
  again = {
    "none": forward.head,
    "dots": forward.attention + forward.head,
    "full": sum(forward),
  }[model.remat]
  return 3 * sum(forward), 3 * sum(forward) + again


def _branch_flops(model, work: Workload, is_run_NK: np.ndarray) -> Flops:
  # The last token of a branch predicts nothing.
  run_NKG = work.stem_tokens + work.lengths - 1
  pairs_NKG = run_NKG * work.prompt_tokens[:, None] + _triangle(run_NKG)
  counted = (run_NKG, pairs_NKG, work.lengths)
  return _flops(model, *(x[is_run_NK].sum() for x in counted))


def _flops(model: ModelConfig, tokens, pairs, predicted) -> Flops:
  # In each head a product for the logit of a pair, one for the weighted sum.
  per_pair = 2 * model.n_heads * model.head_width
  return Flops(
    layers=2 * model.n_layers * layer_weights(model) * int(tokens),
    attention=2 * model.n_layers * per_pair * int(pairs),
    head=2 * model.vocab_size * model.d_model * int(predicted),
  )


def _triangle(count):
  return count * (count + 1) // 2


def layer_weights(model: ModelConfig) -> int:
  """Returns the entries of a layer's matrices: multiply-adds per token."""
  heads, kv_heads = (
    count * model.head_width for count in (model.n_heads, model.n_kv_heads)
  )
  return model.d_model * (2 * heads + 2 * kv_heads + 3 * model.d_mlp)


def parameters(model: ModelConfig) -> int:
  """Returns the number of entries of all parameters."""
  q = model.n_heads * model.head_width
  kv = model.n_kv_heads * model.head_width
  vectors = 2 * model.d_model + (q + 2 * kv if model.qkv_bias else 0)
  tables = 1 if model.tie_embeddings else 2
  return (
    model.n_layers * (layer_weights(model) + vectors)
    + model.d_model
    + tables * model.vocab_size * model.d_model
  )


def iterations(work: Workload) -> int:
  """Returns the iterations of a decoding loop: a branch's tokens but one."""
  return work.stem_tokens + work.new_tokens - 1


def trunk_tokens(work: Workload) -> int:
  """Returns the length of a trunk, up to its last branch point."""
  return int(work.prompt_tokens[-1])


class TurnBytes(NamedTuple):
  """Bytes that one iteration of the decoding loop reads, on average.

  Attributes:
    weights: all parameters of the layers and of the head.
    trunk_kv: keys and values of the trunks, once for all their branches.
    branch_kv: keys and values of the branches' own earlier tokens.
    logits: float32 logits; made and used within an iteration, so not in
    `total`.
  """

  weights: int
  trunk_kv: int
  branch_kv: int
  logits: int

  @property
  def total(self) -> int:
    return self.weights + self.trunk_kv + self.branch_kv


def turn_bytes(model: ModelConfig, work: Workload) -> TurnBytes:
  """Returns the mean over the iterations of a rollout of the whole workload."""
  weights = parameters(model)
  if not model.tie_embeddings:
    # Of the embedding only the rows of the tokens are read.
    weights -= model.vocab_size * model.d_model
  kv_width = model.n_kv_heads * model.head_width
  per_token = 2 * model.n_layers * kv_width * _BYTES[model.dtype]
  # Turn t finds t tokens in the cache, t = 0, 1, ... iterations - 1.
  cached = work.branches * (iterations(work) - 1) / 2
  return TurnBytes(
    weights=weights * _BYTES[model.dtype],
    trunk_kv=work.trajectories * trunk_tokens(work) * per_token,
    branch_kv=round(cached * per_token),
    logits=4 * work.branches * model.vocab_size,
  )


class Needs(NamedTuple):
  """What a system needs that repeats the prompt for every sample.

  Attributes:
    copies: number of copies of a prompt.
    tokens: tokens of prompts and completions, without padding.
    padded_tokens: the same with every prompt padded to the longest.
    kv_bytes: bytes of keys and values of the padded rows, in float32.
  """

  copies: int
  tokens: int
  padded_tokens: int
  kv_bytes: int


def needs_without_sharing(model: ModelConfig, work: Workload) -> Needs:
  """Counts the needs by hand, without running such a system."""
  prompt_K = work.prompt_tokens + work.stem_tokens
  of_step = work.trajectories * work.samples
  tokens = of_step * int(prompt_K.sum()) + work.sampled_tokens
  padded = work.branches * (int(prompt_K[-1]) + work.new_tokens)
  per_token = 2 * 4 * model.n_layers * model.n_kv_heads * model.head_width
  return Needs(work.branches, tokens, padded, padded * per_token)


def matrix_rate(width: int = 2048, repeats: int = 5) -> float:
  """Measures float32 operations per CPU second: the better of JAX and numpy."""
  import jax
  import jax.numpy as jnp

  a_XX = np.random.default_rng(0).random((width, width), np.float32)
  product = jax.jit(jnp.matmul)
  on_device = jnp.asarray(a_XX)

  def with_jax():
    jax.block_until_ready(product(on_device, on_device))

  calls: list[Callable[[], object]] = [with_jax, lambda: a_XX @ a_XX]
  best = 0.0
  for call in calls * repeats:
    start_s = time.process_time()
    call()
    best = max(best, 2 * width**3 / (time.process_time() - start_s))
  return best
