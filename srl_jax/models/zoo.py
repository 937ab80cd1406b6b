# SPDX-License-Identifier: Apache-2.0
"""Shapes of published models, by name.

Qwen2.5 (arXiv 2412.15115), as the config.json files of Qwen/Qwen2.5-*B-Instruct
have them. Qwen2.5-Coder-7B-Instruct has the shape of the 7B model. The larger
embedding of that one is padding: all share one tokenizer.
"""

from __future__ import annotations

from srl_jax.models.transformer import ModelConfig


def _qwen2_5(**shape) -> ModelConfig:
  return ModelConfig(
    rope_theta=1_000_000.0,
    norm_epsilon=1e-6,
    qkv_bias=True,
    max_positions=32_768,
    dtype="bfloat16",
    **shape,
  )


MODELS: dict[str, ModelConfig] = {
  "qwen2_5_0_5b": _qwen2_5(
    vocab_size=151_936,
    d_model=896,
    n_layers=24,
    n_heads=14,
    n_kv_heads=2,
    head_width=64,
    d_mlp=4864,
    tie_embeddings=True,
  ),
  "qwen2_5_1_5b": _qwen2_5(
    vocab_size=151_936,
    d_model=1536,
    n_layers=28,
    n_heads=12,
    n_kv_heads=2,
    head_width=128,
    d_mlp=8960,
    tie_embeddings=True,
  ),
  "qwen2_5_3b": _qwen2_5(
    vocab_size=151_936,
    d_model=2048,
    n_layers=36,
    n_heads=16,
    n_kv_heads=2,
    head_width=128,
    d_mlp=11_008,
    tie_embeddings=True,
  ),
  "qwen2_5_7b": _qwen2_5(
    vocab_size=152_064,
    d_model=3584,
    n_layers=28,
    n_heads=28,
    n_kv_heads=4,
    head_width=128,
    d_mlp=18_944,
    tie_embeddings=False,
  ),
}
