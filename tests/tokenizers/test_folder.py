# SPDX-License-Identifier: Apache-2.0
"""The folder of a checkpoint: its tokenizer, control tokens and stop ids."""

import json
import shutil
import sys

import pytest
import sentencepiece
import tokenizers

from srl_jax.tokenizers import (
  ByteTokenizer,
  HuggingFaceTokenizer,
  SentencePieceTokenizer,
  TokenizerConfig,
  check_tokenizer_of_weights,
  make_tokenizer,
  stop_names,
  tokenizer_folder,
)
from tests.support import checkpoints

FAMILIES = tuple(checkpoints.FAMILIES)


def config_of(folder):
  return TokenizerConfig(kind="huggingface", path=str(folder))


def read(folder):
  return make_tokenizer(config_of(folder))


def change(path, **entries):
  """Changes entries of a JSON file; None removes one."""
  value = json.loads(path.read_text("utf-8")) | entries
  checkpoints.write_json(
    path, {k: v for k, v in value.items() if v is not None}
  )


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_the_library_that_the_file_is_made_for(
  families, family
):
  folder = families(family)
  if (folder / "tokenizer.json").exists():
    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    encode = lambda text: model.encode(text, add_special_tokens=False).ids  # noqa: E731
  else:
    model = str(folder / "tokenizer.model")
    encode = sentencepiece.SentencePieceProcessor(model_file=model).encode
  tokenizer = read(folder)
  for text in checkpoints.SAMPLES:
    assert tokenizer.encode(text) == encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_user_types_is_no_control_token(families, family):
  tokenizer = read(families(family))
  names = set(checkpoints.control_tokens(family))
  assert names <= tokenizer.control_names
  control = {tokenizer.special_id(name) for name in tokenizer.control_names}
  for name in names:
    for text in (name, f"a{name}b", f" {name}\n{name}"):
      ids = tokenizer.encode(text)
      assert control.isdisjoint(ids), text
      assert tokenizer.decode(ids) == text


def test_control_tokens_need_no_message_classes(families, monkeypatch):
  # sentencepiece 0.2.3 has such as refuse every protobuf older than 7.36.
  classes = "sentencepiece_model_pb2"
  monkeypatch.delattr(sentencepiece, classes, raising=False)
  monkeypatch.setitem(sys.modules, f"sentencepiece.{classes}", None)
  tokenizer = read(families("gemma3"))
  turn = tokenizer.special_id("<start_of_turn>")
  assert turn not in tokenizer.encode("<start_of_turn>user")


def test_tokenizer_json_comes_before_tokenizer_model(families, tmp_path):
  folder = shutil.copytree(families("gemma2"), tmp_path / "both")
  shutil.copy(families("gemma3") / "tokenizer.model", folder)
  both = read(folder)
  assert isinstance(both, HuggingFaceTokenizer)
  (folder / "tokenizer.json").unlink()
  alone = read(folder)
  assert isinstance(alone, SentencePieceTokenizer)
  # They are two forms of one model.
  assert alone.control_names == both.control_names
  for text in (*checkpoints.SAMPLES, "<start_of_turn>user\n\n\n"):
    assert alone.encode(text) == both.encode(text)


def test_a_folder_without_a_tokenizer_names_both_files(tmp_path):
  with pytest.raises(
    ValueError, match=r"holds neither tokenizer\.json nor tokenizer\.model; "
  ):
    read(tmp_path)
  with pytest.raises(ValueError, match=r"does not exist; set tokenizer\.path"):
    read(tmp_path / "qwen2_5_7b")


def test_a_sentencepiece_model_by_itself_knows_no_chat(families):
  path = str(families("gemma3") / "tokenizer.model")
  config = TokenizerConfig(kind="sentencepiece", path=path)
  assert "<start_of_turn>" not in make_tokenizer(config).control_names
  assert tokenizer_folder(config) is None


