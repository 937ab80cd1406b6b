# SPDX-License-Identifier: Apache-2.0
"""What a request may say, checked: JSON objects to dataclasses.

A parameter that this server does not know is refused by name, unless it has its
neutral value or cannot change the output. Not for: tokens, routes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_MOST = 2**31 - 1  # On the devices it is an int32.
MAX_STOPS = 16
MAX_SAMPLES = 128
MAX_LIKELY = 20

# These change nothing in the output.
_IGNORED = {
  "include_obfuscation",
  "metadata",
  "parallel_tool_calls",
  "prompt_cache_key",
  "safety_identifier",
  "service_tier",
  "store",
  "user",
}
# Parameters of the protocol that are not supported, with the values that ask
# for nothing. null asks for nothing too.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
  "best_of": (1,),
  "frequency_penalty": (0,),
  "function_call": ("none", "auto"),
  "functions": ([],),
  "logit_bias": ({},),
  "min_p": (0,),
  "min_tokens": (0,),
  "modalities": (["text"],),
  "presence_penalty": (0,),
  "repetition_penalty": (1,),
  "response_format": ({"type": "text"},),
  "skip_special_tokens": (True,),
  "suffix": ("",),
  "tool_choice": ("none", "auto"),
  "tools": ([],),
}


class ApiError(Exception):
  """An answer other than 200, in OpenAI's format."""

  def __init__(
    self,
    message: str,
    *,
    status: int = 400,
    param: str | None = None,
    code: str | None = None,
  ):
    super().__init__(message)
    self.status, self.param, self.code = status, param, code

  def body(self) -> dict[str, Any]:
    """The JSON object of the answer."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(self.status, "invalid_request_error")
    return {
      "error": {
        "message": str(self),
        "type": "server_error" if self.status >= 500 else kind,
        "param": self.param,
        "code": self.code,
      }
    }


@dataclasses.dataclass(frozen=True)
class Ask:
  """What both kinds of requests have in common.

  Attributes:
    model: name of the model; "" if the request names none.
    n: completions per prompt.
    temperature: divisor of the logits; 0 takes the most likely token.
    top_p: probability mass of the most likely tokens to keep.
    top_k: number of most likely tokens to keep; 0 keeps all.
    max_tokens: limit of each completion in tokens; None for the context's.
    stops: strings that end a completion and do not belong to it.
    seed: seed of the random numbers; None for a new one.
    stream: whether the answer comes in pieces.
    tells_usage: whether a stream ends with the numbers of tokens.
    likely: number of most likely tokens to tell at each token; None if no
      log-probs are asked for.
  """

  model: str
  n: int
  temperature: float
  top_p: float
  top_k: int
  max_tokens: int | None
  stops: tuple[str, ...]
  seed: int | None
  stream: bool
  tells_usage: bool
  likely: int | None


@dataclasses.dataclass(frozen=True)
class CompletionAsk(Ask):
  """A request to go on with prompts; `echo` also wants the prompts back."""

  prompts: tuple[str | tuple[int, ...], ...] = ()
  echo: bool = False


@dataclasses.dataclass(frozen=True)
class ChatAsk(Ask):
  """A request to answer a conversation of {"role", "content"} objects."""

  messages: tuple[Mapping[str, str], ...] = ()


class _Body:
  """A JSON object whose fields are taken out one by one."""

  def __init__(self, body: Any):
    if not isinstance(body, dict):
      raise ApiError(f"the body must be a JSON object, not {_kind(body)}")
    self._left = {k: v for k, v in body.items() if v is not None}

  def take(
    self,
    name: str,
    default: Any,
    types: type | tuple[type, ...],
    allowed: str,
    check: Callable[[Any], bool] = lambda value: True,
  ) -> Any:
    """Takes a field; null and absent are the default."""
    if name not in self._left:
      return default
    value = self._left.pop(name)
    types = types if isinstance(types, tuple) else (types,)
    # In Python, but not in JSON, True is a number.
    is_type = isinstance(value, types)
    if isinstance(value, bool) and bool not in types:
      is_type = False
    if not is_type or not check(value):
      raise ApiError(
        f"{name}={_shown(value)} is not allowed; give {allowed}", param=name
      )
    return value

  def refuse_others(self) -> None:
    """Refuses what is left, unless it asks for nothing."""
    for name, value in self._left.items():
      if name in _IGNORED or value in _NEUTRAL.get(name, ()):
        continue
      message = f"{name} is not supported here"
      if name in ("tools", "functions", "tool_choice", "function_call"):
        message = (
          f"{name} is not supported: this server makes no tool calls; let the "
          "model write its actions as text, and leave the parameter out"
        )
      elif name in _NEUTRAL:
        neutral = " or ".join(_shown(x) for x in _NEUTRAL[name])
        message += f" (got {_shown(value)}); leave it out or give {neutral}"
      else:
        message += " and would be without effect; leave it out"
      raise ApiError(message, param=name, code="unsupported_parameter")


def read_completion(body: Any) -> CompletionAsk:
  """Checks the body of a request to /v1/completions.

  Raises:
    ApiError: names the field, what was got and what is allowed.
  """
  fields = _Body(body)
  prompt = fields.take(
    "prompt",
    None,
    (str, list),
    "a string, a list of strings, token ids or a list of lists of token ids",
  )
  likely = fields.take(
    "logprobs",
    None,
    int,
    f"a number of tokens, 0 to {MAX_LIKELY}",
    lambda x: 0 <= x <= MAX_LIKELY,
  )
  echo = fields.take("echo", False, bool, "true or false")
  ask = CompletionAsk(
    **_common(fields, "max_tokens", 16),
    likely=likely,
    prompts=_prompts(prompt),
    echo=echo,
  )
  fields.refuse_others()
  return ask


def read_chat(body: Any) -> ChatAsk:
  """Checks the body of a request to /v1/chat/completions.

  Raises:
    ApiError: names the field, what was got and what is allowed.
  """
  fields = _Body(body)
  messages = fields.take("messages", [], list, "a list of messages")
  wants = fields.take("logprobs", False, bool, "true or false")
  likely = fields.take(
    "top_logprobs",
    0,
    int,
    f"a number of tokens, 0 to {MAX_LIKELY}",
    lambda x: 0 <= x <= MAX_LIKELY,
  )
  if likely and not wants:
    raise ApiError(
      f"top_logprobs={likely} without logprobs; set logprobs to true",
      param="top_logprobs",
    )
  common = _common(fields, "max_tokens", None)
  newer = _max_tokens(fields, "max_completion_tokens", None)
  if newer is not None:
    common["max_tokens"] = newer
  if common["max_tokens"] == 0:
    raise ApiError("max_tokens=0; an answer has one token or more")
  ask = ChatAsk(
    **common, likely=likely if wants else None, messages=_messages(messages)
  )
  fields.refuse_others()
  return ask


def _common(fields: _Body, limit: str, max_tokens: int | None):
  number = (int, float)
  options = _Body(fields.take("stream_options", {}, dict, "an object"))
  tells_usage = options.take("include_usage", False, bool, "true or false")
  options.refuse_others()
  return {
    "model": fields.take("model", "", str, "the model's name"),
    "n": fields.take(
      "n", 1, int, f"1 to {MAX_SAMPLES}", lambda x: 1 <= x <= MAX_SAMPLES
    ),
    "temperature": float(
      fields.take(
        "temperature",
        1.0,
        number,
        "0 (greedy), or 0.001 to 2",
        lambda x: x == 0 or 1e-3 <= x <= 2,
      )
    ),
    "top_p": float(
      fields.take(
        "top_p", 1.0, number, "1e-6 to 1 (off)", lambda x: 1e-6 <= x <= 1
      )
    ),
    "top_k": max(
      0,
      fields.take(
        "top_k",
        0,
        int,
        f"0 or -1 (off), to {_MOST:,}",
        lambda x: -1 <= x <= _MOST,
      ),
    ),
    "max_tokens": _max_tokens(fields, limit, max_tokens),
    "stops": _stops(fields),
    "seed": fields.take("seed", None, int, "an integer"),
    "stream": fields.take("stream", False, bool, "true or false"),
    "tells_usage": tells_usage,
  }


def _max_tokens(fields: _Body, name: str, default: int | None) -> int | None:
  return fields.take(name, default, int, "0 or more", lambda x: x >= 0)


def _stops(fields: _Body) -> tuple[str, ...]:
  allowed = f"a string or up to {MAX_STOPS} strings, none of them empty"

  def is_allowed(value):
    values = [value] if isinstance(value, str) else value
    return len(values) <= MAX_STOPS and all(
      isinstance(x, str) and x for x in values
    )

  stops = fields.take("stop", (), (str, list), allowed, is_allowed)
  return (stops,) if isinstance(stops, str) else tuple(stops)


def _prompts(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
  if isinstance(prompt, str):
    return (prompt,)
  if prompt and all(_is_token(x) for x in prompt):
    return (tuple(prompt),)

  def is_prompt(x):
    return isinstance(x, str) or (
      isinstance(x, list) and x and all(map(_is_token, x))
    )

  if not prompt or not all(map(is_prompt, prompt)):
    raise ApiError(
      f"prompt={_shown(prompt)} is not allowed; give a string, a list of "
      "strings, token ids or a list of lists of token ids, none of them empty",
      param="prompt",
    )
  return tuple(x if isinstance(x, str) else tuple(x) for x in prompt)


def _is_token(x: Any) -> bool:
  return isinstance(x, int) and not isinstance(x, bool) and x >= 0


# "developer" is the newer name of "system".
_ROLES = {
  "system": "system",
  "developer": "system",
  "user": "user",
  "assistant": "assistant",
}

# The last two are of litellm's messages, and not for the model.
_OF_MESSAGES = {"role", "content", "cache_control", "provider_specific_fields"}


def _messages(messages: Sequence[Any]) -> tuple[Mapping[str, str], ...]:
  if not messages:
    raise ApiError("messages is empty; give one or more", param="messages")
  return tuple(_message(i, message) for i, message in enumerate(messages))


def _message(i: int, message: Any) -> Mapping[str, str]:
  where = f"messages[{i}]"
  if not isinstance(message, dict):
    raise ApiError(f"{where} is no object", param=where)
  role = message.get("role")
  if not isinstance(role, str) or role not in _ROLES:
    raise ApiError(
      f"{where}.role={_shown(role)} is not allowed; give one of "
      f"{', '.join(_ROLES)} (this server makes no tool calls)",
      param=f"{where}.role",
    )
  for name, value in message.items():
    if value and name not in _OF_MESSAGES:
      why = " and would be without effect; leave it out"
      if name in ("tool_calls", "function_call"):
        why = ": this server makes no tool calls"
      raise ApiError(
        f"{where}.{name} is not supported{why}",
        param=f"{where}.{name}",
        code="unsupported_parameter",
      )
  content = message.get("content")
  if isinstance(content, list):
    content = "".join(_part(f"{where}.content", part) for part in content)
  if not isinstance(content, str):
    raise ApiError(
      f"{where}.content={_shown(content)} is not allowed; give a string or a "
      "list of parts of type text",
      param=f"{where}.content",
    )
  return {"role": _ROLES[role], "content": content}


def _part(where: str, part: Any) -> str:
  if isinstance(part, dict) and part.get("type") == "text":
    text = part.get("text")
    if isinstance(text, str):
      return text
  kind = part.get("type") if isinstance(part, dict) else _kind(part)
  raise ApiError(
    f"{where} has a part of type {_shown(kind)}; this server takes parts of "
    "type text only",
    param=where,
  )


def _kind(value: Any) -> str:
  return type(value).__name__


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + "..."
