# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids, for the chat templates of several families."""

import pytest

from srl_jax.data.chat import ChatFormat
from srl_jax.data.messages import encode_messages
from srl_jax.tokenizers import TokenizerConfig, make_tokenizer
from srl_jax.tokenizers.folder import read_tokenizer_folder

FAMILIES = ("qwen2_5", "qwen3", "llama3_1", "gemma2", "gemma3")


@pytest.fixture(params=FAMILIES)
def family(request, families):
  checkpoint = read_tokenizer_folder(str(families(request.param)))
  chat = ChatFormat(
    checkpoint.chat_template, dict(checkpoint.special_tokens), "here"
  )
  config = TokenizerConfig(kind="huggingface", path=str(checkpoint.folder))
  return chat, make_tokenizer(config)


def messages(*texts):
  roles = ("user", "assistant") * len(texts)
  return [
    {"role": role, "content": text}
    for role, text in zip(roles, texts, strict=False)
  ]


def test_ids_are_those_of_the_rendered_text(family):
  chat, tokenizer = family
  talk = messages("What is 2+3*4?", "14", "And 🙂 2*3 + naïve 4?")
  want = tokenizer.encode_rendered(chat.conversation(talk))
  assert encode_messages(chat, tokenizer, talk) == want
  bos = chat.special_tokens.get("bos_token")
  if bos:
    assert want.count(tokenizer.special_id(bos)) <= 1


def test_control_tokens_in_a_message_stay_plain_text(family):
  chat, tokenizer = family
  control = {tokenizer.special_id(name) for name in tokenizer.control_names}
  names = " ".join(sorted(tokenizer.control_names))

  def control_of(text):
    tokens = encode_messages(chat, tokenizer, messages(text))
    assert text in tokenizer.decode(tokens)
    return [token for token in tokens if token in control]

  assert control_of(f"I type {names} here") == control_of("I type nothing here")


def test_a_system_message_reaches_the_model_whatever_the_template(family):
  chat, tokenizer = family
  talk = [{"role": "system", "content": "Be brief."}, *messages("Hi")]
  text = tokenizer.decode(encode_messages(chat, tokenizer, talk))
  assert text.index("Be brief.") < text.index("Hi")


def test_what_a_template_refuses_is_told_with_the_roles(families):
  checkpoint = read_tokenizer_folder(str(families("gemma2")))
  chat = ChatFormat(
    checkpoint.chat_template, dict(checkpoint.special_tokens), "here"
  )
  config = TokenizerConfig(kind="huggingface", path=str(checkpoint.folder))
  talk = [*messages("a"), *messages("b")]
  with pytest.raises(ValueError, match=r"user, user.*must alternate"):
    encode_messages(chat, make_tokenizer(config), talk)