def test_control_tokens_may_lie_past_the_pieces_of_the_model(
  families, tmp_path
):
  folder = shutil.copytree(families("gemma3"), tmp_path / "more")
  settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
  size = read(folder).vocab_size
  added = settings["added_tokens_decoder"]
  added[str(size + 2)] = {"content": "<image>", "special": True}
  change(folder / "tokenizer_config.json", added_tokens_decoder=added)
  tokenizer = read(folder)
  assert tokenizer.vocab_size == size + 3
  assert tokenizer.special_id("<image>") == size + 2
  assert tokenizer.token_bytes(size + 2) == b"<image>"
  assert tokenizer.token_bytes(size + 1) == b""
  assert tokenizer.decode(tokenizer.encode("<image>")) == "<image>"
  assert size + 2 not in tokenizer.encode("<image>")


def test_tokenizer_config_may_flag_what_tokenizer_json_does_not(
  families, tmp_path
):
  folder = shutil.copytree(families("gemma2"), tmp_path / "unflagged")
  path = folder / "tokenizer.json"
  added = json.loads(path.read_text("utf-8"))["added_tokens"]
  for token in added:
    token["special"] = False
  change(path, added_tokens=added)
  tokenizer = read(folder)
  turn = tokenizer.special_id("<start_of_turn>")
  assert turn not in tokenizer.encode("<start_of_turn>")


@pytest.mark.parametrize(
  ("generation", "model", "ids"),
  [
    ([7, 6], 5, (7, 6)),
    (0, 5, (0,)),
    (None, [5, 7], (5, 7)),
    (None, None, ()),
  ],
)
def test_stop_ids_are_those_of_generation_or_else_of_the_config(
  families, tmp_path, generation, model, ids
):
  folder = shutil.copytree(families("qwen2_5"), tmp_path / "stops")
  change(folder / "generation_config.json", eos_token_id=generation)
  change(folder / "config.json", eos_token_id=model)
  assert tokenizer_folder(config_of(folder)).stop_ids == ids


def test_stop_ids_are_known_by_their_names(families):
  folder = families("llama3_1")
  names = stop_names(tokenizer_folder(config_of(folder)), read(folder))
  assert names == ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


def test_rows_are_padded_with_the_pad_token(families, tmp_path):
  for family, name in (
    ("qwen2_5", "<|endoftext|>"),
    ("llama3_1", "<|finetune_right_pad_id|>"),
    ("gemma3", "<pad>"),
  ):
    tokenizer = read(families(family))
    assert tokenizer.pad_id == tokenizer.special_id(name)
  folder = shutil.copytree(families("llama3_1"), tmp_path / "other_pad")
  change(folder / "tokenizer_config.json", pad_token={"content": "<|eom_id|>"})
  tokenizer = read(folder)
  assert tokenizer.pad_id == tokenizer.special_id("<|eom_id|>")


@pytest.mark.parametrize(
  ("family", "settings", "first"),
  [
    ("qwen2_5", {}, ""),
    ("llama3_1", {}, "<|begin_of_text|>"),  # by the post-processor
    ("gemma2", {}, "<bos>"),
    ("gemma3", {}, "<bos>"),  # by add_bos_token
    ("gemma3", {"add_bos_token": False}, ""),
    ("qwen2_5", {"add_bos_token": True, "bos_token": "<s>"}, "<s>"),
    ("qwen2_5", {"bos_token": "<s>"}, ""),
  ],
)
def test_a_text_begins_with_bos_if_the_checkpoint_says_so(
  families, tmp_path, family, settings, first
):
  folder = shutil.copytree(families(family), tmp_path / "changed")
  change(folder / "tokenizer_config.json", **settings)
  assert tokenizer_folder(config_of(folder)).first_token() == first


def test_the_chat_template_is_a_string_a_named_one_or_a_file(
  families, tmp_path
):
  folder = shutil.copytree(families("qwen2_5"), tmp_path / "templates")

  def template(**settings):
    change(folder / "tokenizer_config.json", **settings)
    return tokenizer_folder(config_of(folder)).chat_template

  assert template(chat_template="a") == "a"
  named = [
    {"name": "tool_use", "template": "b"},
    {"name": "default", "template": "c"},
  ]
  assert template(chat_template=named) == "c"
  with pytest.raises(ValueError, match="named tool_use, but none named 'def"):
    template(chat_template=named[:1])
  (folder / "chat_template.jinja").write_text("d")
  assert template() == "d"
  (folder / "chat_template.jinja").unlink()
  assert template(chat_template=None) is None


