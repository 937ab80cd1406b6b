# SPDX-License-Identifier: Apache-2.0
"""Training a SentencePiece model, and mistakes made on the way."""

import pytest
import sentencepiece as spm

from srl_jax.tokenizers import (
  SentencePieceTokenizer,
  TokenizerConfig,
  make_tokenizer,
  train_sentencepiece,
)

CORPUS = [
  "The quick brown fox jumps over the lazy dog 1234567890.",
  "def f(x):\n  return x + 1\n\n\nprint(f(41))",
  "\\frac{1}{2} + \\sqrt{x^2} = \\boxed{42}",
] * 4


def test_training_is_deterministic_and_lays_out_ids(tmp_path):
  first, second = tmp_path / "a.model", tmp_path / "b.model"
  tokenizer = train_sentencepiece(CORPUS, 400, ("<step>", "<solve>"), first)
  train_sentencepiece(CORPUS, 400, ("<step>", "<solve>"), second)
  assert first.read_bytes() == second.read_bytes()
  names = ["<pad>", "<s>", "</s>", "<unk>", "<step>", "<solve>"]
  assert [tokenizer.special_id(n) for n in names] == list(range(6))
  assert tokenizer.encode("<think></think>") == [6, 7]
  assert tokenizer.pad_id == 0
  assert tokenizer.vocab_size <= 400
  # Digits never merge, however often they stand together.
  pieces = [tokenizer.token_bytes(i) for i in range(264, tokenizer.vocab_size)]
  assert not [
    p for p in pieces if len(p) > 1 and any(b"0"[0] <= c <= b"9"[0] for c in p)
  ]
  assert [p for p in pieces if len(p) > 3]  # but words do


def test_max_piece_chars_one_gives_characters(tmp_path):
  tokenizer = train_sentencepiece(
    CORPUS, 400, (), tmp_path / "c.model", max_piece_chars=1
  )
  assert len(tokenizer.encode("The quick brown fox")) == 19


def test_make_tokenizer_trains_once_and_then_reads(tmp_path):
  path = str(tmp_path / "sub" / "t.model")
  config = TokenizerConfig("sentencepiece", path, train_vocab_size=400)
  first = make_tokenizer(config, CORPUS)
  again = make_tokenizer(config, ["completely different text"] * 9)
  assert first.encode(CORPUS[0]) == again.encode(CORPUS[0])
  with pytest.raises(ValueError, match=r"tokenizer\.path does not say where"):
    make_tokenizer(TokenizerConfig("sentencepiece", "", 400), CORPUS)
  with pytest.raises(ValueError, match="no texts were given"):
    make_tokenizer(TokenizerConfig("sentencepiece", path + "2", 400))


def test_config_mistakes_say_what_to_type():
  with pytest.raises(ValueError, match="reads no file"):
    TokenizerConfig(kind="byte", path="x.model")
  with pytest.raises(ValueError, match="only a sentencepiece tokenizer"):
    TokenizerConfig(kind="byte", train_vocab_size=300)


def test_training_mistakes_say_what_to_type(tmp_path):
  with pytest.raises(ValueError, match="got no text"):
    train_sentencepiece([" ", "\n"], 400, (), tmp_path / "t.model")
  with pytest.raises(ValueError, match=r"train_vocab_size to that or more"):
    train_sentencepiece(CORPUS, 200, (), tmp_path / "t.model")
  assert not list(tmp_path.iterdir())


def test_sentencepiece_without_byte_fallback_is_refused(tmp_path):
  spm.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS),
    model_prefix=str(tmp_path / "m"),
    model_type="char",
    vocab_size=90,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  with pytest.raises(ValueError, match="0 byte pieces, not 256"):
    SentencePieceTokenizer(tmp_path / "m.model")
