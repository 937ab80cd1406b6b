# SPDX-License-Identifier: Apache-2.0
"""What the rest of the package may ask of a tokenizer.

Every tokenizer here is *exact*: the bytes of the tokens of a text, joined,
are the UTF-8 of that text. Rewards compare characters, so a tokenizer that
drops a space or folds an accent would change what is trained. It is also
*safe*: a text never becomes a control token, whatever a user typed; control
tokens come from `special_id` alone. The wording of prompts is decided in
srl_jax.data.templates.
"""

from __future__ import annotations

import copy
import functools
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence


class UnspellableError(ValueError):
  """A text needs bytes for which the tokenizer has no tokens."""


# The largest real ones (Gemma 3's tokenizer.json) have 33 MB.
_MAX_FILE_BYTES = 1 << 28


def read_file(path: str) -> bytes:
  """Returns a tokenizer file's bytes; ValueError says what is wrong."""
  if not path or not os.path.isfile(path):
    raise ValueError(
      f"tokenizer file {path!r} does not exist; set tokenizer.path to the "
      "folder of a Hugging Face checkpoint, or to a SentencePiece .model."
    )
  size = os.path.getsize(path)
  if size > _MAX_FILE_BYTES:
    raise ValueError(
      f"tokenizer file {path!r} has {size:,} bytes, and no real one has more "
      f"than {_MAX_FILE_BYTES:,}; fetch it again."
    )
  data = pathlib.Path(path).read_bytes()
  if not data:
    raise ValueError(f"tokenizer file {path!r} is empty; fetch it again.")
  return data


def split_control(text: str, names: Collection[str]) -> list[str]:
  """Cuts text at names of control tokens; every second part is a name.

  The leftmost name is taken first, and of several at one place the longest.
  """
  return _at_names(frozenset(names)).split(text)


@functools.lru_cache(16)
def _at_names(names: frozenset[str]) -> re.Pattern[str]:
  longest_first = sorted(names, key=len, reverse=True)
  return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


