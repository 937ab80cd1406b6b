# SPDX-License-Identifier: Apache-2.0
"""Byte-level vocabularies that lack some bytes refuse only some texts."""

import json

import pytest

from srl_jax.tokenizers import (
  HuggingFaceTokenizer,
  UnspellableError,
  huggingface,
)
from tests.support import checkpoints


def without_bytes(folder, path, *bytes_):
  """Copies a byte-level tokenizer.json without the tokens of some bytes."""
  spec = json.loads((folder / "tokenizer.json").read_text("utf-8"))
  gone = {c for c, b in huggingface.byte_characters().items() if b in bytes_}
  model = spec["model"]
  kept = sorted(
    (t for t in model["vocab"] if gone.isdisjoint(t)), key=model["vocab"].get
  )
  model["vocab"] = {token: i for i, token in enumerate(kept)}
  model["merges"] = [
    m for m in model["merges"] if gone.isdisjoint("".join(m).replace(" ", ""))
  ]
  spec["added_tokens"] = []
  path.write_text(json.dumps(spec, ensure_ascii=False), "utf-8")
  return path


def test_a_vocabulary_without_some_bytes_refuses_only_texts_that_need_them(
  families, tmp_path
):
  path = without_bytes(
    families("smollm2"), tmp_path / "tokenizer.json", 0x04, 0xF1, 0xC0
  )
  with pytest.warns(UserWarning, match=r"lacks .* 3 of the 256 bytes \(04 C0"):
    tokenizer = HuggingFaceTokenizer(path)
  for sample in checkpoints.SAMPLES:
    assert tokenizer.decode(tokenizer.encode(sample)) == sample
  with pytest.raises(UnspellableError, match=r"0x04 .* '\\x04' in 'end\\x04'"):
    tokenizer.encode("end\x04")
  with pytest.raises(UnspellableError, match="0xF1"):
    tokenizer.encode("private \U00040000 use")


def test_a_text_is_not_refused_if_a_longer_token_has_the_missing_byte(
  families, tmp_path
):
  path = without_bytes(families("smollm2"), tmp_path / "tokenizer.json", 0x04)
  spec = json.loads(path.read_text("utf-8"))
  spec["model"]["vocab"]["end\u0104"] = len(spec["model"]["vocab"])
  spec["model"]["ignore_merges"] = True
  spec["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = False
  path.write_text(json.dumps(spec), "utf-8")
  with pytest.warns(UserWarning, match="1 of the 256 bytes"):
    tokenizer = HuggingFaceTokenizer(path)
  assert tokenizer.decode(tokenizer.encode("end\x04")) == "end\x04"
  with pytest.raises(UnspellableError, match="0x04"):
    tokenizer.encode("\x04end")


def test_an_unknown_token_does_not_hide_a_missing_byte(families, tmp_path):
  path = without_bytes(families("smollm2"), tmp_path / "tokenizer.json", 0x04)
  spec = json.loads(path.read_text("utf-8"))
  spec["model"]["unk_token"] = "A"
  path.write_text(json.dumps(spec), "utf-8")
  with pytest.warns(UserWarning, match="1 of the 256 bytes"):
    tokenizer = HuggingFaceTokenizer(path)
  with pytest.raises(UnspellableError, match="0x04"):
    tokenizer.encode("end\x04")
