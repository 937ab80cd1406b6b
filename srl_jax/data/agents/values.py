# SPDX-License-Identifier: Apache-2.0
"""Values in records of agents: texts, parts of content, calls of tools.

Nothing is known here of messages and their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from srl_jax.domains.software.actions import Action, ActionError
from srl_jax.trajectory import RecordError


def text_at(record: Mapping[str, Any], *names: str) -> str:
  """Returns the first of these fields that is a text with words in it."""
  values = (record.get(name) for name in names)
  return next((v for v in values if isinstance(v, str) and v.strip()), "")


def with_line_feeds(text: str) -> str:
  """Returns a text whose lines end in line feeds alone."""
  return text.replace("\r\n", "\n")


def object_at(record: Any, name: str) -> dict[str, Any]:
  """Returns the object in a field; an empty one if there is none."""
  value = record.get(name) if isinstance(record, dict) else None
  return value if isinstance(value, dict) else {}


def list_at(record: Mapping[str, Any], name: str, where: str) -> list[Any]:
  """Returns the list in a field, or what its JSON text says; [] if absent.

  Raises:
    RecordError: something else is there; `where` is the place of the record.
  """
  value = decoded(record.get(name), f"{where}.{name}")
  if not value:
    return []
  if not isinstance(value, list):
    raise RecordError(
      f"{where}.{name}", f"is {_short(value)}; write a list there"
    )
  return value


def decoded(value: Any, where: str) -> Any:
  """Returns what a JSON text says; other values as they are.

  Raises:
    RecordError: a text is not JSON.
  """
  if not isinstance(value, str) or not value.strip():
    return value or None
  try:
    return json.loads(value)
  except (ValueError, RecursionError) as error:
    said = str(error).partition(";")[0]
    raise RecordError(
      where, f"is {_short(value)}, which is no JSON ({said}); repair it"
    ) from None


def content_of(item: Mapping[str, Any], where: str) -> str:
  """Returns the text of a message: `content`, `text` or `value`.

  Parts of a list follow each other; one that is no text is named in brackets.
  Thoughts and calls are left out (`thinking_of`, `calls_in`).

  Raises:
    RecordError: the content is neither a text nor a list of parts.
  """
  for name in ("content", "text", "value"):
    value = item.get(name)
    if value is None:
      continue
    if isinstance(value, str):
      return value
    if not isinstance(value, list):
      raise RecordError(
        f"{where}.{name}",
        f"is {_short(value)}; write a text or a list of parts",
      )
    return "\n".join(
      _part(x, f"{where}.{name}[{i}]")
      for i, x in enumerate(value)
      if not (isinstance(x, dict) and x.get("type") in _ELSEWHERE)
    )
  return ""


_ELSEWHERE = ("thinking", "redacted_thinking", "tool_use")


def thinking_of(content: Any) -> str:
  """Returns what parts of the type "thinking" hold."""
  parts = content if isinstance(content, list) else ()
  thoughts = (
    text_at(part, "thinking") for part in parts if isinstance(part, dict)
  )
  return "\n\n".join(filter(None, thoughts))


def calls_in(content: Any, where: str) -> dict[str, Any]:
  """Returns by their places the parts that call a tool, as Anthropic's do."""
  parts = content if isinstance(content, list) else ()
  return {
    f"{where}.content[{i}]": part
    for i, part in enumerate(parts)
    if isinstance(part, dict) and part.get("type") == "tool_use"
  }


def results_in(content: Any, where: str) -> list[tuple[str, str]]:
  """Returns (id of the call, text) of each part, if some answer calls.

  The id is "" in parts without one. [] for other content.

  Raises:
    RecordError: a part is no text, and no object either.
  """
  parts = content if isinstance(content, list) else ()
  objects = [part if isinstance(part, dict) else {} for part in parts]
  if all(part.get("type") != "tool_result" for part in objects):
    return []
  return [
    (text_at(found, "tool_use_id"), _part(part, f"{where}.content[{i}]"))
    for i, (found, part) in enumerate(zip(objects, parts, strict=True))
  ]


def _part(part: Any, where: str) -> str:
  if isinstance(part, str):
    return part
  if not isinstance(part, dict):
    raise RecordError(
      where, f"is {_short(part)}; write {{'type': 'text', 'text': ..}}"
    )
  if isinstance(part.get("text"), str):
    return part["text"]
  if part.get("type") == "tool_result":
    return content_of(part, where)
  return f"[{part.get('type', 'something')} left out]"


def offered_tools(tools: Any, where: str) -> frozenset[str]:
  """Returns the names of the tools that a record offers; none if unknown.

  Raises:
    RecordError: `tools` is a text that is not JSON.
  """
  listed = decoded(tools, where)
  names = set()
  for tool in listed if isinstance(listed, list) else ():
    if isinstance(tool, dict):
      inner = tool.get("function")
      names.add(text_at(inner if isinstance(inner, dict) else tool, "name"))
  return frozenset(names - {""})


class Calls(NamedTuple):
  """What the calls of one message do.

  Attributes:
    actions: one for each call that is good.
    call_ids: their ids, or "".
    bad_call: why a call is none that a tool takes, of the first such call.
  """

  actions: tuple[Action, ...]
  call_ids: tuple[str, ...]
  bad_call: RecordError | None = None


def actions_of(calls: Mapping[str, Any], tools: frozenset[str]) -> Calls:
  """Returns the actions of a message's calls, without those that are bad.

  A bad call, which is the expert's fault and not the record's, names a tool
  that is not offered, or its arguments are no JSON object.

  Args:
    calls: by their places in the record: {"id", "function": {"name",
      "arguments"}}, or name and arguments in the object itself. ATIF says
      tool_call_id and function_name, and Anthropic input.
    tools: names of the tools that the record offers; empty if unknown.

  Raises:
    RecordError: a call is no object, or has no name.
  """
  found: list[tuple[Action, str]] = []
  bad_call = None
  for where, call in calls.items():
    if not isinstance(call, dict):
      raise RecordError(where, f"is {_short(call)}; a call is an object")
    inner = call.get("function")
    inner = inner if isinstance(inner, dict) else call
    name = text_at(inner, "name", "function_name")
    if not name:
      raise RecordError(f"{where}.name", "is missing or empty; name the tool")
    try:
      action = _action(name, inner, where, tools)
    except RecordError as error:
      bad_call = bad_call or error
    else:
      found.append((action, text_at(call, "id", "tool_call_id")))
  actions, ids = zip(*found, strict=True) if found else ((), ())
  return Calls(actions, ids, bad_call)


def _action(
  name: str, call: dict[str, Any], where: str, tools: frozenset[str]
) -> Action:
  if tools and name not in tools:
    raise RecordError(
      f"{where}.name",
      f"is {name!r}, which the record does not offer; its tools are"
      f" {', '.join(sorted(tools))}",
    )
  place = f"{where}.arguments"
  arguments = decoded(call.get("arguments", call.get("input")), place) or {}
  if not isinstance(arguments, dict):
    raise RecordError(
      place, f"is {_short(arguments)}; write an object, or its JSON text"
    )
  try:
    return Action.of_call(name, arguments)
  except ActionError as error:
    raise RecordError(place, str(error)) from None


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:50]}..."
