# SPDX-License-Identifier: Apache-2.0
"""Cuts what an environment answered to its head and tail.

Commands print whatever they like: the median observation of SWE-smith has a
thousand characters, the longest 100,000. Head and tail say most: what was
found first, and how it ended. The text says how much is left out, so that a
model can ask for less.
"""

from __future__ import annotations

import math

from srl_jax.tokenizers import Tokenizer

# Characters per token kept, beyond which a text is not tokenised as a whole.
_CHARACTERS = 64


def shortened(text: str, tokenizer: Tokenizer, tokens: int) -> str:
  """Returns a text of at most so many tokens, besides the line that says so.

  Half of the tokens are of the head and half of the tail. A character is kept
  whole or not at all.

  Args:
    text: the observation.
    tokenizer: what counts the tokens.
    tokens: how many to keep; 0 keeps all.
  """
  # No token has less than a byte.
  if not tokens or len(text.encode("utf-8")) <= tokens:
    return text
  begin, end = text, text
  if len(text) > tokens * _CHARACTERS:
    width = tokens * _CHARACTERS // 2
    begin, end = text[:width], text[-width:]
  first = tokenizer.encode(begin)
  if begin is text and len(first) <= tokens:
    return text
  last = first if end is begin else tokenizer.encode(end)
  head = _spelled(tokenizer, first[: math.ceil(tokens / 2)])
  tail = _spelled(tokenizer, last[len(last) - tokens // 2 :])
  count = len(text) - len(head) - len(tail)
  return f"{head}\n[... {count:,} characters are left out ...]\n{tail}"


def _spelled(tokenizer: Tokenizer, ids: list[int]) -> str:
  """The whole characters of some tokens of a text."""
  data = b"".join(tokenizer.token_bytes(i) for i in ids)
  return data.decode("utf-8", "ignore")