@pytest.mark.parametrize(
  ("family", "file", "entries", "message"),
  [
    # Qwen's ids in Gemma's folder.
    (
      "gemma3",
      "generation_config.json",
      {"eos_token_id": [151645, 151643]},
      "eos_token_id is 151645 in .* which is no token in tokenizer.model",
    ),
    (
      "qwen2_5",
      "generation_config.json",
      {"eos_token_id": 2},
      "eos_token_id is 2 in .* the plain token '#' in tokenizer.json",
    ),
    (
      "llama3_1",
      "config.json",
      {"bos_token_id": 5},
      "bos_token_id is 5 in .* the plain token",
    ),
    (
      "llama3_1",
      "tokenizer_config.json",
      {"eos_token": "</s>"},
      "eos_token is '</s>' in tokenizer_config.json or .*, which is no control",
    ),
    (
      "gemma3",
      "tokenizer_config.json",
      {"added_tokens_decoder": {"5": {"content": "<bos>", "special": True}}},
      "'<bos>' is token 5 in tokenizer_config.json, and 2 in tokenizer.model",
    ),
    (
      "qwen3",
      "tokenizer_config.json",
      {"added_tokens_decoder": {"5": {"content": "<s>", "special": True}}},
      "'<s>' is token 5 in .*, and no control token in tokenizer.json",
    ),
  ],
)
def test_files_of_another_model_are_refused(
  families, tmp_path, family, file, entries, message
):
  folder = shutil.copytree(families(family), tmp_path / "mixed")
  change(folder / file, **entries)
  with pytest.raises(ValueError, match=message) as caught:
    read(folder)
  assert "belong to different models; set tokenizer.path" in str(caught.value)


@pytest.mark.parametrize(
  "text", ["{", "[1]", "\ufeff"], ids=["cut", "list", "mark"]
)
def test_a_broken_file_is_named(families, tmp_path, text):
  folder = shutil.copytree(families("qwen2_5"), tmp_path / "broken")
  (folder / "generation_config.json").write_text(text, "utf-8")
  with pytest.raises(ValueError, match=r"generation_config\.json.*fetch it ag"):
    read(folder)


def test_weights_with_another_tokenizer_are_refused(families, tmp_path):
  qwen, llama = families("qwen2_5"), families("llama3_1")
  tokenizer = read(qwen)
  check = lambda weights: check_tokenizer_of_weights(  # noqa: E731
    config_of(qwen), tokenizer, str(weights)
  )
  with pytest.raises(ValueError, match="has a tokenizer of its own") as caught:
    check(llama)
  assert f"tokenizer.path={str(llama)!r}" in str(caught.value)
  same = shutil.copytree(qwen, tmp_path / "same")
  for weights in (qwen, same, "random", tmp_path, qwen / "x.safetensors"):
    check(weights)
  with pytest.raises(ValueError, match=r"id 0 is '!'; .* it is '\\x00'"):
    check_tokenizer_of_weights(TokenizerConfig(), ByteTokenizer(), str(qwen))


def test_weights_with_the_same_tokenizer_in_another_form_are_accepted(
  families,
):
  tokenizer = read(families("gemma2"))
  check_tokenizer_of_weights(
    config_of(families("gemma2")), tokenizer, str(families("gemma3"))
  )


def test_a_rendered_prompt_has_the_ids_of_the_file_as_it_is(families):
  tokenizer = read(families("qwen3"))
  end = tokenizer.special_id("<|im_end|>")
  assert tokenizer.encode_rendered("a<|im_end|>") == [
    *tokenizer.encode("a"),
    end,
  ]
  # Composed by the file (NFC), and not by us.
  assert tokenizer.encode_rendered("e\u0301") == tokenizer.encode("\u00e9")
  assert tokenizer.encode("e\u0301") != tokenizer.encode("\u00e9")
