# SPDX-License-Identifier: Apache-2.0
"""The tokenizer.json of a tokenizer of ours gives its ids."""

import importlib.resources
import json
import random

import pytest
import sentencepiece as spm
import tokenizers

from srl_jax.tokenizers import (
  ByteTokenizer,
  HuggingFaceTokenizer,
  SentencePieceTokenizer,
  train_sentencepiece,
)
from srl_jax.tokenizers.to_json import tokenizer_json
from tests.support import checkpoints

SPECIALS = ("<step>", "<solve>")
# Pieces can overlap in many ways.
PERIODIC = ["ababababa aaaaaaaa abaabaaba"] * 30


def make(kind, folder):
  if kind == "byte":
    return ByteTokenizer()
  if kind == "student":
    assets = importlib.resources.files("srl_jax") / "assets"
    return SentencePieceTokenizer(assets / "registers_student/tokenizer.model")
  texts = PERIODIC if kind == "periodic" else checkpoints.corpus()
  return train_sentencepiece(texts, 900, SPECIALS, folder / "t.model")


def texts_of(tokenizer):
  """Texts of its pieces at random, after some of people."""
  draw = random.Random(0)
  pieces = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
  own = ["ab", "a", " ", "  ", "\n\n", "é", "🙂", "<think>", "</think>"]
  yield from checkpoints.SAMPLES
  for among in (pieces, own, "ab "):
    for _ in range(200):
      yield "".join(draw.choices(among, k=draw.randint(1, 30)))


@pytest.mark.parametrize("kind", ["byte", "student", "corpus", "periodic"])
def test_texts_have_the_same_ids_and_come_back(kind, tmp_path):
  tokenizer = make(kind, tmp_path)
  file = tmp_path / "tokenizer.json"
  file.write_text(tokenizer_json(tokenizer), encoding="utf-8")
  theirs = tokenizers.Tokenizer.from_file(str(file))
  ours = HuggingFaceTokenizer(file)
  assert theirs.get_vocab_size() == tokenizer.vocab_size
  names = sorted(tokenizer.control_names)
  assert sorted(ours.control_names) == names
  for i in range(tokenizer.vocab_size):
    assert ours.token_bytes(i) == tokenizer.token_bytes(i)
  for text in texts_of(tokenizer):
    want = tokenizer.encode(text)
    assert ours.encode(text) == want
    if not any(name in text for name in names):
      assert theirs.encode(text).ids == want
      if "\ufffd" not in text:
        assert theirs.decode(want, skip_special_tokens=True) == text
  for name in names:
    assert theirs.encode(f"a{name}").ids[-1] == tokenizer.special_id(name)
  typed = "▁ <0x41> <s>"
  assert ours.encode(typed) == tokenizer.encode(typed)


def test_think_tags_are_no_special_tokens(tmp_path):
  # Else software that leaves special tokens out would hide them.
  added = json.loads(tokenizer_json(make("student", tmp_path)))["added_tokens"]
  found = {x["content"] for x in added if not x["special"]}
  assert found == {"<think>", "</think>"}


def test_a_unigram_model_has_none(tmp_path):
  texts = checkpoints.corpus()
  spm.SentencePieceTrainer.train(
    sentence_iterator=iter([x for text in texts for x in text.splitlines()]),
    model_prefix=str(tmp_path / "m"),
    model_type="unigram",
    vocab_size=900,
    hard_vocab_limit=False,
    byte_fallback=True,
    normalization_rule_name="identity",
    required_chars="▁",
    minloglevel=2,
  )
  assert tokenizer_json(SentencePieceTokenizer(tmp_path / "m.model")) is None
