# SPDX-License-Identifier: Apache-2.0
"""The text of tokens that come piece by piece, and where it stops.

A character can be spread over several tokens, and a stop string over several
pieces. The text told so far never has to be taken back. It does not depend on
where one piece ends and the next begins.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from srl_jax.tokenizers.tokenizer import Tokenizer


class TextStream:
  """Turns tokens into text as they come.

  Attributes:
    text: the text so far, including what is held back; without the stop
      string and what follows it.
    starts: for each token taken, the number of characters before it.
    is_stopped: whether a stop string was found. Later tokens are not taken.
    told: number of characters that `add` has returned.
  """

  def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
    """Begins an empty text.

    Args:
      tokenizer: gives the bytes of the tokens.
      stops: strings that end the text; none of them is empty.
    """
    self._token_bytes = tokenizer.token_bytes
    self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
    self._stops = tuple(stops)
    self._longest = max(map(len, self._stops), default=0)
    self.text = ""
    self.starts: list[int] = []
    self.is_stopped = False
    self.told = 0

  def add(self, tokens: Iterable[int], is_last: bool = False) -> str:
    """Takes tokens; returns the new text that is certain.

    Characters that are not complete, and the beginning of what may become a
    stop string, wait for a later call. With `is_last` nothing waits.
    """
    for token in tokens:
      if self.is_stopped:
        break
      self.starts.append(len(self.text))
      self._append(self._decoder.decode(self._token_bytes(int(token))))
    if is_last and not self.is_stopped:
      self._append(self._decoder.decode(b"", final=True))
    is_over = is_last or self.is_stopped
    end = len(self.text) - (0 if is_over else self._uncertain())
    new, self.told = self.text[self.told : end], end
    return new

  def _append(self, new: str) -> None:
    searched = max(0, len(self.text) - self._longest + 1)
    self.text += new
    places = [self.text.find(stop, searched) for stop in self._stops]
    found = [place for place in places if place >= 0]
    if found:
      self.text, self.is_stopped = self.text[: min(found)], True

  def _uncertain(self) -> int:
    """Length of the longest end of the text that begins a stop string."""
    for size in range(min(self._longest - 1, len(self.text)), 0, -1):
      end = self.text[-size:]
      if any(stop.startswith(end) for stop in self._stops):
        return size
    return 0
