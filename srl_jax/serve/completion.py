# SPDX-License-Identifier: Apache-2.0
"""A completion under way: pieces of tokens in, pieces of text out.

It finds stop strings, and holds log-probs back as long as their text. engine.py
has the queue.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from srl_jax.rollout.requests import Piece, Request
from srl_jax.tokenizers import TextStream, Tokenizer


class Drawn(NamedTuple):
  """A token of a completion with its log-probs at temperature 1.

  Attributes:
    token: its id.
    logp: its log-prob, in nats.
    likely: ids of the most likely tokens, best first.
    likely_logps: their log-probs.
    start: number of characters of the completion before it.
  """

  token: int
  logp: float
  likely: np.ndarray
  likely_logps: np.ndarray
  start: int


class Delta(NamedTuple):
  """What a completion has grown by.

  Attributes:
    index: which completion of the request.
    text: the new text.
    drawn: the tokens of the new text; empty unless log-probs are asked for.
    finish: "stop" or "length" at the end, else "".
    tokens: number of tokens drawn so far, stop token included.
  """

  index: int
  text: str
  drawn: list[Drawn]
  finish: str
  tokens: int


@dataclasses.dataclass(frozen=True)
class Wish:
  """A completion to sample: `request` has one sample."""

  request: Request
  stops: tuple[str, ...] = ()
  wants_logprobs: bool = False


class Completion:
  """A completion under way; belongs to the engine's thread."""

  def __init__(
    self,
    tokenizer: Tokenizer,
    wish: Wish,
    index: int,
    tell: Callable[[Delta], None],
  ):
    """Begins without text; `tell` is called with what is new."""
    self.wish, self.index = wish, index
    self._tell = tell
    self._text = TextStream(tokenizer, wish.stops)
    self._waiting: collections.deque[Drawn] = collections.deque()
    self._count = 0

  def add(self, piece: Piece) -> bool:
    """Takes a piece and tells its text; returns whether it was the last."""
    text = self._text
    tokens = piece.tokens[:-1] if piece.ending == "stop" else piece.tokens
    before = len(text.starts)
    new = text.add(tokens, is_last=bool(piece.ending))
    taken = len(text.starts) - before
    self._count += taken + (piece.ending == "stop" and not text.is_stopped)
    if self.wish.wants_logprobs:
      for i in range(taken):
        self._waiting.append(
          Drawn(
            tokens[i],
            piece.policy_logps[i],
            piece.likely[i],
            piece.likely_logps[i],
            text.starts[before + i],
          )
        )
    finish = {"limit": "length"}.get(piece.ending, piece.ending)
    finish = "stop" if text.is_stopped else finish
    # Tokens of text that is held back wait with it. Those of a stop string are
    # never told.
    drawn = []
    is_whole = finish and not text.is_stopped
    while self._waiting and (is_whole or self._waiting[0].start < text.told):
      drawn.append(self._waiting.popleft())
    if new or drawn or finish:
      self._tell(Delta(self.index, new, drawn, finish, self._count))
    return bool(finish)
