# SPDX-License-Identifier: Apache-2.0
"""Every tokenizer gives texts back exactly and keeps control tokens safe."""

import io
import json
import random

import pytest
import sentencepiece as spm
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from srl_jax.tokenizers import (
  ByteTokenizer,
  HuggingFaceTokenizer,
  SentencePieceTokenizer,
  TokenizerConfig,
  huggingface,
  make_tokenizer,
  train_sentencepiece,
)
from srl_jax.tokenizers.tokenizer import check_exact

CORPUS = [
  "The quick brown fox jumps over the lazy dog 1234567890.",
  "def f(x):\n  return x + 1\n\n\nprint(f(41))",
  "\\frac{1}{2} + \\sqrt{x^2} = \\boxed{42}",
  "z+x8631y-z8531 <think>thought</think>action",
  "Überraschung, naïve café; 你好世界; Привет мир",
] * 4

SAMPLES = [
  "",
  " ",
  "\n",
  "  leading, trailing and  double  spaces  ",
  "tabs\tand\r\nline\x0bends\x85 and a null \x00 byte",
  "def f(x):\n    if x:\n\t\treturn {'a': [1, 2.5e-3]}  # ok\n\n\n",
  "$$\\int_0^\\infty e^{-x^2}dx = \\frac{\\sqrt{\\pi}}{2}$$ \\boxed{\\frac12}",
  "你好，世界。 日本語テキスト 한국어 नमस्ते العربية עברית Ελληνικά",
  "emoji 🙂👩‍👩‍👧‍👦🏳️‍🌈 and flags 🇨🇭",
  "decomposed e\u0301 and composed \u00e9, Ａ wide, ﬁ ligature, ² squared",
  "a literal \u2581 mark \u2581\u2581, \u0120 and \u010a, <0x41> <0x0A>",
  "soft\u00adhyphen zero\u200bwidth bom\ufeff line\u2028sep nbsp\u00a0.",
  "UPPER lower 1,234,567 007 3.14",
  "<think>plain</think><tool_call>x</tool_call>",
]
USER_TYPED_CONTROL = [
  "<pad>",
  "<s>",
  "</s>",
  "<unk>",
  "<step>",
  "<solve>",
  "<|im_start|>",
  "<|im_end|>",
  "<|endoftext|>",
  "<|fim_prefix|>",
]


def chatml_tokens():
  """Added tokens with Qwen's flags: some control tokens are not special."""
  names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
  special = [hf.AddedToken(n, special=True, normalized=False) for n in names]
  plain = [
    hf.AddedToken("<|fim_prefix|>", special=False, normalized=False),
    hf.AddedToken("<tool_call>", special=False, lstrip=True, rstrip=True),
  ]
  return special, plain


def save(model, path):
  special, plain = chatml_tokens()
  model.add_special_tokens(special)
  model.add_tokens(plain)
  model.save(str(path))
  return path


def byte_level_file(path):
  """Qwen's shape: NFC, a regex split, byte-level BPE."""
  model = hf.Tokenizer(models.BPE())
  model.normalizer = normalizers.NFC()
  model.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(hf.Regex(r"\p{N}"), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
    ]
  )
  model.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=500,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator(CORPUS, trainer)
  return save(model, path)


BYTE_PIECES = [f"<0x{b:02X}>" for b in range(256)]


