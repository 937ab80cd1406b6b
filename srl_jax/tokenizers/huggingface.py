# SPDX-License-Identifier: Apache-2.0
"""Hugging Face `tokenizer.json` files, through the `tokenizers` library.

This module reads only that file, and needs no transformers; folder.py reads
the other files of a checkpoint. Three families are understood: byte-level BPE
(GPT-2, Llama 3, Qwen), models that write a mark for a space and fall back to
bytes (Llama 2, Gemma), and plain models with byte fallback.
"""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Collection
from typing import Any

import tokenizers

from srl_jax.tokenizers.probe import check_file
from srl_jax.tokenizers.tokenizer import (
  Tokenizer,
  UnspellableError,
  check_exact,
  read_file,
)

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_INSIDE_BYTE_PIECE = re.compile(r"(?<=<)(?=0x[0-9A-F]{2}>)")
# Qwen's "<|fim_prefix|>" and DeepSeek's "<｜User｜>" steer the model as control
# tokens do, but their files do not flag them as special.
_CONTROL_SHAPE = re.compile(r"<[|｜].*[|｜]>")
# What a word or a byte is never named.
_BRACKETS = re.compile(r"<.+>|\[.+\]")
_PAD_NAMES = (
  "<pad>",
  "[PAD]",
  "<|pad|>",
  "<|finetune_right_pad_id|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "</s>",
)


class HuggingFaceTokenizer(Tokenizer):
  """A tokenizer.json whose tokens give back the text exactly.

  The parts of a file that would change the text are left out: those that
  compose accents (NFC, as in Qwen), put a space before the text (Llama 2), or
  let added tokens swallow spaces. For text on which they would do nothing, the
  ids are those of Hugging Face.

  Control tokens are the added tokens that are flagged as special or named
  "<|..|>". Other added tokens, such as "<think>" in Qwen3, are plain text.
  """

  def __init__(
    self, path: str | os.PathLike[str], control: Collection[str] = ()
  ) -> None:
    """Reads a tokenizer.json.

    Args:
      path: the file.
      control: names of further added tokens that are control tokens, although
        the file does not flag them.

    Raises:
      ValueError: not such a file, or its tokens cannot spell every text.
    """
    path = os.fspath(path)
    spec = _read_spec(path)
    check_file(path)
    try:
      space_mark = _make_exact(spec, control)
      added = {t["content"]: t for t in spec["added_tokens"]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f"{path}: not a tokenizer.json as the tokenizers library writes it "
        f"({error!r}); fetch it again"
      ) from error
    try:
      model = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises a bare Exception
      raise ValueError(
        f"{path}: the tokenizers library cannot read it: {error}"
      ) from error
    # This makes the names of special tokens in a text plain text.
    model.encode_special_tokens = True

    vocab = model.get_vocab(with_added_tokens=True)
    spell = _byte_level if _is_byte_level(spec) else _byte_fallback
    table = [b""] * (max(vocab.values()) + 1)
    byte_ids: dict[int, int] = {}
    for token, i in vocab.items():
      if token in added:
        # Gemma's runs of spaces are added tokens, written with the mark.
        is_text = space_mark and not added[token]["special"]
        table[i] = (
          token.replace(space_mark, " ") if is_text else token
        ).encode()
        continue
      table[i] = spell(token, space_mark)
      if len(table[i]) == 1 and (
        spell is _byte_level or _BYTE_PIECE.fullmatch(token)
      ):
        byte_ids[table[i][0]] = i
    # Gemma's file has the tab itself in place of its byte.
    if "\t" in vocab:
      byte_ids.setdefault(ord("\t"), vocab["\t"])
    _check_bytes(byte_ids, path, is_byte_level=spell is _byte_level)
    specials = {
      name: vocab[name] for name, token in added.items() if token["special"]
    }
    super().__init__(
      table=table,
      specials=specials,
      byte_ids=byte_ids,
      pad_id=next((specials[n] for n in _PAD_NAMES if n in specials), 0),
      space_mark=space_mark,
    )
    self._model, self._path = model, path
    self._is_unigram = spec["model"].get("type") == "Unigram"
    check_exact(self, path)

  def _encode_plain(self, text: str) -> list[int]:
    try:
      return self._encode_by_library(text)
    except BaseException as error:
      # The library's panics are no Exceptions, and cannot be imported.
      if type(error).__name__ != "PanicException":
        raise
      raise UnspellableError(
        f"{self._path}: the tokenizers library fails ({error}) on the text "
        f"{text[:80]!r}; take this text out, or use another tokenizer"
      ) from error

  def _encode_by_library(self, text: str) -> list[int]:
    if not self._is_unigram:
      return self._model.encode(text, add_special_tokens=False).ids
    # Unigram would take a typed "<0x41>" for the byte piece of "A".
    parts = _INSIDE_BYTE_PIECE.split(text)
    encoded = self._model.encode_batch(parts, add_special_tokens=False)
    return [i for part in encoded for i in part.ids]

  @functools.cached_property
  def _unchanged(self) -> tokenizers.Tokenizer:
    """The original file, with everything that `_make_exact` takes out."""
    model = tokenizers.Tokenizer.from_file(self._path)
    model.no_truncation()
    model.no_padding()
    return model

  def encode_rendered(self, text: str) -> list[int]:
    """Returns the ids that Hugging Face's software gives for a prompt."""
    return self._unchanged.encode(text, add_special_tokens=False).ids


