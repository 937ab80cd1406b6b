# SPDX-License-Identifier: Apache-2.0
"""Actions of agents and the grammar in which models read and write them.

  <function=str_replace_editor>
  <parameter=command>str_replace</parameter>
  <parameter=path>/testbed/a.py</parameter>
  <parameter=old_str>
  a = 1
  </parameter>
  <parameter=new_str>
  a = 2
  </parameter>
  </function>

This is the form of SWE-smith's expert actions (paper section 4). A value stands
between its tags as it is, but for one line break on each side that is not its
own: SWE-agent reads every value so. These breaks are written around the values
of BLOCKS, and around a value that begins or ends in a line break itself.
Nothing is escaped: the first `</parameter>` that a parameter or `</function>`
follows ends a value, so few texts cannot be written.

Which tools exist, and what they do, is not known here.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# Parameters whose values are written between line breaks.
BLOCKS = frozenset({"file_text", "new_str", "old_str"})

_NAME = r"[^<>=\s]+"
_OPENING = re.compile(rf"<function=({_NAME})>")
_PARAMETER = re.compile(rf"\s*<parameter=({_NAME})>")
_VALUE_END = re.compile(
  rf"</parameter>(?=\s*(?:<parameter={_NAME}>|</function>))"
)
_END = re.compile(r"\s*</function>")


class ActionError(ValueError):
  """A text is no action, or an action cannot be written as text."""


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
  """A call of a tool.

  Attributes:
    name: the tool.
    parameters: (name, value) pairs in the order of the call; no name twice.
  """

  name: str
  parameters: tuple[tuple[str, str], ...] = ()

  def __post_init__(self):
    names = [name for name, _ in self.parameters]
    for name in (self.name, *names):
      if not re.fullmatch(_NAME, name):
        raise ActionError(
          f"the name {name!r} is empty or has white space or one of <>= in it;"
          " write a name such as bash or old_str"
        )
    for name in names:
      if names.count(name) > 1:
        raise ActionError(
          f"the parameter {name!r} is given {names.count(name)} times; give it"
          " once"
        )

  @property
  def values(self) -> dict[str, str]:
    """The values by the names of the parameters."""
    return dict(self.parameters)

  @classmethod
  def of_call(cls, name: str, arguments: Mapping[str, Any]) -> Action:
    """Returns the action of a function call with JSON values.

    Strings stay as they are, other values become JSON text, and null is a
    parameter that was not given.

    Raises:
      ActionError: a name cannot be written.
    """
    return cls(
      name,
      tuple(
        (key, _as_text(value))
        for key, value in arguments.items()
        if value is not None
      ),
    )


def _as_text(value: Any) -> str:
  if isinstance(value, str):
    return value
  return json.dumps(value, ensure_ascii=False)  # As the model would write it.


class Found(NamedTuple):
  """An action and where it stands in a text: text[start:end]."""

  start: int
  end: int
  action: Action


def render(action: Action) -> str:
  """Returns the text of an action; `parse` gives the same action back.

  Raises:
    ActionError: a value holds tags that would end it too early.
  """
  lines = [f"<function={action.name}>"]
  for name, value in action.parameters:
    is_block = name in BLOCKS or value[:1] == "\n" or value[-1:] == "\n"
    inside = f"\n{value}\n" if is_block else value
    lines.append(f"<parameter={name}>{inside}</parameter>")
  text = "\n".join([*lines, "</function>"])
  if next(find(text), None) != (0, len(text), action):
    raise ActionError(
      f"the parameters of {action.name!r} hold the tags of this grammar in an"
      " order that ends a value too early; leave the action out"
    )
  return text


def parse(text: str) -> Action:
  """Returns the one action that a text is, white space around it aside.

  Raises:
    ActionError: the text is something else; the message says what is wrong, in
      words that help whoever wrote the text.
  """
  text = text.strip()
  found = list(find(text))
  if [(f.start, f.end) for f in found] == [(0, len(text))]:
    return found[0].action
  if len(found) > 1:
    raise ActionError(f"there are {len(found)} actions; write exactly one")
  if found:
    raise ActionError(
      "there is text before or after the action; write the action alone"
    )
  opening = _OPENING.search(text)
  if opening is None:
    raise ActionError(
      f"there is no action in {_short(text)}; write <function=NAME>, a line"
      " <parameter=NAME>VALUE</parameter> for each parameter, and </function>"
    )
  _, _, problem = _read(text, opening)
  raise ActionError(f"the action {opening[1]!r} {problem}")


def find(text: str) -> Iterator[Found]:
  """Yields the whole actions in a text; those inside of others are left out."""
  at = 0
  while opening := _OPENING.search(text, at):
    action, end, _ = _read(text, opening)
    if action is not None:
      yield Found(opening.start(), end, action)
    at = end


def _read(
  text: str, opening: re.Match[str]
) -> tuple[Action | None, int, str | None]:
  """Returns (action, where it ends, None), or (None, .., what is wrong)."""
  at = opening.end()
  parameters = []
  while begin := _PARAMETER.match(text, at):
    name = begin[1]
    finish = _VALUE_END.search(text, begin.end())
    if finish is None:
      return (
        None,
        at,
        (
          f"does not end its parameter {name!r}; write </parameter>, and after"
          " the last one </function>"
        ),
      )
    value = text[begin.end() : finish.start()]
    value = value.removeprefix("\n").removesuffix("\n")
    parameters.append((name, value))
    at = finish.end()
  end = _END.match(text, at)
  if end is None:
    return (
      None,
      at,
      (
        f"goes on with {_short(text[at:].strip())}; write </function> or"
        " <parameter=NAME>VALUE</parameter> there"
      ),
    )
  try:
    return Action(opening[1], tuple(parameters)), end.end(), None
  except ActionError as error:
    return None, at, f"is no good: {error}"


def _short(text: str) -> str:
  return repr(text if len(text) <= 60 else f"{text[:50]}...")
