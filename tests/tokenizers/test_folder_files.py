# SPDX-License-Identifier: Apache-2.0
"""What fine-tunes and older checkpoints write about their tokens is read."""

import json
import shutil

import pytest

from srl_jax.data.templates import Special, make_template
from srl_jax.tokenizers import (
  TokenizerConfig,
  make_tokenizer,
  stop_names,
  tokenizer_folder,
)
from tests.support import checkpoints
from tests.support.trajectories import TITLED


def read(folder):
  """The tokenizer of a folder, and what its files say."""
  config = TokenizerConfig(kind="huggingface", path=str(folder))
  return make_tokenizer(config), tokenizer_folder(config)


def stops(folder):
  tokenizer, checkpoint = read(folder)
  return stop_names(checkpoint, tokenizer)


@pytest.fixture
def copy(families, tmp_path):
  """Copies the folder of a family and changes entries; None removes one."""

  def make(family, file, **entries):
    folder = tmp_path / family
    if not folder.exists():
      shutil.copytree(families(family), folder)
    path = folder / file
    value = json.loads(path.read_text("utf-8")) if path.exists() else {}
    value |= entries
    checkpoints.write_json(
      path, {k: v for k, v in value.items() if v is not None}
    )
    return folder

  return make


def test_a_fine_tunes_own_end_of_turn_is_one_more_stop(copy):
  end = read(copy("qwen2_5", "config.json"))[0].special_id("<|endoftext|>")
  copy("qwen2_5", "config.json", eos_token_id=end)
  folder = copy("qwen2_5", "generation_config.json", eos_token_id=end)
  assert stops(folder) == ("<|endoftext|>", "<|im_end|>")
  copy("qwen2_5", "tokenizer_config.json", eos_token="<|endoftext|>")
  assert stops(folder) == ("<|endoftext|>",)


def test_a_fine_tune_may_begin_with_another_token_than_its_base_model(copy):
  folder = copy(
    "llama3_1", "tokenizer_config.json", bos_token="<|start_header_id|>"
  )
  assert read(folder)[1].special_tokens["bos_token"] == "<|start_header_id|>"


@pytest.mark.parametrize("as_dict", [False, True])
def test_special_tokens_may_be_in_the_map_only(copy, as_dict):
  token = lambda name: {"content": name, "lstrip": False} if as_dict else name  # noqa: E731
  folder = copy(
    "gemma2",
    "tokenizer_config.json",
    bos_token=None,
    eos_token=None,
    pad_token=None,
    added_tokens_decoder=None,
  )
  copy(
    "gemma2",
    "special_tokens_map.json",
    bos_token=token("<bos>"),
    eos_token=token("<eos>"),
    additional_special_tokens=[token("<unused0>")],
  )
  tokenizer, checkpoint = read(folder)
  template = make_template("chat", tokenizer, checkpoint)
  assert template.problem(TITLED, "step")[0] == Special("<bos>")
  assert "<eos>" in stops(folder)
  assert tokenizer.special_id("<unused0>") not in tokenizer.encode("<unused0>")


@pytest.mark.parametrize(
  ("has_list", "bos"), [(True, "<pad>"), (False, "<bos>")]
)
def test_the_map_counts_before_a_config_without_a_list_of_tokens(
  copy, has_list, bos
):
  copy("gemma2", "special_tokens_map.json", bos_token="<bos>")
  folder = copy("gemma2", "tokenizer_config.json", bos_token="<pad>")
  if not has_list:
    copy("gemma2", "tokenizer_config.json", added_tokens_decoder=None)
  assert read(folder)[1].special_tokens["bos_token"] == bos


def test_added_tokens_of_an_older_checkpoint_have_their_ids_in_a_file(copy):
  size = read(copy("gemma3", "config.json"))[0].vocab_size
  copy("gemma3", "special_tokens_map.json", eos_token="<|im_end|>")
  copy("gemma3", "tokenizer_config.json", eos_token=None)
  folder = copy(
    "gemma3", "added_tokens.json", **{"<|im_end|>": size, "<word>": size + 1}
  )
  tokenizer, _ = read(folder)
  assert tokenizer.special_id("<|im_end|>") == size
  assert "<word>" not in tokenizer.control_names
  assert "<|im_end|>" in stops(folder)