def _read_spec(path: str) -> dict[str, Any]:
  data = read_file(path)
  try:
    spec = json.loads(data)
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f"{path}: not a tokenizer.json ({error}); for a SentencePiece .model "
      'set tokenizer.kind = "sentencepiece".'
    ) from error
  has_model = isinstance(spec, dict) and isinstance(spec.get("model"), dict)
  if not has_model:
    raise ValueError(
      f'{path}: not a tokenizer.json: it has no "model" object. Other JSON '
      "files of a checkpoint (config.json, tokenizer_config.json) will not "
      "do."
    )
  return spec


# SmolLM2 has 235, BLOOM and ModernBERT a few less than 256.
_FEWEST_BYTES = 128


def _check_bytes(
  byte_ids: Collection[int], path: str, is_byte_level: bool
) -> None:
  """Warns of bytes without a token, or refuses the file if it lacks many."""
  missing = set(range(256)) - set(byte_ids)
  if not missing:
    return
  if not is_byte_level or len(byte_ids) < _FEWEST_BYTES:
    raise ValueError(
      f"{path}: the vocabulary has tokens for {len(byte_ids)} single "
      "bytes, not 256, so it cannot spell every text; use a byte-level "
      "BPE tokenizer (Qwen, Llama 3) or one with byte fallback (Gemma)."
    )
  names = " ".join(f"{byte:02X}" for byte in sorted(missing))
  warnings.warn(
    f"{path}: the vocabulary lacks tokens for {len(missing)} of the 256 bytes "
    f"({names}); a text that needs one of them is refused",
    stacklevel=3,
  )


def _parts(node: dict[str, Any] | None) -> list[dict[str, Any]]:
  """Returns a component, or the components of a Sequence, in order."""
  if node is None:
    return []
  if node["type"] != "Sequence":
    return [node]
  inner = node.get("normalizers") or node.get("pretokenizers")
  inner = inner or node.get("decoders") or []
  return [part for child in inner for part in _parts(child)]


def _is_byte_level(spec: dict[str, Any]) -> bool:
  nodes = _parts(spec.get("pre_tokenizer")) + _parts(spec.get("decoder"))
  return any(node["type"] == "ByteLevel" for node in nodes)


def _make_exact(spec: dict[str, Any], control: Collection[str]) -> str | None:
  """Removes what changes text from spec; returns the space mark, if any.

  It also flags the control tokens, so that no text becomes one.
  """
  spec["truncation"] = spec["padding"] = None
  spec["model"].pop("dropout", None)
  mark = None
  kept = []
  for node in _parts(spec.get("normalizer")):
    if node["type"] in ("NFC", "Prepend"):
      continue
    if node["type"] == "Replace" and node["pattern"] == {"String": " "}:
      mark = node["content"]
    kept.append(node)
  spec["normalizer"] = (
    {"type": "Sequence", "normalizers": kept} if kept else None
  )
  for node in _parts(spec.get("pre_tokenizer")):
    if node["type"] == "ByteLevel":
      node["add_prefix_space"] = False
    elif node["type"] == "Metaspace":
      mark = node["replacement"]
      node["prepend_scheme"] = "never"
      node.pop("add_prefix_space", None)
  _add_pieces(spec, control)
  for token in spec["added_tokens"]:
    token["lstrip"] = token["rstrip"] = False
    name = token["content"]
    if name in control or _CONTROL_SHAPE.fullmatch(name):
      token["special"] = True
  return mark


def _add_pieces(spec: dict[str, Any], control: Collection[str]) -> None:
  """Makes pieces of the vocabulary added tokens, if they are control tokens."""
  tokens = spec["added_tokens"] = list(spec.get("added_tokens") or ())
  vocab = spec["model"].get("vocab")
  if isinstance(vocab, dict):
    there = {token["content"] for token in tokens}
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    tokens += [
      {"id": vocab[name], "content": name, **dict.fromkeys(flags, False)}
      | {"special": True}
      for name in control
      if name in vocab and name not in there and _BRACKETS.fullmatch(name)
    ]


def byte_characters() -> dict[str, int]:
  """Returns the byte behind each character of byte-level BPE (GPT-2).

  Printable Latin-1 characters stand for themselves. The characters from U+0100
  on stand for the other bytes, in order.
  """
  table = {}
  shifted = 0
  for byte in range(256):
    if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
      table[chr(byte)] = byte
    else:
      table[chr(256 + shifted)] = byte
      shifted += 1
  return table


_BYTE_CHARACTERS = byte_characters()


def _byte_level(token: str, space_mark: str | None) -> bytes:
  del space_mark
  try:
    return bytes(_BYTE_CHARACTERS[c] for c in token)
  except KeyError:
    return token.encode()  # Not made of byte characters: kept, as in HF.


def _byte_fallback(token: str, space_mark: str | None) -> bytes:
  byte = _BYTE_PIECE.fullmatch(token)
  if byte:
    return bytes([int(byte.group(1), 16)])
  return (token.replace(space_mark, " ") if space_mark else token).encode()
