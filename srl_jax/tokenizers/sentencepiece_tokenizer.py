# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models: reading one, and training a small one."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import sentencepiece as spm

from srl_jax.tokenizers.probe import check_file
from srl_jax.tokenizers.tokenizer import (
  Tokenizer,
  check_exact,
  read_file,
)

_SPACE = "\u2581"  # how SentencePiece writes a space inside a piece

_RESERVED = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0 to 3
# What srl_jax.data.templates.PlainTemplate asks for, besides the reserved.
PLAIN_SPECIALS = ("<step>", "<solve>")
_TEXT_SYMBOLS = ("<think>", "</think>")  # always one token of plain text

_TRAINER = {
  "model_type": "bpe",
  "hard_vocab_limit": False,
  "byte_fallback": True,
  "character_coverage": 1.0,
  "normalization_rule_name": "identity",
  "add_dummy_prefix": False,
  "remove_extra_whitespaces": False,
  "allow_whitespace_only_pieces": True,
  "split_digits": True,
  # Byte fallback would spell an unseen space as its mark, not as a space.
  "required_chars": _SPACE,
  "max_sentence_length": 1 << 30,  # bytes; longer lines would be skipped
  "num_threads": 1,
  "shuffle_input_sentence": False,
  "minloglevel": 2,
} | {
  f"{kind}_{what}": value
  for i, (kind, piece) in enumerate(
    zip(("pad", "bos", "eos", "unk"), _RESERVED, strict=True)
  )
  for what, value in (("id", i), ("piece", piece))
}


