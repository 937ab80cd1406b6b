# SPDX-License-Identifier: Apache-2.0
"""Exact tokenizers: text to ids to the same text. Host only, never JAX."""

from srl_jax.tokenizers.byte import ByteTokenizer
from srl_jax.tokenizers.huggingface import HuggingFaceTokenizer
from srl_jax.tokenizers.make import TokenizerConfig, make_tokenizer
from srl_jax.tokenizers.protocol import Tokenizer
from srl_jax.tokenizers.sentencepiece_tokenizer import (
  SentencePieceTokenizer,
  train_sentencepiece,
)

__all__ = [
  "ByteTokenizer",
  "HuggingFaceTokenizer",
  "SentencePieceTokenizer",
  "Tokenizer",
  "TokenizerConfig",
  "make_tokenizer",
  "train_sentencepiece",
]
