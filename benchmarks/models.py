# SPDX-License-Identifier: Apache-2.0
"""The model shapes that are measured: Qwen2's, with random weights."""

from __future__ import annotations

from srl_jax.models import ModelConfig

MODELS = {
  "tiny": ModelConfig(
    vocab_size=512,
    d_model=128,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    head_width=32,
    d_mlp=384,
  ),
  "small": ModelConfig(
    vocab_size=4096,
    d_model=512,
    n_layers=8,
    n_heads=8,
    n_kv_heads=2,
    head_width=64,
    d_mlp=1536,
  ),
}
