# SPDX-License-Identifier: Apache-2.0
"""The JSON of answers, as OpenAI's protocol has it. No tokens are made here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from srl_jax.serve.completion import Delta, Drawn
from srl_jax.serve.scoring import Scores
from srl_jax.tokenizers import TextStream, Tokenizer


@dataclasses.dataclass
class Choice:
  """A completion, as far as it has come."""

  index: int
  text: str = ""
  drawn: list[Drawn] = dataclasses.field(default_factory=list)
  finish: str = ""
  tokens: int = 0

  def add(self, delta: Delta) -> None:
    """Adds what has come."""
    self.text += delta.text
    self.drawn += delta.drawn
    self.finish, self.tokens = delta.finish, delta.tokens


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt of a request.

  Attributes:
    tokens: its token ids.
    text: its text; None for what a chat template wrote.
    added: number of tokens put in front of the text.
    scores: what the model says of it, if asked for.
  """

  tokens: Sequence[int]
  text: str | None = None
  added: int = 0
  scores: Scores | None = None


def token_name(tokenizer: Tokenizer, token: int) -> str:
  """The text of a token; its bytes, spelt out, if they are no text."""
  data = tokenizer.token_bytes(token)
  try:
    return data.decode()
  except UnicodeDecodeError:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _number(logp: float) -> float:
  return max(float(logp), -9999.0)  # JSON has no infinity.


def completion_logprobs(
  tokenizer: Tokenizer, drawn: Iterable[Drawn], count: int, offset: int = 0
) -> dict[str, list]:
  """Log-probs of a completion's tokens, in the form of /v1/completions.

  Args:
    tokenizer: names the tokens.
    drawn: the tokens.
    count: number of most likely tokens to tell of each; the token itself is
      told besides if it is none of them.
    offset: number of characters before the completion.
  """
  out: dict[str, list] = {
    "tokens": [],
    "token_logprobs": [],
    "top_logprobs": [],
    "text_offset": [],
  }
  for x in drawn:
    name = token_name(tokenizer, x.token)
    out["tokens"].append(name)
    out["token_logprobs"].append(_number(x.logp))
    out["top_logprobs"].append(_likely(tokenizer, x, count))
    out["text_offset"].append(offset + x.start)
  return out


def _likely(tokenizer: Tokenizer, drawn: Drawn, count: int) -> dict[str, float]:
  out: dict[str, float] = {}
  best = zip(drawn.likely[:count], drawn.likely_logps[:count], strict=True)
  for token, logp in (*best, (drawn.token, drawn.logp)):
    # Of tokens with one name, the first is the most likely.
    out.setdefault(token_name(tokenizer, int(token)), _number(logp))
  return out


def prompt_logprobs(
  tokenizer: Tokenizer, prompt: Prompt, count: int
) -> dict[str, list]:
  """Log-probs of a scored prompt; the first token has none."""
  scores = prompt.scores
  assert scores is not None
  text = TextStream(tokenizer)
  text.add(prompt.tokens[prompt.added :], is_last=True)
  starts = [0] * prompt.added + text.starts
  behind = zip(
    prompt.tokens[1:],
    scores.logps,
    scores.likely[:-1],
    scores.likely_logps[:-1],
    starts[1:],
    strict=True,
  )
  out = completion_logprobs(tokenizer, (Drawn(*x) for x in behind), count)
  first = {
    "tokens": token_name(tokenizer, prompt.tokens[0]),
    "token_logprobs": None,
    "top_logprobs": None,
    "text_offset": 0,
  }
  return {name: [first[name], *values] for name, values in out.items()}


def completion_choice(
  tokenizer: Tokenizer,
  choice: Choice,
  prompt: Prompt | None,
  count: int | None,
  offset: int = 0,
) -> dict[str, Any]:
  """A choice of /v1/completions.

  Args:
    tokenizer: names the tokens.
    choice: the completion.
    prompt: the prompt, if it is to stand before the completion.
    count: number of most likely tokens to tell; None for no log-probs.
    offset: number of characters told before.
  """
  text, logprobs = choice.text, None
  if prompt is not None:
    assert prompt.text is not None
    text, offset = prompt.text + text, len(prompt.text)
  if count is not None:
    logprobs = completion_logprobs(tokenizer, choice.drawn, count, offset)
    if prompt is not None:
      before = prompt_logprobs(tokenizer, prompt, count)
      logprobs = {name: before[name] + x for name, x in logprobs.items()}
  return {
    "index": choice.index,
    "text": text,
    "logprobs": logprobs,
    "finish_reason": choice.finish or None,
  }


def chat_logprobs(
  tokenizer: Tokenizer, drawn: Iterable[Drawn], count: int | None
) -> dict[str, Any] | None:
  """Log-probs of an answer's tokens, in the form of /v1/chat/completions."""
  if count is None:
    return None

  def of(token: int, logp: float) -> dict[str, Any]:
    return {
      "token": token_name(tokenizer, token),
      "logprob": _number(logp),
      "bytes": list(tokenizer.token_bytes(token)),
    }

  content = [
    of(x.token, x.logp)
    | {
      "top_logprobs": [
        of(int(token), logp)
        for token, logp in zip(
          x.likely[:count], x.likely_logps[:count], strict=True
        )
      ]
    }
    for x in drawn
  ]
  return {"content": content, "refusal": None}


def chat_choice(
  tokenizer: Tokenizer, choice: Choice, count: int | None
) -> dict[str, Any]:
  """A choice of /v1/chat/completions."""
  message = {"role": "assistant", "content": choice.text, "refusal": None}
  return {
    "index": choice.index,
    "message": message,
    "logprobs": chat_logprobs(tokenizer, choice.drawn, count),
    "finish_reason": choice.finish,
  }


def chat_delta(
  index: int,
  delta: Mapping[str, str],
  finish: str = "",
  logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """A choice of a piece of a streamed answer."""
  return {
    "index": index,
    "delta": dict(delta),
    "logprobs": logprobs,
    "finish_reason": finish or None,
  }


def usage(prompts: Sequence[Prompt], drawn: int) -> dict[str, int]:
  """Numbers of tokens of a request."""
  given = sum(len(prompt.tokens) for prompt in prompts)
  return {
    "prompt_tokens": given,
    "completion_tokens": drawn,
    "total_tokens": given + drawn,
  }
