# SPDX-License-Identifier: Apache-2.0
"""From a config to a tokenizer."""

from __future__ import annotations

import dataclasses
import filecmp
import os
from collections.abc import Iterable
from typing import Literal

from srl_jax import storage, strict
from srl_jax.storage import hub
from srl_jax.tokenizers.byte import ByteTokenizer
from srl_jax.tokenizers.folder import (
  TokenizerFolder,
  check_ids,
  find_tokenizer,
  read_tokenizer_folder,
)
from srl_jax.tokenizers.huggingface import HuggingFaceTokenizer
from srl_jax.tokenizers.sentencepiece_tokenizer import (
  PLAIN_SPECIALS,
  SentencePieceTokenizer,
  train_sentencepiece,
)
from srl_jax.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """Which tokenizer.

  Attributes:
    kind: "huggingface" (the tokenizer.json of a checkpoint, or else its
      tokenizer.model), "sentencepiece" (a .model file by itself) or "byte"
      (one token per byte, no file).
    path: the checkpoint's folder or its name on the Hugging Face hub, or the
      file; with train_vocab_size, where
      the new one is written.
    train_vocab_size: for "sentencepiece": 0 reads the file; more trains a
      model of at most that many pieces on the training texts, unless path
      exists already (a resumed run must keep its tokenizer).
    max_piece_chars: longest piece that training may learn; 1 gives one token
      per character.
  """

  kind: Literal["byte", "sentencepiece", "huggingface"] = "byte"
  path: str = ""
  train_vocab_size: int = 0
  max_piece_chars: int = 16

  def __post_init__(self) -> None:
    strict.check_literals(self)
    strict.check_numbers(
      self, train_vocab_size="[0, )", max_piece_chars="[1, )"
    )
    if self.kind == "byte" and self.path:
      raise ValueError(
        f'tokenizer.kind is "byte", which reads no file, but tokenizer.path '
        f"is {self.path!r}; set tokenizer.kind to sentencepiece or "
        "huggingface, or the path to ''."
      )
    if self.train_vocab_size and self.kind != "sentencepiece":
      raise ValueError(
        f"tokenizer.train_vocab_size is {self.train_vocab_size} with kind "
        f"{self.kind!r}; only a sentencepiece tokenizer can be trained here. "
        "Set it to 0, or tokenizer.kind to sentencepiece."
      )


def with_local_files(config: TokenizerConfig) -> TokenizerConfig:
  """Returns the config with the path of a checkpoint that lies here.

  A name on the Hugging Face hub, and a folder in a bucket, are fetched.

  Raises:
    ValueError: there is neither such a folder nor such a name.
  """
  if config.kind != "huggingface" or not config.path:
    return config
  if os.path.isfile(config.path):
    return config
  # Of one file of a folder elsewhere, what is beside it is wanted too.
  folder = config.path.removesuffix("/tokenizer.json")
  path = str(hub.fetch(folder, storage.SMALL_FILES))
  return dataclasses.replace(config, path=path)


def make_tokenizer(
  config: TokenizerConfig, texts: Iterable[str] | None = None
) -> Tokenizer:
  """Reads, or trains on texts, the tokenizer that config describes.

  Raises:
    ValueError: the file is missing or unfit, or there is nothing to train on.
  """
  if config.kind == "byte":
    return ByteTokenizer()
  path = storage.path(config.path)
  if config.train_vocab_size and not (config.path and path.exists()):
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
    with storage.written(path) as file:
      return train_sentencepiece(
        texts,
        config.train_vocab_size,
        PLAIN_SPECIALS,
        os.fspath(file),
        max_piece_chars=config.max_piece_chars,
      )
  if config.kind == "sentencepiece":
    # Its reader says what is wrong with an empty path.
    file = storage.local_copy(path) if config.path else ""
    return SentencePieceTokenizer(file)
  return _of_checkpoint(read_tokenizer_folder(config.path))


def tokenizer_folder(config: TokenizerConfig) -> TokenizerFolder | None:
  """Reads the checkpoint that the tokenizer belongs to; None without one."""
  return (
    read_tokenizer_folder(config.path) if config.kind == "huggingface" else None
  )


def _of_checkpoint(checkpoint: TokenizerFolder) -> Tokenizer:
  path = checkpoint.tokenizer_file
  if path.suffix == ".model":
    # A name without an id is a control token if it is a piece.
    control = dict.fromkeys(checkpoint.named, -1) | checkpoint.control
    tokenizer = SentencePieceTokenizer(path, control)
  else:
    tokenizer = HuggingFaceTokenizer(path, checkpoint.named)
  check_ids(checkpoint, tokenizer)
  pad = checkpoint.special_tokens.get("pad_token")
  if pad in tokenizer.control_names:
    tokenizer.pad_id = tokenizer.special_id(pad)
  return tokenizer


def check_tokenizer_of_weights(
  config: TokenizerConfig, tokenizer: Tokenizer, weights: str
) -> None:
  """Raises ValueError if weights are a checkpoint with other token ids.

  Args:
    config: config of the tokenizer.
    tokenizer: the tokenizer that config describes.
    weights: where the parameters come from. Anything but a folder with a
      tokenizer file of its own is accepted, as there is nothing to compare.
  """
  there = storage.path(weights)
  if storage.is_remote(there):
    there = storage.local_copy(there)
  theirs = find_tokenizer(there)
  if theirs is None:
    return
  if config.kind == "huggingface":
    mine = read_tokenizer_folder(config.path).tokenizer_file
    if mine.name == theirs.name and filecmp.cmp(mine, theirs, shallow=False):
      return
  other = _of_checkpoint(read_tokenizer_folder(weights))
  for i in range(max(tokenizer.vocab_size, other.vocab_size)):
    here, there = tokenizer.token_bytes(i), other.token_bytes(i)
    if here != there:
      raise ValueError(
        f"c.weights={weights!r} has a tokenizer of its own, in which id {i} is "
        f"{_shown(there)}; in the tokenizer of the run "
        f"(c.tokenizer.path={config.path!r}) it is {_shown(here)}. Set "
        f"c.tokenizer.kind='huggingface' and c.tokenizer.path={weights!r}"
      )


def _shown(token: bytes) -> str:
  return repr(token.decode("utf-8", "replace")) if token else "no token"
