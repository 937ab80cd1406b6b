# SPDX-License-Identifier: Apache-2.0
"""Renders chat templates in Jinja and cuts them around the user's text.

A prompt is a system message and one user message, followed by the generation
prompt. `cut` renders a prompt with a probe in place of the user's text and
returns what comes before and after the probe. Prompts can then be built from
segments, and the user's text never passes through Jinja. `prompt` renders a
whole prompt, to compare with. The texts themselves come from templates.py.
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

# The date for templates that ask for it, so that the prompts of a run do not
# depend on the day. The templates of Llama 3.1 and 3.2 fall back to this date.
TODAY = datetime.datetime(2024, 7, 26)

# The probe holds what a template might escape, merge or take for markup. Its
# ends have no white space: many templates trim it, and no text of ours has it.
_BEGIN, _END = "Probe-7f3a-begins", "7f3a-probe-ends"
_PROBE = (
  f"{_BEGIN}: \"a\" 'b' & <b>c</b> {{d}} {{{{e}}}} [f]  \\frac{{1}}{{2}}\n\n\n"
  f"\tg\n<think>h</think> \u00e9 \u4f60 \U0001f642 {_END}"
)
_ANSWER = "Answer-7f3a"
_SYSTEM = "System-7f3a"


class ChatFormat:
  """A chat template with the variables that it needs."""

  def __init__(
    self, source: str, special_tokens: Mapping[str, str], origin: str
  ):
    """Compiles a template and finds out whether it takes a system message.

    Args:
      source: the template, in Jinja.
      special_tokens: variables of the template, such as "bos_token".
      origin: where the template comes from, for messages.

    Raises:
      ValueError: the template is not valid Jinja.
    """
    self.special_tokens = dict(special_tokens)
    self._origin = origin
    try:
      self._template = _environment().from_string(source)
    except jinja2.TemplateError as error:
      raise self.error(f"is not valid Jinja ({error})") from error
    self._takes_system = True
    with contextlib.suppress(ValueError):  # Gemma 2's template raises one.
      text = self.prompt(_SYSTEM, _PROBE)
      if _SYSTEM in text:  # Other templates leave the message out.
        return
    self._takes_system = False

  def prompt(self, system: str, user: str) -> str:
    """Renders a prompt, generation prompt included.

    If the template takes no system message, the system text is put at the
    beginning of the user's.
    """
    messages = [_message("system", system), _message("user", user)]
    if not self._takes_system:
      messages = [_message("user", f"{system}\n\n{user}")]
    return self._render(messages, generation_prompt=True)

  def conversation(self, messages: Sequence[Mapping[str, str]]) -> str:
    """Renders messages, generation prompt included.

    If the template takes no system message, the text of one at the beginning
    is put at the beginning of the first user message.

    Raises:
      ValueError: the template refuses the messages.
    """
    first, *others = messages
    is_system = first["role"] == "system" and not self._takes_system
    if is_system and others and others[0]["role"] == "user":
      user = f"{first['content']}\n\n{others[0]['content']}"
      messages = [_message("user", user), *others[1:]]
    try:
      return self._render(messages, generation_prompt=True)
    except ValueError as error:
      roles = ", ".join(message["role"] for message in messages)
      raise ValueError(
        f"these messages, of {roles}, do not suit the model: {error}"
      ) from error

  def cut(self, system: str) -> tuple[str, str]:
    """Returns the prompt's text before and after the user's text.

    Raises:
      ValueError: the template leaves the user's text out, changes it, or
        writes it more than once.
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
    """Returns what the template writes after the assistant's last text.

    Raises:
      ValueError: the template leaves the assistant's text out.
    """
    messages = [_message("user", _PROBE), _message("assistant", _ANSWER)]
    text = self._render(messages, generation_prompt=False)
    if _ANSWER not in text:
      raise self.error("leaves the assistant's text out")
    return text.rpartition(_ANSWER)[2]

  def error(self, problem: str) -> ValueError:
    """Returns an error that says why the template is unusable, and the cure."""
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
    except Exception as error:  # A template can raise anything.
      raise self.error(f"cannot be rendered ({error})") from error


def _message(role: str, text: str) -> dict[str, str]:
  return {"role": role, "content": text}


class _Generation(jinja2.ext.Extension):
  """Ignores the tag {% generation %}, which marks the assistant's text."""

  tags = frozenset({"generation"})

  def parse(self, parser: Any) -> Any:
    next(parser.stream)
    return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
  """The sandbox in which transformers renders, except for the date."""
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
