# SPDX-License-Identifier: Apache-2.0
"""Bytes and operations that rollout and update need, counted by hand.

The counts are what is needed, not what a program does: only visible pairs of
query and key, only cached tokens that exist, everything read once. So whatever
a program does in addition lowers its share of the machine's peak. gpu.py
decides what is measured against these counts.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.layouts import Workload
from srl_jax.models import ModelConfig

_BYTES = {"float32": 4, "bfloat16": 2}


class TurnBytes(NamedTuple):
  """Bytes that one turn of the decoding loop reads, on average.

  Attributes:
    weights: all parameters of the layers and of the head.
    trunk_kv: keys and values of the trunks, once for all their branches.
    branch_kv: keys and values of the branches' own earlier tokens.
    logits: float32 logits; made and used within a turn, so not in `total`.
  """

  weights: int
  trunk_kv: int
  branch_kv: int
  logits: int

  @property
  def total(self) -> int:
    return self.weights + self.trunk_kv + self.branch_kv


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


def layer_weights(model: ModelConfig) -> int:
  """Returns the number of entries of all matrices of all layers."""
  q = model.n_heads * model.head_width
  kv = model.n_kv_heads * model.head_width
  per_layer = model.d_model * (2 * q + 2 * kv + 3 * model.d_mlp)
  return model.n_layers * per_layer


def parameters(model: ModelConfig) -> int:
  """Returns the number of entries of all parameters."""
  q = model.n_heads * model.head_width
  kv = model.n_kv_heads * model.head_width
  vectors = 2 * model.d_model + (q + 2 * kv if model.qkv_bias else 0)
  tables = 1 if model.tie_embeddings else 2
  return (
    layer_weights(model)
    + model.n_layers * vectors
    + model.d_model
    + tables * model.vocab_size * model.d_model
  )


def turns(work: Workload) -> int:
  """Returns the turns of the decoding loop: a branch's tokens but the last."""
  return work.stem_tokens + work.new_tokens - 1


def trunk_tokens(work: Workload) -> int:
  """Returns the length of a trunk, up to its last branch point."""
  return int(work.prompt_tokens[-1])


def turn_bytes(model: ModelConfig, work: Workload) -> TurnBytes:
  """Returns the mean over the turns of a rollout of the whole workload."""
  weights = parameters(model)
  if not model.tie_embeddings:
    # Of the embedding only the rows of the tokens are read.
    weights -= model.vocab_size * model.d_model
  kv_width = model.n_kv_heads * model.head_width
  per_token = 2 * model.n_layers * kv_width * _BYTES[model.dtype]
  # Turn t finds t tokens in the cache, t = 0, 1, ... turns - 1.
  cached = work.branches * (turns(work) - 1) / 2
  return TurnBytes(
    weights=weights * _BYTES[model.dtype],
    trunk_kv=work.trajectories * trunk_tokens(work) * per_token,
    branch_kv=round(cached * per_token),
    logits=4 * work.branches * model.vocab_size,
  )


def prefill_flops(model: ModelConfig, work: Workload, trunks: int) -> Flops:
  """Returns the operations of the trunks alone, which need no logits."""
  length = trunk_tokens(work)
  pairs = trunks * length * (length + 1) // 2
  return Flops(
    2 * layer_weights(model) * trunks * length, _attention(model, pairs), 0
  )


def forward_flops(model: ModelConfig, work: Workload, trunks: int) -> Flops:
  """Returns the operations of an update's forward pass, branches included."""
  fed, samples = turns(work), work.samples
  branches = trunks * work.steps * samples
  own = fed * (fed + 1) // 2
  pairs = trunks * samples * int(sum(fed * work.prompt_tokens + own))
  prefill = prefill_flops(model, work, trunks)
  return Flops(
    prefill.layers + 2 * layer_weights(model) * branches * fed,
    prefill.attention + _attention(model, pairs),
    2 * branches * fed * model.vocab_size * model.d_model,
  )


def _attention(model: ModelConfig, pairs: int) -> int:
  # A product for the logit and one for the weighted sum.
  per_pair = 4 * model.n_heads * model.head_width
  return model.n_layers * pairs * per_pair


def update_flops(
  model: ModelConfig, work: Workload, trunks: int
) -> tuple[int, int]:
  """Counts forward and backward pass of `trunks` trunks with branches.

  Returns:
    (operations that are needed, which are three forward passes; the same plus
    what the model's `remat` and the chunks of the log-probs recompute).
  """
  forward = forward_flops(model, work, trunks)
  again = {
    "none": forward.head,
    "dots": forward.attention + forward.head,
    "full": sum(forward),
  }[model.remat]
  return 3 * sum(forward), 3 * sum(forward) + again