def test_a_piece_of_the_vocabulary_may_be_named_as_a_control_token(copy):
  folder = copy("qwen2_5", "tokenizer.json")
  spec = json.loads((folder / "tokenizer.json").read_text("utf-8"))
  # In place of the last one, which no other is made of.
  spec["model"]["merges"].pop()
  vocab = spec["model"]["vocab"]
  _, i = vocab.popitem()
  vocab["</s>"] = i
  checkpoints.write_json(folder / "tokenizer.json", spec)
  copy("qwen2_5", "special_tokens_map.json", unk_token="</s>")
  tokenizer, _ = read(folder)
  assert tokenizer.special_id("</s>") == i
  assert i not in tokenizer.encode("a</s>")
  assert tokenizer.decode(tokenizer.encode("a</s>")) == "a</s>"


def test_the_chat_template_may_lie_in_a_folder_or_a_json_file(copy):
  folder = copy("qwen2_5", "tokenizer_config.json", chat_template=None)
  template = lambda: read(folder)[1].chat_template  # noqa: E731
  (folder / "chat_template.json").write_text('{"chat_template": "a"}')
  assert template() == "a"
  for name in ("chat_templates", "additional_chat_templates"):
    before = template()
    (folder / name).mkdir()
    (folder / name / "rag.jinja").write_text("b")
    assert template() == before
    (folder / name / "default.jinja").write_text(name)
    assert template() == name
  (folder / "chat_template.jinja").write_text("c")
  assert template() == "c"


def test_chat_templates_without_a_default_are_named(copy):
  folder = copy("qwen2_5", "tokenizer_config.json", chat_template=None)
  (folder / "chat_templates").mkdir()
  (folder / "chat_templates" / "rag.jinja").write_text("b")
  with pytest.raises(ValueError, match="named rag, but none named 'default'"):
    read(folder)


JUNK = (
  *(True, 3, -7, 2.5, "x", "", [], [[]], [None], {}, {"a": {}}, [{"name": 1}]),
  *(10**30, [10**30], {"-1": {}}, {"9" * 5000: {}}, {"1": None}),
  *(
    {"1": {"special": True}},
    {"1": {"special": True, "content": 5}},
    {"²": {}},
  ),
)


@pytest.mark.parametrize(
  ("file", "fields"),
  [
    ("generation_config.json", ("eos_token_id", "bos_token_id")),
    ("config.json", ("eos_token_id", "bos_token_id")),
    (
      "tokenizer_config.json",
      (
        *("added_tokens_decoder", "chat_template", "bos_token", "eos_token"),
        *("pad_token", "additional_special_tokens", "add_bos_token"),
      ),
    ),
    (
      "special_tokens_map.json",
      ("bos_token", "eos_token", "additional_special_tokens", "unk_token"),
    ),
    ("added_tokens.json", ("<|im_end|>",)),
    ("chat_template.json", ("chat_template",)),
  ],
)
def test_wrong_entries_are_one_error_that_names_file_and_field(
  copy, file, fields
):
  for field in fields:
    for value in JUNK:
      folder = copy("qwen2_5", file)
      path = folder / file
      before = path.read_text("utf-8")
      copy("qwen2_5", file, **{field: value})
      try:
        tokenizer, checkpoint = read(folder)
        stop_names(checkpoint, tokenizer)
      except ValueError as error:
        assert str(folder) in str(error)
        assert field in str(error), (field, value)
        assert len(str(error)) < 600
      path.write_text(before, "utf-8")


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "\x00", "nul"])
def test_files_that_are_no_json_are_named(copy, text):
  folder = copy("qwen2_5", "tokenizer_config.json")
  for name in ("tokenizer_config.json", "special_tokens_map.json"):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: (not|holds)"):
      read(folder)
    (folder / name).write_text("{}")
