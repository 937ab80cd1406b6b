# SPDX-License-Identifier: Apache-2.0
"""Token ids of a conversation, by a checkpoint's chat template.

templates.py lays a trajectory out as a trunk and branches. This is for
messages as other software sends them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from srl_jax.data.chat import ChatFormat
from srl_jax.data.templates import encode_segment, to_segment
from srl_jax.tokenizers import Tokenizer

# Characters of Unicode's private use area, of which one marks control tokens'
# names in the messages.
_PRIVATE = range(0xE000, 0xF900)


def encode_messages(
  chat: ChatFormat, tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]
) -> list[int]:
  """Returns the prompt's token ids, generation prompt included.

  Control tokens come from the template alone: their names in a message stay
  plain text. Nothing is put in front of what the template writes, so there is
  one BOS token if the template writes one.

  Args:
    chat: the chat template.
    tokenizer: the checkpoint's tokenizer.
    messages: objects with the texts "role" and "content", in order.

  Raises:
    ValueError: the template refuses the messages.
  """
  names = sorted(filter(None, tokenizer.control_names), key=len, reverse=True)
  texts = "".join(message["content"] for message in messages)
  mark = next(chr(c) for c in _PRIVATE if chr(c) not in texts)
  pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")

  def marked(text: str) -> str:
    # A mark behind the first character: the name is none in the rendered text.
    return pattern.sub(lambda name: name[0][0] + mark + name[0][1:], text)

  text = chat.conversation(
    [{**m, "content": marked(m["content"])} for m in messages]
  )
  segment = to_segment(text, tokenizer.control_names)
  plain = tuple(
    part.replace(mark, "") if isinstance(part, str) else part
    for part in segment
  )
  return encode_segment(tokenizer, plain)
