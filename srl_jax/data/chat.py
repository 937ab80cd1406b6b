# SPDX-License-Identifier: Apache-2.0
"""Renders a chat template in Jinja, and cuts it where the user's text stands.

A prompt is a system message and one user message, followed by the generation
prompt. `cut` renders it with a probe in place of the user's text and returns
what stands before and after, so that prompts can be put together in segments
of which none has passed through Jinja; `prompt` renders a whole one, to
compare with. What the texts say is templates.py's business.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

# What templates that ask for the date are told, so that the prompts of a run
# do not depend on the day. Llama 3.1 and 3.2 fall back to this one.
TODAY = datetime.datetime(2024, 7, 26)

# Holds what a template might escape, merge or take for markup. It has no white
# space at its ends, which many templates trim and no text of ours has.
_BEGIN, _END = "Probe-7f3a-begins", "7f3a-probe-ends"
_PROBE = (
  f"{_BEGIN}: \"a\" 'b' & <b>c</b> {{d}} {{{{e}}}} [f]  \\frac{{1}}{{2}}\n\n\n"
  f"\tg\n<think>h</think> \u00e9 \u4f60 \U0001f642 {_END}"
)
_ANSWER = "Answer-7f3a"
_SYSTEM = "System-7f3a"


class ChatFormat:
  """A chat template with the variables that it wants."""

  def __init__(
    self, source: str, special_tokens: Mapping[str, str], origin: str
  ):
    """Compiles a template and finds out whether it takes a system message.

    Args:
      source: the template, in Jinja.
      special_tokens: variables of the template, such as "bos_token".
      origin: where it comes from, for messages.

    Raises:
      ValueError: it is not valid Jinja.
    """
    self.special_tokens = dict(special_tokens)
    self._origin = origin
    try:
      self._template = _environment().from_string(source)
    except jinja2.TemplateError as error:
      raise self.error(f"is not valid Jinja ({error})") from error
    self._takes_system = True
    with contextlib.suppress(ValueError):  # Gemma 2's raises an exception,
      text = self.prompt(_SYSTEM, _PROBE)
      if _SYSTEM in text:  # others leave the message out.
        return
    self._takes_system = False

  def prompt(self, system: str, user: str) -> str:
    """Renders a prompt, generation prompt included.

    Where the template takes no system message, its text comes first in the
    user's.
    """
    messages = [_message("system", system), _message("user", user)]
    if not self._takes_system:
      messages = [_message("user", f"{system}\n\n{user}")]
    return self._render(messages, generation_prompt=True)

  def cut(self, system: str) -> tuple[str, str]:
    """Returns what stands before and after the user's text.

    Raises:
      ValueError: the text is not where and what the template was given.
    """
    text = self.prompt(system, _PROBE)
    before, *after = text.split(_PROBE)
    if len(after) > 1:
      raise self.error(f"writes the user's text {len(after)} times")
    if after:
      return before, after[0]
    if _BEGIN not in text or _END not in text:
      raise self.error("leaves the user's text out, or part of it")
    changed = _BEGIN + text.partition(_BEGIN)[2].partition(_END)[0] + _END
    raise self.error(f"changes the user's text: {_PROBE!r} becomes {changed!r}")

  def ending(self) -> str:
    """Returns what the template writes after the assistant's last text."""
    messages = [_message("user", _PROBE), _message("assistant", _ANSWER)]
    text = self._render(messages, generation_prompt=False)
    if _ANSWER not in text:
      raise self.error("leaves the assistant's text out")
    return text.rpartition(_ANSWER)[2]

  def error(self, problem: str) -> ValueError:
    """The error that says why the template cannot be used, and what to do."""
    return ValueError(
      f"{self._origin}: the chat template {problem}, so that prompts cannot be "
      "laid out as trunk and branches; write another one to "
      "chat_template.jinja in that folder, where it comes first, or set "
      "c.template='chatml' or 'text'"
    )

  def _render(
    self, messages: Sequence[Mapping[str, str]], generation_prompt: bool
  ) -> str:
    try:
      return self._template.render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=generation_prompt,
        **self.special_tokens,
      )
    except Exception as error:  # a template can raise anything
      raise self.error(f"cannot be rendered ({error})") from error


def _message(role: str, text: str) -> dict[str, str]:
  return {"role": role, "content": text}


class _Generation(jinja2.ext.Extension):
  """{% generation %} marks what the assistant says; here it does nothing."""

  tags = frozenset({"generation"})

  def parse(self, parser: Any) -> Any:
    next(parser.stream)
    return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
  """The sandbox in which transformers renders, but for the date."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, jinja2.ext.loopcontrols],
  )

  def raise_exception(message):
    raise jinja2.TemplateError(message)

  def to_json(value, ensure_ascii=False, **options):
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)

  environment.filters["tojson"] = to_json
  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = lambda form: TODAY.strftime(form)
  return environment
