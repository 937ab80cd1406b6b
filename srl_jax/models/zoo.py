# SPDX-License-Identifier: Apache-2.0
"""Shapes of published models, by name.

The shapes are those of the config.json files of the checkpoints; `hf_config`
reads other sizes. A variant has a name only where its shape differs: the
Instruct and Coder models of Qwen2.5 have the shape of the base model, and the
Math models have another rotary base and context. Gemma 3 is here as its text
model only. Rows of an embedding beyond the tokenizer's vocabulary are padding.
"""

from __future__ import annotations

import functools

from srl_jax.models.config import ModelConfig, RopeScaling

# arXiv 2412.15115.
_qwen2_5 = functools.partial(
  ModelConfig,
  vocab_size=152_064,
  head_width=128,
  rope_theta=1_000_000.0,
  tie_embeddings=False,
  max_positions=32_768,
  dtype="bfloat16",
)
_small_qwen2_5 = functools.partial(
  _qwen2_5, vocab_size=151_936, tie_embeddings=True
)
_qwen2_5_math = {"rope_theta": 10_000.0, "max_positions": 4096}
_qwen2_5_1_5b = functools.partial(
  _small_qwen2_5,
  d_model=1536,
  n_layers=28,
  n_heads=12,
  n_kv_heads=2,
  d_mlp=8960,
)
_qwen2_5_7b = functools.partial(
  _qwen2_5,
  d_model=3584,
  n_layers=28,
  n_heads=28,
  n_kv_heads=4,
  d_mlp=18_944,
)
# arXiv 2505.09388.
_qwen3 = functools.partial(
  ModelConfig,
  vocab_size=151_936,
  n_kv_heads=8,
  head_width=128,
  rope_theta=1_000_000.0,
  qk_norm=True,
  qkv_bias=False,
  max_positions=40_960,
  dtype="bfloat16",
)


# arXiv 2407.21783.
def _llama3(scaling: float, **shape) -> ModelConfig:
  return ModelConfig(
    vocab_size=128_256,
    n_kv_heads=8,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling("llama3", factor=scaling),
    norm_epsilon=1e-5,
    qkv_bias=False,
    max_positions=131_072,
    dtype="bfloat16",
    **shape,
  )


_gemma = functools.partial(
  ModelConfig,
  activation="gelu",
  norm_plus_one=True,
  sandwich_norms=True,
  qkv_bias=False,
  scale_embeddings=True,
  dtype="bfloat16",
)
# arXiv 2408.00118.
_gemma2 = functools.partial(
  _gemma,
  vocab_size=256_000,
  attention_softcap=50.0,
  logit_softcap=30.0,
  sliding_window=4096,
  window_period=2,
  max_positions=8192,
)
# arXiv 2503.19786.
_gemma3 = functools.partial(
  _gemma,
  vocab_size=262_208,
  rope_theta=1_000_000.0,
  rope_local_theta=10_000.0,
  rope_scaling=RopeScaling("linear", factor=8.0),
  qk_norm=True,
  sliding_window=1024,
  window_period=6,
  max_positions=131_072,
)

MODELS: dict[str, ModelConfig] = {
  "qwen2_5_0_5b": _small_qwen2_5(
    d_model=896,
    n_layers=24,
    n_heads=14,
    n_kv_heads=2,
    head_width=64,
    d_mlp=4864,
  ),
  "qwen2_5_1_5b": _qwen2_5_1_5b(),
  "qwen2_5_math_1_5b": _qwen2_5_1_5b(**_qwen2_5_math),
  "qwen2_5_3b": _small_qwen2_5(
    d_model=2048,
    n_layers=36,
    n_heads=16,
    n_kv_heads=2,
    d_mlp=11_008,
  ),
  "qwen2_5_7b": _qwen2_5_7b(),
  "qwen2_5_math_7b": _qwen2_5_7b(**_qwen2_5_math),
  "qwen2_5_14b": _qwen2_5(
    d_model=5120,
    n_layers=48,
    n_heads=40,
    n_kv_heads=8,
    d_mlp=13_824,
  ),
  "qwen2_5_32b": _qwen2_5(
    d_model=5120,
    n_layers=64,
    n_heads=40,
    n_kv_heads=8,
    d_mlp=27_648,
  ),
  "qwen3_0_6b": _qwen3(d_model=1024, n_layers=28, n_heads=16, d_mlp=3072),
  "qwen3_1_7b": _qwen3(d_model=2048, n_layers=28, n_heads=16, d_mlp=6144),
  "qwen3_4b": _qwen3(d_model=2560, n_layers=36, n_heads=32, d_mlp=9728),
  "qwen3_8b": _qwen3(
    d_model=4096,
    n_layers=36,
    n_heads=32,
    d_mlp=12_288,
    tie_embeddings=False,
  ),
  "llama3_1_8b": _llama3(
    8.0,
    d_model=4096,
    n_layers=32,
    n_heads=32,
    head_width=128,
    d_mlp=14_336,
    tie_embeddings=False,
  ),
  "llama3_2_1b": _llama3(
    32.0, d_model=2048, n_layers=16, n_heads=32, head_width=64, d_mlp=8192
  ),
  "llama3_2_3b": _llama3(
    32.0, d_model=3072, n_layers=28, n_heads=24, head_width=128, d_mlp=8192
  ),
  "gemma2_2b": _gemma2(
    d_model=2304,
    n_layers=26,
    n_heads=8,
    n_kv_heads=4,
    head_width=256,
    d_mlp=9216,
  ),
  "gemma2_9b": _gemma2(
    d_model=3584,
    n_layers=42,
    n_heads=16,
    n_kv_heads=8,
    head_width=256,
    d_mlp=14_336,
  ),
  "gemma2_27b": _gemma2(
    d_model=4608,
    n_layers=46,
    n_heads=32,
    n_kv_heads=16,
    head_width=128,
    d_mlp=36_864,
    query_scalar=144,
  ),
  "gemma3_1b": _gemma3(
    vocab_size=262_144,
    d_model=1152,
    n_layers=26,
    n_heads=4,
    n_kv_heads=1,
    head_width=256,
    d_mlp=6912,
    rope_scaling=RopeScaling(),
    sliding_window=512,
    max_positions=32_768,
  ),
  "gemma3_4b": _gemma3(
    d_model=2560,
    n_layers=34,
    n_heads=8,
    n_kv_heads=4,
    head_width=256,
    d_mlp=10_240,
  ),
  "gemma3_12b": _gemma3(
    d_model=3840,
    n_layers=48,
    n_heads=16,
    n_kv_heads=8,
    head_width=256,
    d_mlp=15_360,
  ),
  "gemma3_27b": _gemma3(
    d_model=5376,
    n_layers=62,
    n_heads=32,
    n_kv_heads=16,
    head_width=128,
    d_mlp=21_504,
    query_scalar=168,
  ),
}