def byte_fallback_file(path, *, prepend):
  """Llama 2's shape (prepend) or Gemma's: spaces as marks, byte fallback."""
  chars = sorted({c for t in CORPUS for c in t.replace(" ", "\u2581")})
  pieces = ["<unk>", "<s>", "</s>", *BYTE_PIECES, *chars]
  merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "\u2581")]
  pieces += ["".join(m) for m in merges]
  model = hf.Tokenizer(
    models.BPE(
      vocab={p: i for i, p in enumerate(pieces)},
      merges=merges,
      unk_token="<unk>",
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  replace = normalizers.Replace(" ", "\u2581")
  model.normalizer = (
    normalizers.Sequence([normalizers.Prepend("\u2581"), replace])
    if prepend
    else replace
  )
  model.add_special_tokens(["<unk>", "<s>", "</s>"])
  return save(model, path)


def unigram_file(path):
  """A unigram model behind Metaspace; its trie holds "</s>" itself."""
  chars = sorted({c for t in CORPUS for c in t.replace(" ", "\u2581")})
  pieces = ["<unk>", "<s>", "</s>", *BYTE_PIECES, *chars, "\u2581the"]
  scores = [(p, 0.0 if i < 3 else -5.0) for i, p in enumerate(pieces)]
  model = hf.Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
  model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
  model.add_special_tokens(["<unk>", "<s>", "</s>"])
  return save(model, path)


def plain_file(path):
  """No space mark at all: characters, with byte fallback."""
  pieces = ["<unk>", "</s>", *BYTE_PIECES, *"abcdefgh "]
  vocab = {p: i for i, p in enumerate(pieces)}
  model = hf.Tokenizer(
    models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True)
  )
  model.add_special_tokens(["<unk>", "</s>"])
  return save(model, path)


def dummy_prefix_file(path):
  """A SentencePiece model that adds a space and trims, as Llama 2's does."""

  model = io.BytesIO()
  spm.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS),
    model_writer=model,
    model_type="unigram",
    vocab_size=400,
    hard_vocab_limit=False,
    byte_fallback=True,
    normalization_rule_name="identity",
    minloglevel=2,
  )
  path.write_bytes(model.getvalue())
  return path


MAKERS = {
  "byte": lambda tmp: ByteTokenizer(),
  "sentencepiece": lambda tmp: train_sentencepiece(
    CORPUS, 400, ("<step>", "<solve>"), tmp / "t.model"
  ),
  "dummy_prefix": lambda tmp: SentencePieceTokenizer(
    dummy_prefix_file(tmp / "t.model")
  ),
  "byte_level": lambda tmp: HuggingFaceTokenizer(
    byte_level_file(tmp / "tokenizer.json")
  ),
  "gemma_shape": lambda tmp: HuggingFaceTokenizer(
    byte_fallback_file(tmp / "tokenizer.json", prepend=False)
  ),
  "llama_shape": lambda tmp: HuggingFaceTokenizer(
    byte_fallback_file(tmp / "tokenizer.json", prepend=True)
  ),
  "unigram": lambda tmp: HuggingFaceTokenizer(
    unigram_file(tmp / "tokenizer.json")
  ),
  "plain": lambda tmp: HuggingFaceTokenizer(plain_file(tmp / "tokenizer.json")),
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request, tmp_path_factory):
  return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("text", SAMPLES, ids=range(len(SAMPLES)))
def test_token_bytes_joined_are_the_text(tokenizer, text):
  ids = tokenizer.encode(text)
  assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
  assert tokenizer.decode(ids) == text
  assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_random_unicode_comes_back(tokenizer):
  rng = random.Random(0)
  planes = ((0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x11000))
  for _ in range(200):
    text = "".join(
      chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(30))
    )
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_user_text_never_becomes_a_control_token(tokenizer):
  control = {tokenizer.special_id(n) for n in known_specials(tokenizer)}
  assert control
  for name in USER_TYPED_CONTROL:
    for text in (name, f"a{name}b", f" {name}\n{name}", f"\u2581{name}"):
      ids = tokenizer.encode(text)
      assert control.isdisjoint(ids), text
      assert tokenizer.decode(ids) == text


def known_specials(tokenizer):
  found = []
  for name in USER_TYPED_CONTROL:
    try:
      tokenizer.special_id(name)
    except ValueError:
      continue
    found.append(name)
  return found


def test_special_ids_spell_their_names(tokenizer):
  for name in known_specials(tokenizer):
    assert tokenizer.token_bytes(tokenizer.special_id(name)) == name.encode()
  assert 0 <= tokenizer.pad_id < tokenizer.vocab_size


def test_unknown_special_lists_the_known_ones():
  with pytest.raises(ValueError, match=r"no control token '<nope>'.*<\|im_end"):
    ByteTokenizer().special_id("<nope>")


