# SPDX-License-Identifier: Apache-2.0
"""Exact tokenizers: text to ids to the same text. Host only, never JAX."""

from srl_jax.tokenizers.byte import ByteTokenizer
from srl_jax.tokenizers.folder import TokenizerFolder, stop_names
from srl_jax.tokenizers.huggingface import HuggingFaceTokenizer
from srl_jax.tokenizers.incremental import TextStream
from srl_jax.tokenizers.make import (
  TokenizerConfig,
  check_tokenizer_of_weights,
  make_tokenizer,
  tokenizer_folder,
  with_local_files,
)
from srl_jax.tokenizers.sentencepiece_tokenizer import (
  SentencePieceTokenizer,
  train_sentencepiece,
)
from srl_jax.tokenizers.tokenizer import (
  Tokenizer,
  UnspellableError,
  split_control,
)

__all__ = [
  "ByteTokenizer",
  "HuggingFaceTokenizer",
  "SentencePieceTokenizer",
  "TextStream",
  "Tokenizer",
  "TokenizerConfig",
  "TokenizerFolder",
  "UnspellableError",
  "check_tokenizer_of_weights",
  "make_tokenizer",
  "split_control",
  "stop_names",
  "tokenizer_folder",
  "train_sentencepiece",
  "with_local_files",
]