class SentencePieceTokenizer(Tokenizer):
  """A SentencePiece model with byte fallback, such as Gemma's or our own.

  The dummy space that some models put before a text (Llama 2) and the
  trimming of spaces are switched off, because texts are tokenised in segments
  and must come back exactly. Pieces of the types control and unknown are the
  control tokens; user-defined symbols such as "<think>" are plain text.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    control: Mapping[str, int] | None = None,
  ) -> None:
    """Reads a `.model` file.

    Args:
      path: the file.
      control: id of each further control token. In the file it may be a
        user-defined symbol (Gemma's "<start_of_turn>"), or not be there.

    Raises:
      ValueError: not a SentencePiece model, no byte fallback, or a
        normalisation that changes text.
    """
    path = os.fspath(path)
    proto = read_file(path)
    check_file(path)
    model = _load(proto, path)
    if control:
      proto = _with_control(proto, model, control)
      model = _load(proto, path)
    self._with_space_rules = model
    if model.decode(model.encode("  a  b")) != "  a  b":
      model = _load(_without_space_rules(proto), path)
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    byte_ids = {}
    table = []
    specials = {}
    for i, piece in enumerate(pieces):
      if model.is_byte(i):  # "<0x0A>"
        byte = int(piece[3:5], 16)
        byte_ids[byte] = i
        table.append(bytes([byte]))
      elif model.is_control(i) or model.is_unknown(i):
        specials[piece] = i
        table.append(piece.encode())
      else:
        table.append(piece.replace(_SPACE, " ").encode())
    for name, i in (control or {}).items():
      if i >= len(pieces):
        specials[name] = i
        table += [b""] * (i + 1 - len(table))
        table[i] = name.encode()
    if len(byte_ids) != 256:
      raise ValueError(
        f"{path}: the model has {len(byte_ids)} byte pieces, not 256, so it "
        "cannot spell every text; use a model trained with "
        "--byte_fallback=true."
      )
    super().__init__(
      table=table,
      specials=specials,
      byte_ids=byte_ids,
      pad_id=max(model.pad_id(), 0),
      space_mark=_SPACE,
    )
    self._model = model
    check_exact(self, path)

  def _encode_plain(self, text: str) -> list[int]:
    return self._model.encode(text)

  def symbols(self) -> list[str]:
    messages = _messages(self._model.serialized_model_proto())
    pieces = [message for field, _, message in messages if field == _PIECE]
    return [
      self._model.id_to_piece(i)
      for i, message in enumerate(pieces)
      if message.endswith(_IS_SYMBOL)
    ]

  def _encode_unchanged(self, text: str) -> list[int]:
    return self._with_space_rules.encode(text)


def _load(proto: bytes, path: str) -> spm.SentencePieceProcessor:
  try:
    return spm.SentencePieceProcessor(model_proto=proto)
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      f"{path}: not a SentencePiece model ({error}); for a tokenizer.json "
      'set tokenizer.kind = "huggingface".'
    ) from error


# What is changed in a model is changed in its bytes, by the wire format of
# protocol buffers: sentencepiece's own message classes refuse to be imported
# beside any protobuf older than the one that generated them.
_PIECE, _NORMALIZER = 1, 3  # fields of ModelProto, both of them messages
_IS_CONTROL = b"\x18\x03"  # SentencePiece.type = CONTROL
_IS_SYMBOL = b"\x18\x04"  # USER_DEFINED
# NormalizerSpec.add_dummy_prefix = remove_extra_whitespaces = false
_NO_SPACE_RULES = b"\x18\x00\x20\x00"


def _with_control(
  proto: bytes, model: spm.SentencePieceProcessor, control: Collection[str]
) -> bytes:
  """Makes pieces control tokens, so that no text can become one."""
  changed = {model.piece_to_id(name) for name in control}
  # Also the id of every name that is no piece.
  changed.discard(model.unk_id())
  parts = []
  pieces = 0
  for field, whole, message in _messages(proto):
    if field == _PIECE:
      if pieces in changed:
        # Of a field that is there twice the last one counts.
        whole = _message(_PIECE, message + _IS_CONTROL)
      pieces += 1
    parts.append(whole)
  return b"".join(parts)


def _without_space_rules(proto: bytes) -> bytes:
  # A message that is there twice is merged, field by field.
  return proto + _message(_NORMALIZER, _NO_SPACE_RULES)


def _messages(proto: bytes) -> Iterator[tuple[int, bytes, bytes]]:
  """Yields (number, field, content of the field) of a ModelProto."""
  at = 0
  while at < len(proto):
    start = at
    key, at = _varint(proto, at)
    assert key & 7 == 2, "every field of a ModelProto is a message"
    size, at = _varint(proto, at)
    at += size
    yield key >> 3, proto[start:at], proto[at - size : at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """Returns the number at a position, 7 bits a byte, and where it ends."""
  number = shift = 0
  while True:
    byte = data[at]
    number |= (byte & 0x7F) << shift
    at, shift = at + 1, shift + 7
    if byte < 0x80:
      return number, at


def _message(field: int, content: bytes) -> bytes:
  """Returns a field that holds a message: its key, size and content."""
  size = bytearray()
  rest = len(content)
  while rest >= 0x80:
    size.append(rest & 0x7F | 0x80)
    rest >>= 7
  return bytes([field << 3 | 2, *size, rest]) + content


def train_sentencepiece(
  texts: Iterable[str],
  vocab_size: int,
  specials: Sequence[str],
  path: str | os.PathLike[str],
  *,
  max_piece_chars: int = 16,
) -> SentencePieceTokenizer:
  """Trains a BPE model on texts, writes it to path and returns it.

  The same texts in the same order give the same file, byte for byte (one
  thread, no sampling, no shuffling). The model has byte fallback, splits
  digits and does not normalise. Ids 0 to 3 are <pad>, <s>, </s> and <unk>;
  then come the other control tokens, <think> and </think> as plain text, the
  256 bytes, and the learnt pieces.

  Args:
    texts: training texts; lines are learnt from separately.
    vocab_size: upper bound on the pieces; little text gives fewer.
    specials: control tokens besides the first four.
    path: where the model is written, atomically, so that several processes
      may train the same one at once.
    max_piece_chars: longest learnt piece; 1 gives a character model.

  Raises:
    ValueError: no text, or vocab_size cannot hold the characters of the text.
  """
  lines = _lines(texts)
  specials = [name for name in specials if name not in _RESERVED]
  model = io.BytesIO()
  try:
    spm.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      vocab_size=vocab_size,
      control_symbols=specials,
      user_defined_symbols=list(_TEXT_SYMBOLS),
      max_sentencepiece_length=max_piece_chars,
      **_TRAINER,
    )
  except (RuntimeError, ValueError) as error:
    need = 260 + len(specials) + len(_TEXT_SYMBOLS)
    need += len({c for line in lines for c in line})
    raise ValueError(
      f"cannot train a SentencePiece model of {vocab_size} pieces: the "
      f"characters of the text, 256 bytes and the control tokens need about "
      f"{need}; set tokenizer.train_vocab_size to that or more. ({error})"
    ) from error
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
  temporary.write_bytes(model.getvalue())
  os.replace(temporary, path)
  return SentencePieceTokenizer(path)


def _lines(texts: Iterable[str]) -> list[str]:
  lines = [
    line
    for text in texts
    for line in text.replace(_SPACE, " ").splitlines()
    if line.strip()
  ]
  if not lines:
    raise ValueError(
      "train_sentencepiece got no text; give it the problems and steps of "
      "the training trajectories."
    )
  return lines
