# SPDX-License-Identifier: Apache-2.0
"""The least cost of an update step: operations counted by hand, over a rate.

The count has the matrix products that no implementation can leave out: each
trunk once, each pair of tokens that see each other, the vocabulary where a
token is predicted. Sampling counts a forward pass; the update counts a forward
pass and a backward pass of twice that. The rate is that of large float32
matrix products on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.workload import Workload
from srl_jax.models import ModelConfig


class Operations(NamedTuple):
  """Floating-point operations of an update step, two per multiply-add."""

  prefill: int
  decode: int
  update: int


def operations(model: ModelConfig, work: Workload) -> Operations:
  """Counts the operations of an update step with shared trunks."""
  weights = model.n_layers * layer_weights(model)
  # One multiply-add per pair for the logit and one for the sum, in each head.
  per_pair = model.n_layers * 2 * model.n_heads * model.head_width
  trunk, _ = work.predicted("shared")
  trunk_pairs = work.trajectories * _triangle(int(work.prompt_tokens[-1]))
  length_NKG = work.lengths
  # The last token of a branch predicts nothing.
  run_NKG = work.stem_tokens + length_NKG - 1
  seen_NKG = run_NKG * work.prompt_tokens[:, None] + _triangle(run_NKG)
  decode_NKG = (
    weights * run_NKG
    + per_pair * seen_NKG
    + model.vocab_size * model.d_model * length_NKG
  )
  prefill = weights * trunk + per_pair * trunk_pairs
  decode = int(decode_NKG.sum())
  trained = prefill + int(decode_NKG[work.is_kept].sum())
  return Operations(2 * prefill, 2 * decode, 3 * 2 * trained)


def layer_weights(model: ModelConfig) -> int:
  """Returns multiply-adds per token and layer, without attention."""
  heads, kv_heads = (
    count * model.head_width for count in (model.n_heads, model.n_kv_heads)
  )
  return model.d_model * (2 * heads + 2 * kv_heads + 3 * model.d_mlp)


def _triangle(count):
  return count * (count + 1) // 2


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
