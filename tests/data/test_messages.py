# SPDX-License-Identifier: Apache-2.0
"""Conversations become the ids that the checkpoint's own software gives."""

import pytest

from srl_jax.data.messages import chat_of, check_messages, encode_messages
from srl_jax.data.templates import encode_segment, make_template
from srl_jax.tokenizers import (
  ByteTokenizer,
  TokenizerConfig,
  make_tokenizer,
  tokenizer_folder,
)
from srl_jax.trajectory import Step, Trajectory
from tests.support import checkpoints

SYSTEM = {"role": "system", "content": "Be short."}
USER = {"role": "user", "content": "What is 2 + 3?"}
ANSWER = {"role": "assistant", "content": "It is 5."}
AGAIN = {"role": "user", "content": "Why?"}
TALK = [SYSTEM, USER, ANSWER, AGAIN]


def of(folder, name="chat"):
  config = TokenizerConfig(kind="huggingface", path=str(folder))
  tokenizer = make_tokenizer(config)
  template = make_template(name, tokenizer, tokenizer_folder(config))
  return chat_of(name, template), tokenizer


@pytest.mark.parametrize(
  ("family", "text"),
  [
    (
      "qwen2_5",
      "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n"
      "What is 2 + 3?<|im_end|>\n<|im_start|>assistant\nIt is 5.<|im_end|>\n"
      "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    ),
    # It takes no system message, and writes BOS itself.
    (
      "gemma2",
      "<bos><start_of_turn>user\nBe short.\n\nWhat is 2 + 3?<end_of_turn>\n"
      "<start_of_turn>model\nIt is 5.<end_of_turn>\n<start_of_turn>user\n"
      "Why?<end_of_turn>\n<start_of_turn>model\n",
    ),
  ],
)
def test_a_conversation_is_rendered_with_all_its_turns(families, family, text):
  chat, tokenizer = of(families(family))
  assert tokenizer.decode(encode_messages(chat, tokenizer, TALK)) == text


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_ids_are_those_of_the_whole_text_with_one_bos_at_most(families, family):
  chat, tokenizer = of(families(family))
  ids = encode_messages(chat, tokenizer, TALK)
  assert ids == tokenizer.encode_rendered(chat.conversation(TALK))
  for name in {"<bos>", "<|begin_of_text|>"} & tokenizer.control_names:
    assert ids.count(tokenizer.special_id(name)) == 1
    assert ids[0] == tokenizer.special_id(name)


def test_one_users_message_is_the_prompt_of_the_template(families):
  chat, tokenizer = of(families("llama3_1"))
  ids = encode_messages(chat, tokenizer, [SYSTEM, USER])
  text = chat.prompt(SYSTEM["content"], USER["content"])
  assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_a_typed_control_token_stays_text(families, family):
  chat, tokenizer = of(families(family))
  # The last is the form of a name's stand-in while templates are rendered.
  typed = "".join(sorted(tokenizer.control_names)) + " 2 < 3 Control-0-1-name"
  plain = encode_messages(chat, tokenizer, [{"role": "user", "content": "x"}])
  ids = encode_messages(chat, tokenizer, [{"role": "user", "content": typed}])
  assert typed in tokenizer.decode(ids)
  control = {tokenizer.special_id(name) for name in tokenizer.control_names}
  assert [i for i in ids if i in control] == [i for i in plain if i in control]


THINKING = ByteTokenizer(("<|im_start|>", "<|im_end|>", "<think>", "</think>"))


@pytest.mark.parametrize("name", ["chat", "chatml"])
def test_think_tokens_in_a_system_message_are_those_of_training(families, name):
  files = tokenizer_folder(
    TokenizerConfig(kind="huggingface", path=str(families("qwen3")))
  )
  template = make_template(name, THINKING, files)
  step = Step("It is <think>5</think>.")
  problem = Trajectory("a", "math", "What is <think>?", (step,))
  segments = (
    template.problem(problem, "step"),
    template.step(step, 1),
    template.stem("step", 2),
  )
  prompt = [i for x in segments for i in encode_segment(THINKING, x)]
  _, system, user = THINKING.decode(prompt).split("<|im_start|>")[:3]
  talk = [
    {
      "role": role,
      "content": text.removeprefix(f"{role}\n").removesuffix("<|im_end|>\n"),
    }
    for role, text in (("system", system), ("user", user))
  ]
  assert encode_messages(chat_of(name, template), THINKING, talk) == prompt
  assert prompt.count(THINKING.special_id("<think>")) == system.count("<think>")
  assert system.count("<think>") > 0


def test_templates_find_think_tokens_in_the_assistants_turns(families):
  chat, _ = of(families("qwen3"))
  answer = {
    "role": "assistant",
    "content": "<think>\nHm.\n</think>\n\nIt is 5.",
  }
  assert encode_messages(
    chat, THINKING, [USER, answer, AGAIN]
  ) == encode_messages(chat, THINKING, [USER, ANSWER, AGAIN])


def test_what_a_template_trims_is_trimmed_here_too(families):
  chat, tokenizer = of(families("llama3_1"))
  talk = [{"role": "user", "content": "\n <|eot_id|> \n"}]
  text = tokenizer.decode(encode_messages(chat, tokenizer, talk))
  assert "<|end_header_id|>\n\n<|eot_id|><|eot_id|>" in text


@pytest.mark.parametrize(
  ("messages", "message"),
  [
    ([], "the messages are of nobody"),
    ([SYSTEM], "the messages are of system"),
    ([USER, SYSTEM], "the messages are of user, system"),
    ([ANSWER], "the messages are of assistant"),
    ([USER, ANSWER], "the last message is the assistant's; end with a user's"),
    ([{"role": "tool", "content": ""}], "role 'tool'; use one of system, user"),
    ([{"role": "user", "content": [1]}], "content of message 0 is a list"),
    ([{"role": "user"}], "content of message 0 is a NoneType"),
  ],
)
def test_what_is_no_conversation_is_refused(messages, message):
  with pytest.raises(ValueError, match=message):
    check_messages(messages)


def test_what_a_template_refuses_is_told_with_the_roles(families):
  chat, tokenizer = of(families("gemma2"))
  with pytest.raises(ValueError, match=r"user, user.*must alternate"):
    encode_messages(chat, tokenizer, [USER, USER])


def test_a_template_without_roles_says_what_to_do(families):
  plain = make_template("plain", ByteTokenizer())
  with pytest.raises(ValueError, match=r"'plain' has no roles.*'chatml'"):
    chat_of("plain", plain)
  with pytest.raises(ValueError, match=r"'text' has no roles.*'turns'"):
    of(families("qwen3"), "text")
