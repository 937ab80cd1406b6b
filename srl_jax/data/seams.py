# SPDX-License-Identifier: Apache-2.0
"""Where two segments of a prompt meet, so that no token spans the seam.

Segments are tokenised one by one, and white space stands between them. Which
of the two it must go to depends on the tokenizer:

  Qwen, Llama 3   ".\\n\\n" is one token, so the space ends a segment
  SmolLM2         "\\n\\n" is one token before a digit and two before a letter,
                  so the space begins the next segment
"""

from __future__ import annotations

import itertools

from srl_jax.tokenizers import Tokenizer, UnspellableError

# How segments end and begin, besides white space: prose, TeX, code, Markdown.
_ENDS = (
  *("word", "3", ".", ",", ":", "?", "!", ")", "]", "}", "$", "%", '"', "'"),
  *(
    "`",
    "*",
    "**",
    "\\]",
    "\\)",
    "\\",
    ">",
    "=",
    "-",
    "/",
    "|",
    "é",
    "。",
    "好",
  ),
)
_BEGINS = (
  *("Write", "the", "I", "3", "12. **Add**", "(", "[", "{", "$", '"', "'s"),
  *("`", "*", "- ", "#", "\\[", "\\frac", "<b>", "=", "+", ".", "é", "你"),
)


def first_part(tokenizer: Tokenizer, gap: str) -> int:
  """Returns how many characters of `gap` end a segment; the rest begin one.

  It is the number with which most pairs of segments have the ids of their text
  in one piece; of equally good ones all of the gap, then none.
  """
  counts = dict.fromkeys([len(gap), *range(len(gap))], 0)
  for end, begin in itertools.product(_ENDS, _BEGINS):
    try:
      whole = tokenizer.encode(end + gap + begin)
    except UnspellableError:
      continue
    for cut in counts:
      first = tokenizer.encode(end + gap[:cut])
      # Most pairs differ at the seam or are equal: the rest is seldom needed.
      if first == whole[: len(first)]:
        second = tokenizer.encode(gap[cut:] + begin)
        counts[cut] += second == whole[len(first) :]
  return max(counts, key=lambda cut: counts[cut])
