# SPDX-License-Identifier: Apache-2.0
"""Token ids of a conversation, by the chat template of a checkpoint.

Prompts of trajectories come from templates.py, which cuts them into trunk and
branches. Here a conversation of any length is rendered as a whole, as other
software does it. The names of control tokens in what was said stay plain text,
except for think tags in what the user did not say.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from srl_jax.data.chat import ChatFormat
from srl_jax.data.templates import (
  ChatTemplate,
  Template,
  encode_segment,
  to_segment,
)
from srl_jax.rewards.format import THINK_CLOSE, THINK_OPEN
from srl_jax.tokenizers import Tokenizer, split_control

ROLES = ("system", "user", "assistant")
# Stands for the name of a control token in a message while it is rendered. No
# template takes it for markup. The first number is one that no message has.
_STAND_IN = "Control-{}-{}-name"
_TAKEN = re.compile(r"Control-(\d+)-")


def chat_of(name: str, template: Template) -> ChatFormat:
  """Returns the chat format of a run's template.

  Args:
    name: the template's name, as in c.template.
    template: the template.

  Raises:
    ValueError: the template has no roles, so it cannot say who speaks.
  """
  if name == "text" or not isinstance(template, ChatTemplate):
    raise ValueError(
      f"the template {name!r} has no roles, and a conversation needs them; use "
      "a checkpoint with a chat template (c.template='chat', or 'chatml'), or "
      "evaluate by a protocol in the template's own words ('paper', 'turns')"
    )
  return template.chat


def encode_messages(
  chat: ChatFormat,
  tokenizer: Tokenizer,
  messages: Sequence[Mapping[str, str]],
) -> list[int]:
  """Returns the ids of a conversation and of the head of the next answer.

  The template writes the first token (BOS), if the model wants one, and the
  tokenizer adds none. If the template takes no system message, the system text
  is put at the beginning of the first user message.

  Args:
    chat: the chat template.
    tokenizer: the tokenizer of the same checkpoint.
    messages: {"role": .., "content": ..}; maybe one of the system first, and
      the user last. Some templates want user and assistant to alternate.

  Raises:
    ValueError: the messages are not such a conversation, or the template
      cannot render them.
  """
  check_messages(messages)
  names = tokenizer.control_names
  taken = {n for m in messages for n in _TAKEN.findall(m["content"])}
  free = next(n for n in map(str, itertools.count()) if n not in taken)
  stand_ins = {
    name: _STAND_IN.format(free, number)
    for number, name in enumerate(sorted(names))
  }

  def hide(message: Mapping[str, str]) -> dict[str, str]:
    # Templates look for think tags in what the assistant said, and prompts in
    # training have those of the system message as control tokens.
    tags = {THINK_OPEN, THINK_CLOSE} if message["role"] != "user" else ()
    parts = split_control(message["content"], names.difference(tags))
    parts[1::2] = [stand_ins[name] for name in parts[1::2]]
    return {"role": message["role"], "content": "".join(parts)}

  name_of = {stand_in: name for name, stand_in in stand_ins.items()}
  pattern = re.compile(_STAND_IN.format(free, r"\d+"))
  segment = to_segment(chat.conversation(list(map(hide, messages))), names)
  return encode_segment(
    tokenizer,
    tuple(
      pattern.sub(lambda match: name_of.get(match[0], match[0]), part)
      if isinstance(part, str)
      else part
      for part in segment
    ),
  )


def check_messages(messages: Sequence[Mapping[str, str]]) -> None:
  """Raises ValueError if messages are no conversation that can go on."""
  for number, message in enumerate(messages):
    role, text = message.get("role"), message.get("content")
    if role not in ROLES:
      raise ValueError(
        f"message {number} has the role {role!r}; use one of {', '.join(ROLES)}"
      )
    if not isinstance(text, str):
      raise ValueError(
        f"the content of message {number} is a {type(text).__name__}; it must "
        "be text"
      )
  roles = [message["role"] for message in messages]
  if "user" not in roles or "system" in roles[1:]:
    raise ValueError(
      f"the messages are of {', '.join(roles) or 'nobody'}; give at most one "
      "of the system, in front, and one or more of the user"
    )
  if roles[-1] != "user":
    raise ValueError("the last message is the assistant's; end with a user's")