class Tokenizer:
  """Text to token ids and back, exactly: an encoder, and a table of bytes.

  Subclasses implement `_encode_plain`. It never gets a text that contains
  `space_mark`, the character that some models write for a space: where a text
  contains that character itself, it is spelt with byte tokens.

  Attributes:
    vocab_size: ids are in [0, vocab_size). A model may have more rows.
    pad_id: id that fills up rows; masks hide it, so any valid id would do.
    control_names: names that `special_id` knows.
    missing_bytes: bytes that have no token.
    space_mark: see above; None if the model writes spaces as they are.
  """

  def __init__(
    self,
    table: Sequence[bytes],
    specials: Mapping[str, int],
    byte_ids: Mapping[int, int],
    pad_id: int,
    space_mark: str | None = None,
  ) -> None:
    """Keeps the tables.

    Args:
      table: bytes of each id; empty for an id without a token.
      specials: id of each control token.
      byte_ids: byte -> id of its token. A byte may be missing: then `encode`
        refuses the texts that cannot be spelt without it.
      pad_id: see the class.
      space_mark: character that the model writes for a space.
    """
    self.vocab_size = len(table)
    self.pad_id = pad_id
    self._table = tuple(table)
    self._specials = dict(specials)
    self.control_names = frozenset(self._specials)
    self._byte_ids = dict(byte_ids)
    self.missing_bytes = frozenset(range(256)) - self._byte_ids.keys()
    self._control = frozenset(self._specials.values())
    self.space_mark = space_mark

  def _encode_plain(self, text: str) -> list[int]:
    raise NotImplementedError

  def _encode_unchanged(self, text: str) -> list[int]:
    """Ids by the tokenizer's original file, where a reader changes it."""
    return self.encode(text)

  def _spell(self, data: bytes) -> list[int]:
    if not self.missing_bytes.isdisjoint(data):
      raise self._unspellable(data.decode("utf-8", "replace"))
    return [self._byte_ids[b] for b in data]

  def _unspellable(self, text: str) -> UnspellableError:
    at, missing = next(
      (at, missing)
      for at, character in enumerate(text)
      if (missing := self.missing_bytes.intersection(character.encode()))
    )
    character, shown = text[at], text[max(0, at - 20) : at + 20]
    return UnspellableError(
      f"the tokenizer has no token for the byte 0x{min(missing):02X} of the "
      f"character {character!r} in {shown!r}; take this text out, write it "
      "without that character, or use a tokenizer with all 256 bytes (Qwen, "
      "Llama 3, Gemma)"
    )

  def encode(self, text: str) -> list[int]:
    """Returns the ids of plain text, never a control token.

    Raises:
      UnspellableError: the text needs a byte that has no token.
    """
    if not text:
      return []
    ids = self._encode(text)
    # Encoders drop what they cannot spell. A longer token may still have the
    # byte, so the ids decide.
    if self.missing_bytes and not self.missing_bytes.isdisjoint(text.encode()):
      spelt = b"".join(self._table[i] for i in ids)
      if spelt != text.encode():
        raise self._unspellable(text)
    return ids

  def _encode(self, text: str) -> list[int]:
    mark = self.space_mark
    if mark is None or mark not in text:
      return self._without_control(self._encode_plain(text))
    ids: list[int] = []
    for i, part in enumerate(text.split(mark)):
      if i:
        ids += self._spell(mark.encode())
      if part:
        ids += self._without_control(self._encode_plain(part))
    return ids

  def _without_control(self, ids: list[int]) -> list[int]:
    # Unigram models keep "</s>" among their pieces and would match it in a
    # user's text. Every model here can spell any byte, so nothing is lost.
    if self._control.isdisjoint(ids):
      return ids
    out: list[int] = []
    for i in ids:
      out += self._spell(self._table[i]) if i in self._control else [i]
    return out

  def special_id(self, name: str) -> int:
    """Returns the id of a control token such as "</s>" or "<|im_end|>".

    Raises:
      ValueError: there is no such control token, and the message lists them;
        or the model has no such id.
    """
    if name not in self._specials:
      known = " ".join(sorted(self._specials)) or "(none)"
      raise ValueError(
        f"this tokenizer has no control token {name!r}; it has: {known}. "
        "Choose a template whose control tokens the tokenizer has, or a "
        "tokenizer made for that template."
      )
    token = self._specials[name]
    if token >= self.vocab_size:
      raise ValueError(
        f"the control token {name!r} is {token}, and the model has only "
        f"{self.vocab_size} tokens (c.model.vocab_size); choose a template "
        "without it, or the tokenizer that the weights were trained with"
      )
    return token

  def limited(self, size: int) -> Tokenizer:
    """Returns the tokenizer for a model that has only ids below `size`.

    Control tokens may lie beyond, such as a text model's <image_soft_token>;
    `special_id` refuses them.

    Raises:
      ValueError: a token of plain text lies beyond.
    """
    for token, spelt in enumerate(self._table[size:], start=size):
      if spelt and token not in self._control:
        raise ValueError(
          f"the tokenizer has {self.vocab_size} tokens and the model only "
          f"{size} (c.model.vocab_size), so that there is none for "
          f"{spelt.decode('utf-8', 'replace')!r}, which is {token}; they do "
          "not belong together: set c.model.vocab_size=0 for a new model, or "
          "the tokenizer that the weights were trained with"
        )
    limited = copy.copy(self)
    limited.vocab_size = min(size, self.vocab_size)
    # Masks hide padding, so that any id will do.
    limited.pad_id = self.pad_id if self.pad_id < size else 0
    return limited

  def token_bytes(self, token: int) -> bytes:
    """Returns the bytes of a token.

    Those of a control token are its name. An id without a token decodes to no
    bytes: models pad their vocabulary, so they can sample such an id.

    Raises:
      ValueError: the id is negative.
    """
    if token < 0:
      raise ValueError(f"token id {token} is negative; ids start at 0.")
    return self._table[token] if token < len(self._table) else b""

  def byte_pieces(self) -> dict[str, int]:
    """Returns the ids of the bytes' tokens by their names, as "<0x0A>"."""
    return {f"<0x{byte:02X}>": i for byte, i in self._byte_ids.items()}

  def pieces(self) -> dict[str, int]:
    """Returns the ids of all tokens, by their names in Hugging Face's files.

    Bytes are named as in `byte_pieces`, and spaces written as the space mark.
    """
    found = self.byte_pieces()
    apart = {*found.values(), *self._specials.values()}
    for i, data in enumerate(self._table):
      if data and i not in apart:
        piece = data.decode()
        found[piece.replace(" ", self.space_mark or " ")] = i
    return found | self._specials

  def symbols(self) -> list[str]:
    """Returns the names of tokens that are matched first, as plain text."""
    return []

  def decode(self, tokens: Iterable[int]) -> str:
    """Returns the joined bytes as text, bad UTF-8 replaced by U+FFFD."""
    data = b"".join(self.token_bytes(int(t)) for t in tokens)
    return data.decode("utf-8", "replace")

  def encode_rendered(self, text: str) -> list[int]:
    """Returns the ids of a prompt in which control tokens are spelt out.

    They are the ids that the software of the checkpoint gives for a rendered
    prompt, and serve for comparison only. It is not safe: a control token's
    name that a user typed becomes that control token.
    """
    ids: list[int] = []
    for i, part in enumerate(split_control(text, self.control_names)):
      ids += [self._specials[part]] if i % 2 else self._encode_unchanged(part)
    return ids


# It holds spaces that normalisers trim or merge, accents that they compose,
# wide letters that they fold, characters outside of any vocabulary, and a word
# that tokenizers made for retrieval lower-case.
PROBE = (
  "  Two  spaces\t\r\n e\u0301 Ａ ﬁ \u2581 \x00 🙂 你好 नमस्ते \\frac{1}{2}  "
)


def check_exact(tokenizer: Tokenizer, path: str) -> None:
  """Raises ValueError if the bytes of a text's tokens are not the text."""
  missing = tokenizer.missing_bytes
  probe = "".join(c for c in PROBE if missing.isdisjoint(c.encode()))
  back = tokenizer.decode(tokenizer.encode(probe))
  if back != probe:
    raise ValueError(
      f"{path}: this tokenizer changes text: {probe!r} comes back as "
      f"{back!r}. Rewards compare characters, so only exact tokenizers are "
      "allowed: byte-level BPE, or a model with byte fallback and no "
      "normalisation. Use such a file (the ones of Qwen, Llama and Gemma "
      "are), or train one with srl_jax.tokenizers.train_sentencepiece."
    )