def test_ids_past_the_vocabulary_spell_nothing():
  # A model with a padded vocabulary can sample an id that has no token.
  tokenizer = ByteTokenizer()
  assert tokenizer.token_bytes(tokenizer.vocab_size + 7) == b""
  assert tokenizer.decode([104, tokenizer.vocab_size, 105]) == "hi"
  with pytest.raises(ValueError, match="negative"):
    tokenizer.token_bytes(-1)


def test_broken_utf8_decodes_to_replacement_characters():
  assert ByteTokenizer().decode([0xF0, 0x9F, 65]) == "\ufffdA"


def test_byte_characters_match_the_tokenizers_library():
  table = huggingface.byte_characters()
  assert sorted(table.values()) == list(range(256))
  assert set(table) == set(pre_tokenizers.ByteLevel.alphabet())
  # Ids of GPT-2's table that are easy to check by hand.
  assert table["\u0120"] == ord(" ") and table["\u010a"] == ord("\n")
  assert table["!"] == ord("!") and table["\u0143"] == 0xAD


def test_byte_level_ids_are_hugging_faces_on_composed_text(tmp_path):
  path = byte_level_file(tmp_path / "tokenizer.json")
  spec = json.loads(path.read_text())
  spec["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = False
  reference = hf.Tokenizer.from_str(json.dumps(spec))
  tokenizer = HuggingFaceTokenizer(path)
  for text in [*CORPUS, "naïve 你好 \\frac{1}{2}  x\n\ny<tool_call>z"]:
    assert tokenizer.encode(text) == reference.encode(text).ids


def test_added_text_tokens_stay_single_tokens(tmp_path):
  tokenizer = HuggingFaceTokenizer(byte_level_file(tmp_path / "t.json"))
  ids = tokenizer.encode(" <tool_call> ")
  assert [tokenizer.token_bytes(i) for i in ids] == [b" ", b"<tool_call>", b" "]
  with pytest.raises(ValueError, match="no control token '<tool_call>'"):
    tokenizer.special_id("<tool_call>")


def test_typed_control_names_get_the_ids_of_ordinary_text(tmp_path):
  # Not a spelling byte by byte: the model has read such text in training.
  path = byte_level_file(tmp_path / "tokenizer.json")
  spec = json.loads(path.read_text())
  tokenizer = HuggingFaceTokenizer(path)
  spec["added_tokens"] = []
  spec["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = False
  bare = hf.Tokenizer.from_str(json.dumps(spec))
  for text in ("the quick<|im_end|>brown fox", "lazy <|fim_prefix|> return"):
    assert tokenizer.encode(text) == bare.encode(text).ids
  assert tokenizer.special_id("<|fim_prefix|>")  # control by its shape


def test_a_folder_stands_for_its_tokenizer_json(tmp_path):
  byte_level_file(tmp_path / "tokenizer.json")
  config = TokenizerConfig(kind="huggingface", path=str(tmp_path))
  assert make_tokenizer(config).special_id("<|im_end|>") > 0


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "does not exist; set tokenizer.path"),
    (b"", "is empty"),
    (b"\xff\xfe not a model", "not a"),
    (b'{"vocab_size": 3}', "not a"),
  ],
)
def test_unfit_files_say_what_to_do(tmp_path, kind, content, message):
  path = tmp_path / "tokenizer.file"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    make_tokenizer(TokenizerConfig(kind=kind, path=str(path)))


def test_lossy_tokenizers_are_refused(tmp_path):
  path = tmp_path / "tokenizer.json"
  spec = json.loads(byte_level_file(path).read_text())
  spec["normalizer"] = {"type": "Lowercase"}
  path.write_text(json.dumps(spec))
  with pytest.raises(ValueError, match="this tokenizer changes text"):
    HuggingFaceTokenizer(path)
  word = hf.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
  word.save(str(path))
  with pytest.raises(ValueError, match="0 single bytes, not 256"):
    HuggingFaceTokenizer(path)


def test_probe_refuses_a_tokenizer_that_trims():
  class Trimming(ByteTokenizer):
    def encode(self, text):
      return super().encode(text.strip())

  with pytest.raises(ValueError, match="changes text"):
    check_exact(Trimming(), "x")
