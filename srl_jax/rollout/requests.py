# SPDX-License-Identifier: Apache-2.0
"""What is asked of a stream of samples, and what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from srl_jax import strict


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """A prompt, and how its completions are drawn.

  Attributes:
    tokens: the prompt's token ids, one or more.
    point_id: uint32; the random numbers follow from the stream's key, this,
      the sample's index and the position of the token.
    samples: indices of the samples.
    max_new_tokens: limit of each completion in tokens, stop token included.
    temperature: divisor of the logits; 0 takes the most likely token.
    top_k: number of most likely tokens to keep; 0 keeps all.
    top_p: probability mass of the most likely tokens to keep; 1.0 keeps all.
  """

  tokens: Sequence[int]
  point_id: int = 0
  samples: Sequence[int] = (0,)
  max_new_tokens: int = 256
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    for name in ("tokens", "samples"):
      if not len(getattr(self, name)):
        raise ValueError(f"a request has no {name}; give one or more")
    strict.check_numbers(
      self,
      max_new_tokens="[1, )",
      temperature="[0, )",
      top_k="[0, )",
      top_p="(0, 1]",
    )


class Piece(NamedTuple):
  """Tokens that a segment has added to one completion.

  Attributes:
    ticket: what `submit` returned for the request.
    sample: index of the sample.
    tokens: the new token ids, stop token included.
    logps: their log-probs, in nats, under the distribution drawn from.
    policy_logps: their log-probs, in nats, at temperature 1, without top-k and
      top-p; empty if the stream's `likely` is 0.
    likely: for each new token the ids of the most likely tokens, best first.
    likely_logps: their log-probs at temperature 1, without top-k and top-p.
    ending: "stop" after a stop token, "limit" at max_new_tokens, "" if the
      completion goes on.
  """

  ticket: int
  sample: int
  tokens: list[int]
  logps: list[float]
  policy_logps: list[float]
  likely: np.ndarray
  likely_logps: np.ndarray
  ending: Literal["", "stop", "limit"]


class Sampled(NamedTuple):
  """A finished completion.

  Attributes:
    request: the request.
    sample: index of the sample.
    tokens: all token ids, stop token included.
    logps: their log-probs, in nats.
    is_stopped: whether it ended with a stop token.
  """

  request: Request
  sample: int
  tokens: list[int]
  logps: list[float]
  is_stopped: bool

  @property
  def written(self) -> list[int]:
    """The tokens of the text: all but the stop token."""
    return self.tokens[:-1] if self.is_stopped else self.tokens


@dataclasses.dataclass
class Work:
  """Cost counters of a stream.

  Attributes:
    prompt_tokens: prompt tokens that were run.
    trunk_positions: the same with padding.
    drawn_tokens: tokens that were drawn.
    slot_iterations: iterations of the loop times slots; those that ran no token
      of a branch are waste.
    segments: number of segments.
  """

  prompt_tokens: int = 0
  trunk_positions: int = 0
  drawn_tokens: int = 0
  slot_iterations: int = 0
  segments: int = 0
