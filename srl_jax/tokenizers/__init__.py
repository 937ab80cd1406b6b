# SPDX-License-Identifier: Apache-2.0
"""Exact tokenizers: text to ids to the same text. Host only, never JAX."""

from srl_jax.tokenizers.byte import ByteTokenizer
from srl_jax.tokenizers.checkpoint import Checkpoint, stop_names
from srl_jax.tokenizers.huggingface import HuggingFaceTokenizer
from srl_jax.tokenizers.make import (
  TokenizerConfig,
  check_tokenizer_of_weights,
  checkpoint_of,
  make_tokenizer,
)
from srl_jax.tokenizers.protocol import Tokenizer, split_control
from srl_jax.tokenizers.sentencepiece_tokenizer import (
  SentencePieceTokenizer,
  train_sentencepiece,
)

__all__ = [
  "ByteTokenizer",
  "Checkpoint",
  "HuggingFaceTokenizer",
  "SentencePieceTokenizer",
  "Tokenizer",
  "TokenizerConfig",
  "check_tokenizer_of_weights",
  "checkpoint_of",
  "make_tokenizer",
  "split_control",
  "stop_names",
  "train_sentencepiece",
]
