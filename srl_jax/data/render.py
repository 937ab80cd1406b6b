# SPDX-License-Identifier: Apache-2.0
"""Renders chat templates: in a child process, as they are programs of others.

chat.py says which. The child, `python -m srl_jax.data.render`, gets
[template, variables] and answers {"text": ..}, {"invalid": why} if the template
is no Jinja, or {"raised": why} if it raises an exception. It ends if a message
takes more than its limits.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from srl_jax.processes.children import LazyChild, Lines, serve_lines

# Templates of real models take milliseconds and a few megabytes.
_CPU_S = 2.0
_WALL_S = 60.0
_MAX_BYTES = 1 << 30
_MAX_CHARS = 1 << 25

# The date for templates that ask for it, so that the prompts of a run do not
# depend on the day. The templates of Llama 3.1 and 3.2 fall back to this date.
TODAY = (2024, 7, 26)


_child = LazyChild("srl_jax.data.render", Lines)


def render(template: str, variables: Mapping[str, Any]) -> dict[str, str]:
  """Returns the child's answer to [template, variables].

  Raises:
    TimeoutError, EOFError: it took too much time or memory; the text says
      which.
  """
  return _child.ask([template, variables], _WALL_S)


def _start() -> Callable[[Any], dict[str, str]]:
  """Returns the function that answers messages; see the module's text."""
  import jinja2

  environment = _environment()

  @functools.cache
  def compiled(template):
    return environment.from_string(template)

  def answer(message):
    template, variables = message
    try:
      program = compiled(template)
    except (jinja2.TemplateError, RecursionError, MemoryError) as error:
      return {"invalid": _said(error)}
    try:
      text = program.render(variables)
    except Exception as error:  # A template can raise anything.
      return {"raised": _said(error)}
    if len(text) > _MAX_CHARS:
      return {"raised": f"it writes {len(text):,} characters"}
    return {"text": text}

  return answer


def _said(error: BaseException) -> str:
  return str(error) or type(error).__name__


def _environment() -> Any:
  """The sandbox in which transformers renders, except for the date."""
  import datetime

  import jinja2
  import jinja2.ext
  import jinja2.sandbox

  class Generation(jinja2.ext.Extension):
    """Ignores the tag {% generation %}, which marks the assistant's text."""

    tags = frozenset({"generation"})

    def parse(self, parser: Any) -> Any:
      next(parser.stream)
      return parser.parse_statements(("name:endgeneration",), drop_needle=True)

  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[Generation, jinja2.ext.loopcontrols],
  )
  today = datetime.datetime(*TODAY)

  def raise_exception(message):
    raise jinja2.TemplateError(message)

  def to_json(value, ensure_ascii=False, **options):
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)

  environment.filters["tojson"] = to_json
  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = today.strftime
  return environment


if __name__ == "__main__":
  serve_lines(_start, _CPU_S, _MAX_BYTES)
