# SPDX-License-Identifier: Apache-2.0
"""Reads records of software agents, in whatever shape they were published.

  shape        recognised by                    written by
  ATIF         `schema_version`                 Harbor and others (atif.py)
  chat         a list of messages with roles    SWE-smith, OpenHands, nebius,
                                                mini-swe-agent, SWE-agent
  log          a list of actions with what      R2E-Gym, SWE-agent without
               was observed                     `history`
  events       a list of actions and            OpenHands (events.py)
               observations

The list may be the JSON text of one. Content is a text or a list of parts, and
arguments of calls are an object or its JSON text. Fields that are not named
here are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srl_jax.data.agents import atif, events
from srl_jax.data.agents.messages import (
  Facts,
  Message,
  is_solved,
  to_trajectory,
)
from srl_jax.data.agents.values import (
  actions_of,
  calls_in,
  content_of,
  decoded,
  list_at,
  object_at,
  offered_tools,
  results_in,
  text_at,
  thinking_of,
  with_line_feeds,
)
from srl_jax.domains.software import foreign
from srl_jax.domains.software.actions import Action, find
from srl_jax.trajectory import RecordError, Trajectory

# Where records keep their list. A .traj has a log beside its history.
_LISTS = (
  "messages",
  "conversations",
  "history",
  "trajectory",
  "trajectory_steps",
)
_ROLES = {
  "system": None,
  "developer": None,
  "exit": None,  # How mini-swe-agent notes its own end.
  "user": "user",
  "human": "user",
  "assistant": "agent",
  "agent": "agent",
  "ai": "agent",
  "gpt": "agent",
  "tool": "tool",
  "function": "tool",
  "observation": "tool",
}
# Environments of SWE-agent that are not named after their task.
_NO_TASKS = {"main", "swe_main"}


def parse(record: Any, default_id: str) -> Trajectory:
  """Builds a trajectory from one record of a software agent.

  Raises:
    RecordError: the record cannot be used; the message names the place, what
      is wrong and what to do.
  """
  if not isinstance(record, dict):
    raise RecordError("(record)", "is no object; write one per line")
  if "schema_version" in record:
    return to_trajectory(*atif.read(record), default_id)
  name, items = _list_of(record)
  tools = offered_tools(record.get("tools"), "tools")
  if all("role" in item or "from" in item for item in items):
    messages = _chat(items, name, tools)
  elif all("action" in item and "args" not in item for item in items):
    messages = _log(items, name)
  elif all(events.is_event(item) for item in items):
    messages = events.read(items, name)
  else:
    raise RecordError(
      f"{name}[0]",
      f"has the fields {', '.join(map(str, items[0])) or '(none)'}; it must be"
      " a message with role and content, or an action with its observation",
    )
  return to_trajectory(messages, _facts(record), default_id)


def _list_of(record: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
  for name in _LISTS:
    items = decoded(record.get(name), name)
    if not items:
      continue
    if not isinstance(items, list):
      raise RecordError(name, "is no list of messages; write one there")
    for number, item in enumerate(items):
      if not isinstance(item, dict):
        raise RecordError(
          f"{name}[{number}]", f"is {item!r}; an object is expected"
        )
    return name, items
  hint = ""
  if "role" in record:
    hint = "; this record is a single message: put the list of them under"
    hint += " 'messages' of one object"
  raise RecordError(
    "messages",
    f"is missing (found: {', '.join(map(str, record)) or 'nothing'}), and so"
    f" are {', '.join(_LISTS[1:])}{hint or '; choose the data.format it has'}",
  )


def _facts(record: dict[str, Any]) -> Facts:
  inner = object_at(record, "ds") or object_at(record, "instance")
  environment = text_at(record, "environment")  # Of a .traj: often the task.
  info = object_at(record, "info")  # Where our own agent says the outcome.
  return Facts(
    id=text_at(record, "traj_id", "trajectory_id"),
    task=text_at(record, "instance_id", "task_id")
    or text_at(inner, "instance_id")
    or ("" if environment in _NO_TASKS else environment),
    problem=text_at(record, "problem_statement")
    or text_at(inner, "problem_statement"),
    resolved=is_solved(info | record | object_at(record, "report")),
    model=text_at(record, "model", "model_name", "model_name_or_path"),
  )


def _chat(
  items: Sequence[dict[str, Any]], name: str, tools: frozenset[str]
) -> list[Message]:
  messages = []
  for number, item in enumerate(items):
    where = f"{name}[{number}]"
    role = item.get("role", item.get("from"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
      raise RecordError(
        f"{where}.role", f"is {role!r}; use one of {', '.join(_ROLES)}"
      )
    extra = object_at(item, "extra")
    known = _ROLES[role.lower()]
    # Demonstrations come before the task.
    if known is None or item.get("is_demo"):
      continue
    text = content_of(item, where)
    interrupt = extra.get("interrupt_type")
    is_refusal = interrupt == "FormatError" or (
      known == "user" and text.startswith(foreign.REFUSED)
    )
    if is_refusal and messages and messages[-1].role == "agent":
      # What the agent wrote before was not run.
      messages[-1] = Message("agent", "", messages[-1].where)
    if is_refusal or interrupt:  # Interrupts answer what is not here.
      continue
    if known == "agent":
      messages.append(_agent(item, extra, text, where, tools))
    elif results := results_in(item.get("content"), where):
      messages += (
        Message("tool", result, where, answers=(call_id,))
        for call_id, result in results
      )
    else:
      ids = list_at(item, "tool_call_ids", where) or [item.get("tool_call_id")]
      answers = tuple(x for x in ids if isinstance(x, str))
      messages.append(Message(known, text, where, answers=answers))
  return messages


def _agent(
  item: dict[str, Any],
  extra: dict[str, Any],
  text: str,
  where: str,
  tools: frozenset[str],
) -> Message:
  listed = list_at(item, "tool_calls", where)
  calls = {f"{where}.tool_calls[{i}]": call for i, call in enumerate(listed)}
  if not calls and item.get("function_call"):
    calls = {f"{where}.function_call": item["function_call"]}
  calls = calls or calls_in(item.get("content"), where)
  actions, ids, bad_call = actions_of(calls, tools)
  if not calls:
    commands = extra.get("actions")
    actions = tuple(
      Action("bash", (("command", command["command"]),))
      for command in (commands if isinstance(commands, list) else ())
      if isinstance(command, dict) and isinstance(command.get("command"), str)
    )
    text = foreign.without_commands(text) if actions else text
    ids = ("",) * len(actions)
  return Message(
    "agent",
    text,
    where,
    reasoning=text_at(item, "reasoning_content", "reasoning")
    or thinking_of(item.get("content")),
    actions=actions,
    call_ids=ids,
    bad_call=bad_call,
    fallback=_flattened(item.get("action")),
    is_target=item.get("train") is not False and item.get("weight") != 0,
  )


def _flattened(action: Any) -> Action | None:
  """The action of a line of SWE-agent's shell; None if there is none."""
  if not isinstance(action, str) or not action.strip():
    return None
  return foreign.from_shell(action.strip("\n"))


def _log(items: Sequence[dict[str, Any]], name: str) -> list[Message]:
  """Reads a list of {thought, action, observation}; some say response."""
  messages = []
  first = items[0].get("query") or items[0].get("messages")
  if isinstance(first, list):
    asked = [
      m for m in first if isinstance(m, dict) and m.get("role") == "user"
    ]
    messages = _chat(asked[:1], f"{name}[0].query", frozenset())
  for number, item in enumerate(items):
    where = f"{name}[{number}]"
    action = with_line_feeds(text_at(item, "action"))
    found = tuple(one.action for one in find(action))[:1]
    if not found and (line := _flattened(action)) is not None:
      found = (line,)
    thought = text_at(item, "thought", "response")
    ids = ("",) * len(found)
    messages.append(
      Message("agent", thought, where, actions=found, call_ids=ids)
    )
    answer = content_of({"content": item.get("observation")}, where)
    messages.append(Message("tool", answer, where))
  return messages
