# SPDX-License-Identifier: Apache-2.0
"""Renders chat templates and cuts them around the user's text.

A prompt is a system message and one user message, followed by the generation
prompt. `cut` renders a prompt with a probe in place of the user's text and
returns what comes before and after the probe. Prompts can then be built from
segments, and the user's text never passes through Jinja. `prompt` renders a
whole prompt, to compare with. The texts themselves come from templates.py, and
render.py renders.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from srl_jax.data.render import render
from srl_jax.rewards.format import THINK_CLOSE, THINK_OPEN, THINK_TAG

# The probe holds what a template might escape, merge or take for markup. Its
# ends have no white space: many templates trim it, and no text of ours has it.
_BEGIN, _END = "Probe-7f3a-begins", "7f3a-probe-ends"
_PROBE = (
  f"{_BEGIN}: \"a\" 'b' & <b>c</b> {{d}} {{{{e}}}} [f]  \\frac{{1}}{{2}}\n\n\n"
  f"\tg\n<think>h</think> \u00e9 \u4f60 \U0001f642 {_END}"
)
_ANSWER = "Answer-7f3a"
_SYSTEM = "System-7f3a"


# The variables by which the templates of Qwen3 and DeepSeek are told to let the
# model think; others follow them.
_THINKS = {"enable_thinking": True, "thinking": True}


class _RaisedError(ValueError):
  """A template raised an exception, as Gemma 2's does at a system message."""


class ChatFormat:
  """A chat template with the variables that it needs."""

  def __init__(
    self,
    source: str,
    special_tokens: Mapping[str, str],
    origin: str,
    others: str = "'text'",
  ):
    """Compiles a template and finds out whether it takes a system message.

    Args:
      source: the template, in Jinja.
      special_tokens: variables of the template, such as "bos_token".
      origin: where the template comes from, for messages.
      others: names of templates to use in its place, for messages.

    Raises:
      ValueError: the template is not valid Jinja.
    """
    self.special_tokens = dict(special_tokens)
    self._origin, self._source, self._others = origin, source, others
    self._variables: dict[str, Any] = {}
    self._takes_system = True
    try:
      text = self.prompt(_SYSTEM, _PROBE)
      # Other templates leave the message out.
      self._takes_system = _SYSTEM in text
    except _RaisedError:
      self._takes_system = False

  @property
  def source(self) -> str:
    """The template in Jinja; it writes the same prompts by itself."""
    variables = "".join(
      f"{{% set {name} = {str(value).lower()} %}}"
      for name, value in self._variables.items()
    )
    # Jinja drops a line break after a block.
    return f"{variables}\n{self._source}" if variables else self._source

  def leave_thinking_to_the_model(self) -> None:
    """Sees to it that prompts end before the think block.

    A thought counts only if the model opens and closes its block itself. Some
    templates write an empty block unless a variable says that the model shall
    think; it is set where that helps.
    """
    without = self._tags()
    if not without:
      return
    self._variables = _THINKS
    if self._tags():
      self._variables = {}
    else:
      warnings.warn(
        f"{self._origin}: the chat template is rendered with "
        f"enable_thinking=True; without it, its prompts end in {without!r}",
        stacklevel=3,
      )

  def check_thinking(self) -> None:
    """Refuses a template that leaves no thinking to a model that is trained.

    Raises:
      ValueError: prompts end with a think tag in any case.
    """
    without = self._tags()
    if not without:
      return
    what = "tells the model not to think"
    if without.rfind(THINK_OPEN) > without.rfind(THINK_CLOSE):
      what = "opens the think block itself"
    raise self.error(
      f"{what} (its prompts end in {without!r})",
      "every sample would fail the format check of SRL, which wants the model "
      "to open the block and to close it",
      f"it without {without!r}",
    )

  def _tags(self) -> str:
    """The end of a prompt, from its first think tag on; "" without one."""
    _, tail = self.cut(_SYSTEM)
    tag = THINK_TAG.search(tail)
    return tail[tag.start() :] if tag else ""

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

  def error(
    self,
    problem: str,
    consequence: str = "prompts cannot be laid out as trunk and branches",
    cure: str = "another one",
  ) -> ValueError:
    """Returns an error that says why the template is unusable, and the cure."""
    return ValueError(
      f"{self._origin}: the chat template {problem}, so that {consequence}; "
      f"write {cure} to chat_template.jinja in that folder, where it comes "
      f"first, or set c.template={self._others}"
    )

  def _render(
    self, messages: Sequence[Mapping[str, str]], generation_prompt: bool
  ) -> str:
    variables = {
      **self.special_tokens,
      **self._variables,
      "messages": messages,
      "tools": None,
      "documents": None,
      "add_generation_prompt": generation_prompt,
    }
    try:
      answer = render(self._source, variables)
    except (TimeoutError, EOFError) as error:
      raise self.error(f"cannot be rendered: the renderer {error}") from error
    if "invalid" in answer:
      raise self.error(f"is not valid Jinja ({answer['invalid']})")
    if "raised" in answer:
      raised = self.error(f"cannot be rendered ({answer['raised']})")
      raise _RaisedError(str(raised))
    return answer["text"]


def _message(role: str, text: str) -> dict[str, str]:
  return {"role": role, "content": text}
