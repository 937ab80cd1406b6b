# SPDX-License-Identifier: Apache-2.0
"""Reads the events that OpenHands logs in its output.jsonl.

An event is an action or an observation. With an action comes the answer of the
model that it was made of, and an observation names the call that it is for.
Events without a call are the harness's own, but for the user's messages.

The SDK, of which OpenHands consists since version 1, says an event's `kind`;
an action holds the call itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srl_jax.data.agents.messages import Message
from srl_jax.data.agents.values import (
  actions_of,
  content_of,
  list_at,
  object_at,
  text_at,
  thinking_of,
)
from srl_jax.domains.software.actions import Action
from srl_jax.trajectory import RecordError


def is_event(item: dict[str, Any]) -> bool:
  """Whether an object of a list is an event."""
  is_action = isinstance(item.get("args"), dict) and "action" in item
  is_observation = "observation" in item and "extras" in item
  return is_action or is_observation or _is_of_sdk(item)


def _is_of_sdk(item: dict[str, Any]) -> bool:
  return isinstance(item.get("kind"), str) and "source" in item


def read(items: Sequence[dict[str, Any]], name: str) -> list[Message]:
  """Returns the messages of a list of events, which is the record's `name`.

  Raises:
    RecordError: an action holds no call of a tool.
  """
  messages = []
  for number, item in enumerate(items):
    where = f"{name}[{number}]"
    if _is_of_sdk(item):
      messages += _of_sdk(item, where)
      continue
    call = object_at(item, "tool_call_metadata")
    call_id = text_at(call, "tool_call_id")
    args = object_at(item, "args")
    if "observation" in item:
      if call_id:
        text = content_of(item, where)
        messages.append(Message("tool", text, where, answers=(call_id,)))
    elif call_id:
      calls = actions_of({where: _call(call, call_id, where)}, frozenset())
      thought = text_at(args, "thought")
      messages.append(Message("agent", thought, where, **calls._asdict()))
    elif item.get("action") == "message":
      role = "user" if item.get("source") == "user" else "agent"
      messages.append(Message(role, content_of(args, where), where))
  return messages


def _call(metadata: dict[str, Any], call_id: str, where: str) -> dict[str, Any]:
  response = object_at(metadata, "model_response")
  for choice in list_at(response, "choices", where):
    message = object_at(choice, "message")
    for call in list_at(message, "tool_calls", where):
      if isinstance(call, dict) and call.get("id") == call_id:
        return call
  raise RecordError(
    f"{where}.tool_call_metadata",
    f"holds no call {call_id!r} in model_response; log it, or give messages",
  )


def _of_sdk(item: dict[str, Any], where: str) -> list[Message]:
  kind, call_id = item["kind"], text_at(item, "tool_call_id")
  if kind == "MessageEvent":
    text = content_of(object_at(item, "llm_message"), where)
    role = "agent" if item["source"] == "agent" else "user"
    return [Message(role, text, where)]
  if kind != "ActionEvent":
    seen = object_at(item, "observation")
    text = content_of(seen, where) or text_at(seen, "output")
    text = text or text_at(item, "error", "rejection_reason")
    answers = (call_id,)
    return [Message("tool", text, where, answers=answers)] if call_id else []
  if item.get("action") is None:  # A call that the tool does not take.
    return [Message("agent", "", where)]
  call = {f"{where}.tool_call": item.get("tool_call")}
  actions, _, bad_call = actions_of(call, frozenset())
  return [
    Message(
      "agent",
      content_of({"content": item.get("thought")}, where),
      where,
      reasoning=text_at(item, "reasoning_content")
      or thinking_of(item.get("thinking_blocks")),
      actions=tuple(_without_summary(action) for action in actions),
      call_ids=(call_id,) * len(actions),
      bad_call=bad_call,
    )
  ]


def _without_summary(action: Action) -> Action:
  """Every tool of the SDK takes words on what the call is for."""
  own = tuple(p for p in action.parameters if p[0] != "summary")
  return Action(action.name, own)
