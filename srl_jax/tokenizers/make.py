# SPDX-License-Identifier: Apache-2.0
"""From a config to a tokenizer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from srl_jax.tokenizers.byte import ByteTokenizer
from srl_jax.tokenizers.huggingface import HuggingFaceTokenizer
from srl_jax.tokenizers.protocol import Tokenizer
from srl_jax.tokenizers.sentencepiece_tokenizer import (
  PLAIN_SPECIALS,
  SentencePieceTokenizer,
  train_sentencepiece,
)

_READERS = {
  "sentencepiece": SentencePieceTokenizer,
  "huggingface": HuggingFaceTokenizer,
}


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """Which tokenizer.

  Attributes:
    kind: "sentencepiece" (a .model file), "huggingface" (a tokenizer.json,
      or the folder it lies in) or "byte" (one token per byte, no file).
    path: the file; with train_vocab_size, where the new one is written.
    train_vocab_size: for "sentencepiece": 0 reads the file; more trains a
      model of at most that many pieces on the training texts, unless path
      exists already (a resumed run must keep its tokenizer).
    max_piece_chars: longest piece that training may learn; 1 gives one token
      per character.
  """

  kind: str = "byte"
  path: str = ""
  train_vocab_size: int = 0
  max_piece_chars: int = 16

  def __post_init__(self) -> None:
    if self.kind not in ("byte", *_READERS):
      raise ValueError(
        f"tokenizer.kind is {self.kind!r}; it must be one of: byte, "
        + ", ".join(_READERS)
        + "."
      )
    if self.kind == "byte" and self.path:
      raise ValueError(
        f'tokenizer.kind is "byte", which reads no file, but tokenizer.path '
        f"is {self.path!r}; set tokenizer.kind to sentencepiece or "
        "huggingface, or the path to ''."
      )
    if self.max_piece_chars < 1:
      raise ValueError(
        f"tokenizer.max_piece_chars is {self.max_piece_chars}; set it to 1 or "
        "more."
      )
    if self.train_vocab_size < 0 or (
      self.train_vocab_size and self.kind != "sentencepiece"
    ):
      raise ValueError(
        f"tokenizer.train_vocab_size is {self.train_vocab_size} with kind "
        f"{self.kind!r}; only a sentencepiece tokenizer can be trained here. "
        "Set it to 0, or tokenizer.kind to sentencepiece."
      )


def make_tokenizer(
  config: TokenizerConfig, texts: Iterable[str] | None = None
) -> Tokenizer:
  """Reads, or trains on texts, the tokenizer that config describes.

  Raises:
    ValueError: the file is missing or unfit, or there is nothing to train on.
  """
  if config.kind == "byte":
    return ByteTokenizer()
  if config.train_vocab_size and not os.path.exists(config.path):
    if texts is None or not config.path:
      raise ValueError(
        f"tokenizer.train_vocab_size is {config.train_vocab_size}, so a "
        "tokenizer has to be trained, but "
        + (
          "tokenizer.path does not say where to write it."
          if not config.path
          else "no texts were given; set it to 0 to read a file."
        )
      )
    return train_sentencepiece(
      texts,
      config.train_vocab_size,
      PLAIN_SPECIALS,
      config.path,
      max_piece_chars=config.max_piece_chars,
    )
  return _READERS[config.kind](config.path)
