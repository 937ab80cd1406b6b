# SPDX-License-Identifier: Apache-2.0
"""From a checked request to the JSON of its answer, whole or in pieces.

`begin_completion` and `begin_chat` tokenise the prompts and hand them to the
engine; what they return must be closed. schema.py checks requests, wire.py has
the forms of the answers.
"""

from __future__ import annotations

import collections
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import srl_jax
from srl_jax.data.messages import encode_messages
from srl_jax.rollout.requests import Request
from srl_jax.serve import wire
from srl_jax.serve.completion import Delta, Drawn, Wish
from srl_jax.serve.engine import Asked, Engine
from srl_jax.serve.schema import ApiError, Ask, ChatAsk, CompletionAsk
from srl_jax.serve.scoring import Scores
from srl_jax.serve.wire import Choice, Prompt
from srl_jax.tokenizers import TextStream


@dataclasses.dataclass
class Begun:
  """A request under way.

  Attributes:
    ask: the request.
    prompts: its prompts.
    seed: the seed of its random numbers.
    asked: its completions; None if all that is asked for are scores.
    head: the fields that all JSON objects of the answer share.
  """

  ask: Ask
  prompts: list[Prompt]
  seed: int
  asked: Asked | None
  head: dict[str, Any]

  def close(self) -> None:
    """Frees the slots; must be called at the end."""
    if self.asked:
      self.asked.close()

  def prompt_of(self, choice: int) -> Prompt:
    """The prompt of a choice."""
    return self.prompts[choice // self.ask.n]

  @property
  def choices(self) -> list[Choice]:
    """Empty choices."""
    count = len(self.prompts) * self.ask.n
    return [Choice(index) for index in range(count)]


class Answers:
  """Answers requests for one model."""

  def __init__(self, engine: Engine, name: str, context: int):
    self._engine, self._name, self._context = engine, name, context
    self._model = engine.model
    self._tokenizer = self._model.run.tokenizer
    self._first = self._model.first_ids

  def check_model(self, name: str) -> None:
    """Raises ApiError if a request is for another model."""
    if name not in ("", self._name):
      raise ApiError(
        f"there is no model {name!r} here; this server has {self._name!r}",
        status=404,
        param="model",
        code="model_not_found",
      )

  def begin_completion(self, ask: CompletionAsk) -> Begun:
    """Hands the prompts to the engine.

    Raises:
      ApiError: another model, a prompt that does not fit, or a full queue.
    """
    self.check_model(ask.model)
    prompts = [self._prompt(prompt) for prompt in ask.prompts]
    return self._begin(ask, prompts, "cmpl", "text_completion")

  def begin_chat(self, ask: ChatAsk) -> Begun:
    """Hands the conversation to the engine.

    Raises:
      ApiError: another model, a conversation that does not fit, no chat
        template, or a full queue.
    """
    self.check_model(ask.model)
    if self._model.chat is None:
      raise ApiError(
        "the model has no chat template; use /v1/completions",
        code="no_chat_template",
      )
    try:
      tokens = encode_messages(self._model.chat, self._tokenizer, ask.messages)
    except ValueError as error:
      raise ApiError(str(error), param="messages") from error
    kind = "chat.completion.chunk" if ask.stream else "chat.completion"
    return self._begin(ask, [Prompt(tokens)], "chatcmpl", kind)

  def _begin(
    self, ask: Ask, prompts: list[Prompt], prefix: str, kind: str
  ) -> Begun:
    seed = secrets.randbits(32) if ask.seed is None else ask.seed
    limits = [self._limit(len(prompt.tokens), ask) for prompt in prompts]
    wishes = [
      Wish(
        Request(
          prompt.tokens,
          point_id=seed % 2**32,
          samples=(again * ask.n + sample,),
          max_new_tokens=limit,
          temperature=ask.temperature,
          top_k=ask.top_k,
          top_p=ask.top_p,
        ),
        ask.stops,
        ask.likely is not None,
      )
      for prompt, limit, again in zip(
        prompts, limits, _repetitions(prompts), strict=True
      )
      if limit and not _is_scored_only(ask)
      for sample in range(ask.n)
    ]
    head = {
      "id": f"{prefix}-{secrets.token_hex(12)}",
      "object": kind,
      "created": int(time.time()),
      "model": self._name,
      "system_fingerprint": f"srl_jax-{srl_jax.__version__}",
      # Not of the protocol: gives the same answer again.
      "seed": seed,
    }
    asked = self._engine.ask(wishes) if wishes else None
    return Begun(ask, prompts, seed, asked, head)

  def _prompt(self, prompt: str | tuple[int, ...]) -> Prompt:
    if isinstance(prompt, str):
      try:
        tokens = [*self._first, *self._tokenizer.encode(prompt)]
      except ValueError as error:  # A character that the tokens cannot spell.
        raise ApiError(str(error), param="prompt") from error
      if not tokens:
        raise ApiError("the prompt is empty; give text", param="prompt")
      return Prompt(tokens, prompt, len(self._first))
    size = self._model.run.policy.config.vocab_size
    if max(prompt) >= size:
      raise ApiError(
        f"token id {max(prompt)} is too large; the model has {size} tokens",
        param="prompt",
      )
    return Prompt(prompt, self._tokenizer.decode(prompt))

  def _limit(self, length: int, ask: Ask) -> int:
    """How many tokens may be drawn after a prompt."""
    room = self._context - length
    wanted = ask.max_tokens
    if room < (1 if wanted is None else wanted):
      what = f"{length} in the prompt"
      if wanted:
        what += f" and {wanted} for the completion"
      raise ApiError(
        f"the context length is {self._context} tokens, and the request is for "
        f"{length + (wanted or 0)} tokens ({what}); shorten the prompt"
        + (" or lower max_tokens" if wanted else ""),
        param="messages" if isinstance(ask, ChatAsk) else "prompt",
        code="context_length_exceeded",
      )
    return room if wanted is None else wanted

  async def _events(self, begun: Begun) -> AsyncIterator[Delta]:
    """Scores the prompts if asked for, then gives what is drawn."""
    ask = begun.ask
    if isinstance(ask, CompletionAsk) and ask.echo and ask.likely is not None:
      scored = await self._engine.score(
        [prompt.tokens for prompt in begun.prompts],
        max(ask.likely, 1),
        is_admitted=begun.asked is not None,
      )
      begun.prompts = [
        dataclasses.replace(prompt, scores=scores)
        for prompt, scores in zip(begun.prompts, scored, strict=True)
      ]
    if begun.asked:
      async for delta in begun.asked:
        yield delta
      return
    for choice in begun.choices:
      scores = begun.prompt_of(choice.index).scores
      if ask.max_tokens and scores:
        yield self._first_greedy(choice.index, scores, ask.stops)
      else:
        yield Delta(choice.index, "", [], "length", 0)

  def _first_greedy(
    self, index: int, scores: Scores, stops: Sequence[str]
  ) -> Delta:
    """The most likely token behind a scored prompt, as a completion.

    Its log-prob is told even if it ends the text and is no part of it: lm-eval
    leaves out the last log-prob, so there must be one for it.
    """
    token = int(scores.likely[-1, 0])
    logp = float(scores.likely_logps[-1, 0])
    drawn = Drawn(token, logp, scores.likely[-1], scores.likely_logps[-1], 0)
    if token in self._model.stop_ids:
      return Delta(index, "", [drawn], "stop", 1)
    stream = TextStream(self._tokenizer, stops)
    text = stream.add([token], is_last=True)
    finish = "stop" if stream.is_stopped else "length"
    return Delta(index, text, [drawn], finish, 1)

  async def _gather(self, begun: Begun) -> list[Choice]:
    choices = begun.choices
    async for delta in self._events(begun):
      choices[delta.index].add(delta)
    return choices

  async def whole_completion(self, begun: Begun) -> dict[str, Any]:
    """The answer of /v1/completions."""
    ask = begun.ask
    assert isinstance(ask, CompletionAsk)
    choices = await self._gather(begun)
    return begun.head | {
      "choices": [
        wire.completion_choice(
          self._tokenizer,
          choice,
          begun.prompt_of(choice.index) if ask.echo else None,
          ask.likely,
        )
        for choice in choices
      ],
      "usage": wire.usage(begun.prompts, sum(c.tokens for c in choices)),
    }

  async def whole_chat(self, begun: Begun) -> dict[str, Any]:
    """The answer of /v1/chat/completions."""
    choices = await self._gather(begun)
    return begun.head | {
      "choices": [
        wire.chat_choice(self._tokenizer, choice, begun.ask.likely)
        for choice in choices
      ],
      "usage": wire.usage(begun.prompts, sum(c.tokens for c in choices)),
    }

  async def stream_completion(
    self, begun: Begun
  ) -> AsyncIterator[dict[str, Any]]:
    """The pieces of the answer of /v1/completions."""
    ask = begun.ask
    assert isinstance(ask, CompletionAsk)
    told = begun.choices
    async for delta in self._events(begun):
      so_far = told[delta.index]
      prompt = begun.prompt_of(delta.index)
      has_begun = so_far.text or so_far.tokens
      shown = prompt if ask.echo and not has_begun else None
      new = Choice(delta.index)
      new.add(delta)
      # Offsets count from the beginning of what is told.
      offset = len(prompt.text or "") if ask.echo else 0
      choice = wire.completion_choice(
        self._tokenizer, new, shown, ask.likely, offset
      )
      yield begun.head | {"choices": [choice]}
      so_far.add(delta)
    if ask.tells_usage:
      yield self._usage(begun, told)

  async def stream_chat(self, begun: Begun) -> AsyncIterator[dict[str, Any]]:
    """The pieces of the answer of /v1/chat/completions."""
    told = begun.choices
    for choice in told:
      role = {"role": "assistant", "content": ""}
      yield begun.head | {"choices": [wire.chat_delta(choice.index, role)]}
    async for delta in self._events(begun):
      told[delta.index].add(delta)
      content = {"content": delta.text} if delta.text else {}
      logprobs = wire.chat_logprobs(
        self._tokenizer, delta.drawn, begun.ask.likely
      )
      choice = wire.chat_delta(delta.index, content, delta.finish, logprobs)
      yield begun.head | {"choices": [choice]}
    if begun.ask.tells_usage:
      yield self._usage(begun, told)

  def _usage(self, begun: Begun, told: Sequence[Choice]) -> dict[str, Any]:
    drawn = sum(choice.tokens for choice in told)
    return begun.head | {
      "choices": [],
      "usage": wire.usage(begun.prompts, drawn),
    }


def _repetitions(prompts: Sequence[Prompt]) -> list[int]:
  """How often each prompt was asked before: it has other samples then."""
  counts: collections.Counter[tuple[int, ...]] = collections.Counter()
  found = []
  for prompt in prompts:
    tokens = tuple(prompt.tokens)
    found.append(counts[tokens])
    counts[tokens] += 1
  return found


def _is_scored_only(ask: Ask) -> bool:
  """Whether the scores of the prompt tell the completion too.

  Likelihood evaluations ask for the prompt and one greedy token behind it.
  """
  return (
    isinstance(ask, CompletionAsk)
    and ask.echo
    and ask.likely is not None
    and ask.max_tokens == 1
    and (ask.temperature == 0 or ask.top_k == 1)
    and ask.n == 1
  )
