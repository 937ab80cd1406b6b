# SPDX-License-Identifier: Apache-2.0
"""Shape and numerics of a model. Published shapes are in zoo.py."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from srl_jax import strict

Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How contexts longer than those first trained on are squeezed into them.

  Attributes:
    kind: "none"; "linear" divides all positions by factor (Chen et al. 2023;
      Gemma 3); "llama3" does so for long waves only (Llama 3.1).
    factor: by how much longer contexts became.
    low_frequency_factor: waves longer than original_positions over this are
      stretched by the whole factor.
    high_frequency_factor: waves shorter than original_positions over this
      are left alone; in between the two are mixed.
    original_positions: longest context before.
  """

  kind: Literal["none", "linear", "llama3"] = "none"
  factor: float = 1.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_positions: int = 8192

  def __post_init__(self):
    strict.check_literals(self)
    strict.check_numbers(
      self,
      factor="[1, )",
      low_frequency_factor="(0, )",
      high_frequency_factor="(0, )",
      original_positions="[1, )",
    )
    low, high = self.low_frequency_factor, self.high_frequency_factor
    if self.kind == "llama3" and not low < high:
      raise ValueError(
        f"low_frequency_factor={low} is not below high_frequency_factor="
        f"{high}; set them as the checkpoint's config.json has them"
      )


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters (Hu et al. 2021): W + alpha / rank * A B.

  With a rank above 0 only A and B are trained; A begins random, B zero.

  Attributes:
    rank: rank of the adapters; 0 for none, so that all parameters are trained.
    alpha: what an adapter adds is multiplied by alpha / rank.
    targets: which projections get adapters.
  """

  rank: int = 0
  alpha: float = 16.0
  targets: tuple[Projection, ...] = get_args(Projection)

  def __post_init__(self):
    strict.check_numbers(self, rank="[0, )", alpha="(0, )")
    if self.rank and not self.targets:
      raise ValueError(
        f"rank={self.rank} with targets={self.targets}; set rank to 0 (off), "
        "or name at least one target"
      )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and numerics of the model; by default the register student's.

  Attributes:
    vocab_size: rows of the embedding; 0 takes the tokenizer's.
    d_model: residual width.
    n_layers: transformer blocks.
    n_heads: query heads.
    n_kv_heads: key/value heads; divides n_heads.
    head_width: width of one head; even.
    d_mlp: hidden width of the feed-forward layer.
    activation: activation of the feed-forward layer's gate; "gelu" is the
      tanh approximation (Gemma).
    rope_theta: base of the rotary embedding.
    rope_local_theta: base of the rotary embedding in layers with a sliding
      window, which are then not scaled (Gemma 3); 0 for that of all others.
    rope_scaling: how the rotary embedding is scaled for longer contexts.
    norm_epsilon: added to the mean square in the norms.
    norm_plus_one: norms scale by one plus their parameter (Gemma).
    sandwich_norms: norms behind attention and feed-forward layer too (Gemma).
    qk_norm: norms on queries and keys, head by head (Qwen3, Gemma 3).
    qkv_bias: biases on query, key and value projections (Qwen2).
    query_scalar: attention logits are divided by its root; 0 for head_width.
    attention_softcap: attention logits x become cap * tanh(x / cap); 0: off.
    logit_softcap: the same for the logits of tokens (Gemma 2); 0: off.
    sliding_window: how many positions a token sees in a local layer, its own
      included; 0 for all.
    window_period: every window_period-th layer is global, the others are
      local; 0 makes all local.
    scale_embeddings: embeddings are multiplied by the root of d_model (Gemma).
    tie_embeddings: the output head is the embedding.
    max_positions: longest context that the model was made for, in tokens.
    dtype: dtype of activations and matrix products.
    param_dtype: dtype of the stored parameters; adapters are float32. If
      bfloat16 parameters are trained themselves, the optimizer keeps a float32
      copy, so training takes more memory than with float32 parameters.
    attention_logits: how many attention logits per trunk are held at a time,
      except in decoding; 0 for all. Bounds the memory of long trunks and
      branches; the result is the same.
    attention_kernel: how a trunk attends to itself: "plain" (by matrix
      products), "splash" (TPU; interpreted elsewhere, for tests), "cudnn"
      (NVIDIA, bfloat16) or "auto": the platform's where it can, else plain.
    lane_kernel: how branches attend to trunk and branch in an update: "plain"
      (by matrix products), "tree" (a kernel for TPU; interpreted elsewhere,
      for tests), or "auto": "tree" on TPU v5 and later, else plain. With
      "tree" an update computes trunks and branches in one pass.
    decode_kernel: how a decoded token attends to trunk and branch: "plain" (by
      matrix products, over all the room of the cache), "ragged" (a kernel for
      TPU that reads what each branch has; interpreted elsewhere, for tests), or
      "auto": "ragged" on TPU v5 and later if head_width is a multiple of 128,
      else plain. It holds narrower heads as wide as 128.
    remat: what the backward pass recomputes: "none", "full" (every block) or
      "dots" (all but the matrix products).
    lora: adapters.
  """

  vocab_size: int = 0
  d_model: int = 96
  n_layers: int = 3
  n_heads: int = 4
  n_kv_heads: int = 2
  head_width: int = 24
  d_mlp: int = 192
  activation: Literal["silu", "gelu"] = "silu"
  rope_theta: float = 10_000.0
  rope_local_theta: float = 0.0
  rope_scaling: RopeScaling = RopeScaling()
  norm_epsilon: float = 1e-6
  norm_plus_one: bool = False
  sandwich_norms: bool = False
  qk_norm: bool = False
  qkv_bias: bool = True
  query_scalar: int = 0
  attention_softcap: float = 0.0
  logit_softcap: float = 0.0
  sliding_window: int = 0
  window_period: int = 0
  scale_embeddings: bool = False
  tie_embeddings: bool = True
  max_positions: int = 512
  dtype: Literal["float32", "bfloat16"] = "float32"
  param_dtype: Literal["float32", "bfloat16"] = "float32"
  attention_logits: int = 1 << 25
  attention_kernel: Literal["auto", "plain", "splash", "cudnn"] = "auto"
  lane_kernel: Literal["auto", "plain", "tree"] = "auto"
  decode_kernel: Literal["auto", "plain", "ragged"] = "auto"
  remat: Literal["none", "full", "dots"] = "full"
  lora: LoraConfig = LoraConfig()

  def __post_init__(self):
    strict.check_literals(self)
    strict.check_numbers(
      self,
      vocab_size="[0, )",
      d_model="[1, )",
      n_layers="[1, )",
      n_heads="[1, )",
      n_kv_heads="[1, )",
      head_width="[2, )",
      d_mlp="[1, )",
      rope_theta="(0, )",
      rope_local_theta="[0, )",
      norm_epsilon="(0, 1)",
      query_scalar="[0, )",
      attention_softcap="[0, )",
      logit_softcap="[0, )",
      sliding_window="[0, )",
      window_period="[0, )",
      max_positions="[1, )",
      attention_logits="[0, )",
    )
    if self.n_heads % self.n_kv_heads:
      raise ValueError(
        f"n_heads={self.n_heads} is not a multiple of "
        f"n_kv_heads={self.n_kv_heads}; set c.model.n_kv_heads to a divisor"
      )
    if self.head_width % 2:
      raise ValueError(
        f"head_width={self.head_width} is odd; rotary embedding needs pairs: "
        "set c.model.head_width to an even number"
      )
    has_local = self.window_period or self.rope_local_theta
    if has_local and not self.sliding_window:
      raise ValueError(
        f"window_period={self.window_period} and rope_local_theta="
        f"{self.rope_local_theta} are for local layers, and sliding_window=0 "
        "says that there are none; set c.model.sliding_window"
      )

  def is_local(self) -> tuple[bool, ...] | None:
    """Which layers have a sliding window; None if none has."""
    if not self.sliding_window:
      return None
    period = self.window_period or self.n_layers + 1
    return tuple(bool(i % period) for i in range(1, self.n_layers + 1))

  @property
  def merges_adapters(self) -> bool:
    """Whether the sampler folds adapters into their matrices.

    It does in float32. Another dtype would round the sum, and with it away what
    an adapter learns in its first hundred update steps: each changes a weight
    by far less than the last bit of a bfloat16.
    """
    return self.dtype == "float32"


# Fields that say how a model is run, not which weights it has.
RUNTIME_FIELDS = (
  "attention_kernel",
  "attention_logits",
  "decode_kernel",
  "dtype",
  "lane_kernel",
  "lora",
  "max_positions",
  "param_dtype",
  "remat",
)


def differences(there: ModelConfig, here: ModelConfig) -> list[str]:
  """Says in which fields two models differ so that weights do not fit both."""
  return [
    f"{field.name} is {getattr(there, field.name)!r} there and "
    f"{getattr(here, field.name)!r} here"
    for field in dataclasses.fields(ModelConfig)
    if field.name not in RUNTIME_FIELDS
    and getattr(there, field.name) != getattr(here, field.name)
  ]
