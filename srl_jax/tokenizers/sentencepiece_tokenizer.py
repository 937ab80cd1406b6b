# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models: reading one, and training a small one."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import sentencepiece as spm

from srl_jax.tokenizers.protocol import TableTokenizer, check_exact

_SPACE = "\u2581"  # how SentencePiece writes a space inside a piece

_RESERVED = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0 to 3
# What srl_jax.data.templates.PlainTemplate asks for, besides the reserved.
PLAIN_SPECIALS = ("<step>", "<solve>")

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


class SentencePieceTokenizer(TableTokenizer):
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
    model = _load(proto, path)
    if control:
      proto = _with_control(proto, control)
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
      byte_ids=[byte_ids[b] for b in range(256)],
      pad_id=max(model.pad_id(), 0),
      space_mark=_SPACE,
    )
    self._model = model
    check_exact(self, path)

  def _encode_plain(self, text: str) -> list[int]:
    return self._model.encode(text)

  def _encode_unchanged(self, text: str) -> list[int]:
    return self._with_space_rules.encode(text)


def read_file(path: str) -> bytes:
  """Returns a tokenizer file's bytes; ValueError says what is missing."""
  if not path or not os.path.isfile(path):
    raise ValueError(
      f"tokenizer file {path!r} does not exist; set tokenizer.path to the "
      "folder of a Hugging Face checkpoint, or to a SentencePiece .model."
    )
  data = pathlib.Path(path).read_bytes()
  if not data:
    raise ValueError(f"tokenizer file {path!r} is empty; fetch it again.")
  return data


def _load(proto: bytes, path: str) -> spm.SentencePieceProcessor:
  try:
    return spm.SentencePieceProcessor(model_proto=proto)
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      f"{path}: not a SentencePiece model ({error}); for a tokenizer.json "
      'set tokenizer.kind = "huggingface".'
    ) from error


def _with_control(proto: bytes, control: Collection[str]) -> bytes:
  """Makes pieces control tokens, so that no text can become one."""
  # Imported here, as below: most models do not need it.
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto.FromString(proto)
  for piece in model.pieces:
    if piece.piece in control and piece.type != piece.UNKNOWN:
      piece.type = piece.CONTROL
  return model.SerializeToString()


def _without_space_rules(proto: bytes) -> bytes:
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto.FromString(proto)
  model.normalizer_spec.add_dummy_prefix = False
  model.normalizer_spec.remove_extra_whitespaces = False
  return model.SerializeToString()


def train_sentencepiece(
  texts: Iterable[str],
  vocab_size: int,
  specials: Sequence[str],
  path: str | os.PathLike[str],
  *,
  text_symbols: Sequence[str] = ("<think>", "</think>"),
  max_piece_chars: int = 16,
) -> SentencePieceTokenizer:
  """Trains a BPE model on texts, writes it to path and returns it.

  The same texts in the same order give the same file, byte for byte (one
  thread, no sampling, no shuffling). The model has byte fallback, splits
  digits and does not normalise. Ids 0 to 3 are <pad>, <s>, </s> and <unk>;
  then come the other control tokens, the text symbols, the 256 bytes, and
  the learnt pieces.

  Args:
    texts: training texts; lines are learnt from separately.
    vocab_size: upper bound on the pieces; little text gives fewer.
    specials: control tokens besides the first four.
    path: where the model is written, atomically, so that several processes
      may train the same one at once.
    text_symbols: strings that are always one token of plain text.
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
      user_defined_symbols=list(text_symbols),
      max_sentencepiece_length=max_piece_chars,
      **_TRAINER,
    )
  except (RuntimeError, ValueError) as error:
    need = 260 + len(specials) + len(text_symbols)
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
