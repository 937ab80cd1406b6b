# SPDX-License-Identifier: Apache-2.0
"""Policies with scripted answers, for tests.

`ScriptedModel` stands in for a language model as a `Policy`: it looks its
logits up in a table, so that samples and gradients can be computed by hand.
`ScriptedSampler` and `ScriptedStream` stand in for a whole compiled sampler:
prompt text in, completion text out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax.models.key_values import KeyValues
from srl_jax.ops import logprobs
from srl_jax.rewards import Completion
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.requests import Piece, Request
from srl_jax.tokenizers import Tokenizer
from srl_jax.types import Branches, Trunks

# A logit that makes a token practically certain (one in exp(30) draws differs)
# and stays finite in every loss.
_CERTAIN = 30.0


class Script(NamedTuple):
  """Parameters of a ScriptedModel; the logits are the sum of both tables.

  Attributes:
    after_token_VV: logits of the token after each token.
    at_position_PV: logits of the token after each position; later positions
      are treated as the last.
  """

  after_token_VV: jax.Array
  at_position_PV: jax.Array


def after_token(table_VV: Any) -> Script:
  """Returns a script in which only the last token counts."""
  table_VV = jnp.asarray(table_VV, jnp.float32)
  return Script(table_VV, jnp.zeros((1, table_VV.shape[1])))


def at_position(table_PV: Any) -> Script:
  """Returns a script in which only the last token's position counts."""
  table_PV = jnp.asarray(table_PV, jnp.float32)
  vocab = table_PV.shape[1]
  return Script(jnp.zeros((vocab, vocab)), table_PV)


def successor(vocab: int) -> Script:
  """Returns a script that continues token t with t + 1, the last with 0."""
  return after_token(_CERTAIN * np.roll(np.eye(vocab), 1, axis=1))


def _positions(position: Any) -> KeyValues:
  """A cache of positions alone: a script depends only on the last token."""
  return KeyValues((), (), position)


class ScriptedModel:
  """A `Policy` whose parameters are a Script."""

  reads_what_is_seen = False

  def is_for_decoding(self, params: Script) -> bool:
    """True: a script has one form."""
    return True

  def for_decoding(self, params: Script) -> Script:
    """Returns the script unchanged."""
    return params

  def trunk(
    self, params: Script, tokens_NS: jax.Array, position_NS: jax.Array
  ) -> KeyValues:
    """Returns the positions alone: the trunk has no influence."""
    return _positions(position_NS)

  def branch(
    self,
    params: Script,
    tokens_NRT: jax.Array,
    position_NRT: jax.Array,
    branch_at_NR: jax.Array,
    trunk: KeyValues,
    cache: KeyValues | None = None,
    column: jax.Array | None = None,
    start_NR: jax.Array | None = None,
  ) -> tuple[jax.Array, KeyValues]:
    """Returns the logits as "hidden states"."""
    logits_NRTV = _look_up(params, tokens_NRT, position_NRT)
    if cache is not None:
      position_NRT = jax.lax.dynamic_update_slice_in_dim(
        cache.position, position_NRT, column, axis=2
      )
    return logits_NRTV, _positions(position_NRT)

  def lanes(
    self,
    params: Script,
    trunk_NUS: jax.Array,
    trunk_position_NUS: jax.Array,
    tokens_NBW: jax.Array,
    position_NBW: jax.Array,
    first_NBW: jax.Array,
    trunk_of_NB: jax.Array,
  ) -> jax.Array:
    """Returns the logits as "hidden states"."""
    return _look_up(params, tokens_NBW, position_NBW)

  def logits(self, params: Script, hidden_D: jax.Array) -> jax.Array:
    """Returns the "hidden states", which are the logits."""
    return hidden_D

  def head(self, params: Script) -> logprobs.Head:
    """Returns a head that passes the "hidden states" on."""
    return logprobs.Head(jnp.eye(params.after_token_VV.shape[1]))

  def init_cache(
    self, trunk: KeyValues, branches: int, width: int
  ) -> KeyValues:
    """Returns an empty cache."""
    shape = (trunk.position.shape[0], branches, width)
    return _positions(jnp.full(shape, -1))


def _look_up(params, tokens, position):
  place = jnp.clip(position, 0, len(params.at_position_PV) - 1)
  return params.after_token_VV[tokens] + params.at_position_PV[place]


