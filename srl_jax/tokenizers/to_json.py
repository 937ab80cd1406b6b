# SPDX-License-Identifier: Apache-2.0
"""Writes a tokenizer as the tokenizer.json that other software reads.

For SentencePiece models by BPE, and for bytes. A checkpoint of others keeps the
files that it came with.
"""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, normalizers

from srl_jax.tokenizers.tokenizer import PROBE, Tokenizer


def tokenizer_json(tokenizer: Tokenizer) -> str | None:
  """Returns a tokenizer.json that gives the ids of a tokenizer.

  Two texts differ there, as in all such files: the name of a control token
  becomes that token, and a typed space mark becomes a space.

  Args:
    tokenizer: a SentencePiece model or bytes.

  Returns:
    The file's text; None if the ids would be others, as of a unigram model.
  """
  pieces, mark = tokenizer.pieces(), tokenizer.space_mark
  symbols = tokenizer.symbols()
  apart = {*symbols, *tokenizer.control_names, *tokenizer.byte_pieces()}
  plain = dict.fromkeys(piece for piece in pieces if piece not in apart)
  # SentencePiece merges the two parts that give the piece of the best score,
  # and training puts pieces in the order of their scores.
  merges = [
    (piece[:at], piece[at:])
    for piece in plain
    for at in range(1, len(piece))
    if piece[:at] in plain and piece[at:] in plain
  ]
  model = models.BPE(vocab=pieces, merges=merges, byte_fallback=True)
  fast = tokenizers.Tokenizer(model)
  steps = [decoders.ByteFallback(), decoders.Fuse()]
  if mark:
    fast.normalizer = normalizers.Replace(" ", mark)
    steps.insert(0, decoders.Replace(mark, " "))
  fast.decoder = decoders.Sequence(steps)
  for names, is_special in ((tokenizer.control_names, True), (symbols, False)):
    fast.add_tokens(
      [
        tokenizers.AddedToken(name, special=is_special, normalized=False)
        for name in sorted(names, key=pieces.__getitem__)
      ]
    )
  text = fast.to_str()
  fast.encode_special_tokens = True
  return text if _is_exact(fast, tokenizer, plain) else None


def _is_exact(fast, tokenizer, plain) -> bool:
  """Whether texts of many pieces have the same ids."""
  words = [piece.replace(tokenizer.space_mark or " ", " ") for piece in plain]
  probe = PROBE.replace(tokenizer.space_mark or " ", " ")
  texts = [probe, "".join(words), " ".join(words), "".join(words[::-1])]
  return all(fast.encode(x).ids == tokenizer.encode(x) for x in texts)
