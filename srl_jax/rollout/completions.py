# SPDX-License-Identifier: Apache-2.0
"""Assembles whole completions from a stream's pieces."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator

from srl_jax.rollout.requests import Request, Sampled
from srl_jax.rollout.stream import Stream


class Completions:
  """The completions of a stream that are not yet whole."""

  def __init__(self, stream: Stream):
    self._stream = stream
    self._requests: dict[int, Request] = {}
    self._left: dict[int, int] = {}
    self._tokens = collections.defaultdict(list)
    self._logps = collections.defaultdict(list)

  def submit(self, request: Request) -> None:
    """Queues a request."""
    ticket = self._stream.submit(request)
    self._requests[ticket] = request
    self._left[ticket] = len(request.samples)

  def advance(self, *, more_follow: bool = False) -> list[Sampled]:
    """Decodes one segment; returns the completions that have ended in it."""
    ended = []
    for piece in self._stream.advance(more_follow=more_follow):
      name = piece.ticket, piece.sample
      self._tokens[name] += piece.tokens
      self._logps[name] += piece.logps
      if piece.ending:
        ended.append(
          Sampled(
            self._requests[piece.ticket],
            piece.sample,
            self._tokens.pop(name),
            self._logps.pop(name),
            piece.ending == "stop",
          )
        )
        self._left[piece.ticket] -= 1
        if not self._left[piece.ticket]:
          del self._left[piece.ticket], self._requests[piece.ticket]
    return ended


def complete(stream: Stream, requests: Iterable[Request]) -> Iterator[Sampled]:
  """Yields the completions of requests as they end, in no fixed order.

  Requests are taken one by one as rows become free, so they may be many.
  """
  requests = iter(requests)
  completions = Completions(stream)
  is_over = False
  while not (is_over and stream.is_idle):
    while not is_over and stream.waiting < stream.rows:
      request = next(requests, None)
      is_over = request is None
      if request:
        completions.submit(request)
    yield from completions.advance()