class ScriptedSampler:
  """Stands in for `sampler.Sampler`: a function answers each prompt.

  Attributes:
    config: number of samples, and limit of their length (not checked).
    prompts: text of every prompt so far: the trunk that the branch sees, and
      the stem.
    batches: the sampled trunks.
  """

  batch_devices = 1

  def __init__(
    self,
    tokenizer: Tokenizer,
    answer: Callable[[str], Completion],
    *,
    stop_id: int,
    config: SamplingConfig = SamplingConfig(samples=1),
  ):
    self._tokenizer, self._answer = tokenizer, answer
    self._stop_id, self.config = stop_id, config
    self.prompts: list[str] = []
    self.batches: list[Trunks] = []

  def sample(self, params: Any, trunks: Trunks, key: jax.Array) -> Branches:
    """Answers at every real branch point, equally for all samples."""
    self.batches.append(trunks)
    rows = [
      self._branch(trunks, n, k)
      for n in range(len(trunks.length_N))
      for k in range(trunks.branch_at_NK.shape[1])
      for _ in range(self.config.samples)
    ]
    width = max(len(tokens) for tokens, _, _ in rows)
    shape = (len(trunks.length_N), -1)
    tokens_BC = np.zeros((len(rows), width), np.int32)
    for row, (tokens, _, _) in enumerate(rows):
      tokens_BC[row, : len(tokens)] = tokens
    length_NR = np.array([len(t) for t, _, _ in rows], np.int32).reshape(shape)
    stem_NR = np.array([stem for _, stem, _ in rows]).reshape(shape)
    slots_C = np.arange(width)
    return Branches(
      tokens_NRC=tokens_BC.reshape(*length_NR.shape, width),
      length_NR=length_NR,
      is_completion_NRC=(slots_C >= stem_NR[..., None])
      & (slots_C < length_NR[..., None]),
      sampler_logp_NRC=np.zeros((*length_NR.shape, width), np.float32),
      stopped_NR=np.array([s for _, _, s in rows]).reshape(shape),
    )

  def _branch(self, trunks, n, k):
    """Returns (tokens, length of the stem, whether it stopped)."""
    if not trunks.is_real_NK[n, k]:
      return [], 0, False
    seen = trunks.tokens_NS[n, : trunks.branch_at_NK[n, k]]
    stem = trunks.stem_NKC[n, k, : trunks.stem_length_NK[n, k]].tolist()
    prompt = self._tokenizer.decode([*seen.tolist(), *stem])
    self.prompts.append(prompt)
    text, stopped, _ = self._answer(prompt)
    stop = [self._stop_id] if stopped else []
    tokens = [*stem, *self._tokenizer.encode(text), *stop]
    return tokens, len(stem), stopped


class ScriptedStream:
  """Stands in for `stream.Stream`: a function answers each prompt.

  Attributes:
    stop_ids: the stop token.
    capacity: number of answers that are given together.
    rows: the same, as every request may take them all.
    requests: all requests so far.
    released: those that nobody goes on from.
    prompts: text of each answer's prompt.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    answer: Callable[[str], Completion],
    *,
    stop_id: int,
    capacity: int = 8,
    turns: int = 1000,
  ):
    """Makes an idle stream, whose segments have so many turns."""
    self._tokenizer, self._answer, self._turns = tokenizer, answer, turns
    self.stop_ids, self.capacity, self.rows = (stop_id,), capacity, capacity
    self.requests: list[Request] = []
    self.released: list[Request] = []
    self.prompts: list[str] = []
    # What is to be answered: tickets with the index of the sample.
    self._waiting: list[tuple[int, int]] = []
    self._left: dict[tuple[int, int], tuple[list[int], bool]] = {}

  @property
  def waiting(self) -> int:
    """Number of answers that have not begun."""
    return len(self._waiting)

  @property
  def is_idle(self) -> bool:
    """Whether there is nothing to do."""
    return not self._waiting and not self._left

  def submit(self, request: Request) -> int:
    """Queues a request; returns its ticket."""
    self.requests.append(request)
    ticket = len(self.requests)
    self._waiting += [(ticket, sample) for sample in request.samples]
    return ticket

  def release(self, request: Request) -> None:
    """Notes that nobody goes on from a request."""
    self.released.append(request)

  def answer(self, prompt: str, request: Request, sample: int) -> Completion:
    """Returns the answer of a sample; here it is the same for all."""
    return self._answer(prompt)

  def advance(self, *, more_follow: bool = False) -> list[Piece]:
    """Answers the oldest requests, each up to so many tokens as turns."""
    while self._waiting and len(self._left) < self.capacity:
      place = ticket, sample = self._waiting.pop(0)
      request = self.requests[ticket - 1]
      prompt = self._tokenizer.decode(np.asarray(request.tokens).tolist())
      self.prompts.append(prompt)
      text, is_stopped, _ = self.answer(prompt, request, sample)
      stop = list(self.stop_ids) if is_stopped else []
      tokens = [*self._tokenizer.encode(text), *stop]
      self._left[place] = tokens, is_stopped
    return [self._piece(place) for place in list(self._left)]

  def _piece(self, place: tuple[int, int]) -> Piece:
    tokens, is_stopped = self._left.pop(place)
    made, left = tokens[: self._turns], tokens[self._turns :]
    ending = "stop" if is_stopped else "limit"
    if left:
      self._left[place], ending = (left, is_stopped), ""
    logps = [0.0] * len(made)
    nothing = np.zeros((len(made), 0))
    return Piece(*place, made, logps, [], nothing, nothing, ending)
