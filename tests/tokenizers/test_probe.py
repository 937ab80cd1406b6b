# SPDX-License-Identifier: Apache-2.0
"""Tokenizer files that take too much time or memory are refused."""

import json
import time

import pytest

from srl_jax.tokenizers import (
  HuggingFaceTokenizer,
  SentencePieceTokenizer,
  UnspellableError,
  probe,
)


@pytest.fixture
def changed(families, tmp_path):
  """Writes a changed copy of a byte-level tokenizer.json."""

  def write(change):
    path = families("smollm2") / "tokenizer.json"
    spec = json.loads(path.read_text("utf-8"))
    change(spec)
    copy = tmp_path / "tokenizer.json"
    copy.write_text(json.dumps(spec), "utf-8")
    return copy

  return write


def splits_by(pattern):
  """A change that puts a regular expression before the others."""
  split = {"type": "Split", "behavior": "Isolated", "invert": False}
  split["pattern"] = {"Regex": pattern}
  return lambda spec: spec["pre_tokenizer"]["pretokenizers"].insert(0, split)


def test_files_of_real_families_pass_at_once(families):
  probe.check_file(str(families("qwen2_5") / "tokenizer.json"))
  start = time.monotonic()
  for family in ("qwen2_5", "llama3_1", "gemma2"):
    probe.check_file(str(families(family) / "tokenizer.json"))
  probe.check_file(str(families("gemma3") / "tokenizer.model"))
  assert time.monotonic() - start < 60


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(!|!!)+;", r"(\s*)*\S$"])
def test_a_regular_expression_that_takes_for_ever_is_refused(changed, pattern):
  start = time.monotonic()
  with pytest.raises(ValueError, match=r"tokenising some texts (fails|ended)"):
    HuggingFaceTokenizer(changed(splits_by(pattern)))
  assert time.monotonic() - start < 60


def test_a_text_on_which_a_regular_expression_fails_is_named(changed):
  tokenizer = HuggingFaceTokenizer(changed(splits_by(r"(x+x+)+y")))
  assert tokenizer.decode(tokenizer.encode("xxy xx")) == "xxy xx"
  with pytest.raises(UnspellableError, match=r"fails .* on the text 'xxxx"):
    tokenizer.encode("x" * 2000)


def test_an_id_far_beyond_the_vocabulary_is_refused(changed):
  path = changed(lambda spec: spec["model"]["vocab"].update(zz=4 * 10**9))
  with pytest.raises(ValueError, match="one with the id 4,000,000,000"):
    HuggingFaceTokenizer(path)


@pytest.mark.parametrize(
  "text", ["[" * 10**7, '{"model":' * 10**6, '{"a"', "1"]
)
def test_a_file_that_is_nested_or_cut_is_refused(tmp_path, text):
  path = tmp_path / "tokenizer.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
    HuggingFaceTokenizer(path)


@pytest.mark.parametrize(
  "change",
  [
    lambda spec: spec.update(added_tokens=5),
    lambda spec: spec.update(added_tokens=[{"id": 1}]),
    lambda spec: spec.update(added_tokens=[None]),
    lambda spec: spec.update(pre_tokenizer={"pretokenizers": 3}),
    lambda spec: spec.update(normalizer={"type": "Sequence", "normalizers": 1}),
    lambda spec: spec.update(decoder="ByteLevel"),
    lambda spec: spec["model"].update(vocab=[1, 2]),
    lambda spec: spec["model"].update(vocab={"a": -1}),
    lambda spec: spec["model"].update(merges=["zz qq9"]),
    lambda spec: spec.update(model={"type": "BPE"}),
    lambda spec: spec.update(model={}),
  ],
)
def test_wrong_entries_are_one_error_that_names_the_file(changed, change):
  with pytest.raises(ValueError, match=r"tokenizer\.json: "):
    HuggingFaceTokenizer(changed(change))


@pytest.mark.parametrize("data", [b"\x0a\xff\xff\xff\xff\x7f", b"\x00" * 99])
def test_a_broken_sentencepiece_model_is_refused(tmp_path, data):
  path = tmp_path / "tokenizer.model"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"not a SentencePiece model"):
    SentencePieceTokenizer(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr("srl_jax.tokenizers.tokenizer._MAX_FILE_BYTES", 10)
  path = tmp_path / "tokenizer.json"
  path.write_bytes(b"{" * 11)
  with pytest.raises(ValueError, match="has 11 bytes, and no real one has mor"):
    HuggingFaceTokenizer(path)
