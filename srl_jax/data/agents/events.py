# SPDX-License-Identifier: Apache-2.0
"""Reads the events that OpenHands logs in its output.jsonl.

An event is an action or an observation. With an action comes the answer of the
model that it was made of, and an observation names the call that it is for.
Events without a call are the harness's own, but for the user's messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srl_jax.data.agents.messages import Message
from srl_jax.data.agents.values import (
  action_of,
  content_of,
  list_at,
  object_at,
  text_at,
)
from srl_jax.trajectory import RecordError


def is_event(item: dict[str, Any]) -> bool:
  """Whether an object of a list is an event."""
  is_action = isinstance(item.get("args"), dict) and "action" in item
  return is_action or ("observation" in item and "extras" in item)


def read(items: Sequence[dict[str, Any]], name: str) -> list[Message]:
  """Returns the messages of a list of events, which is the record's `name`.

  Raises:
    RecordError: the answer of the model does not hold the call of an action.
  """
  messages = []
  for number, item in enumerate(items):
    where = f"{name}[{number}]"
    call = object_at(item, "tool_call_metadata")
    call_id = text_at(call, "tool_call_id")
    args = object_at(item, "args")
    if "observation" in item:
      if call_id:
        text = content_of(item, where)
        messages.append(Message("tool", text, where, answers=(call_id,)))
    elif call_id:
      action = _call(call, call_id, where)
      messages.append(
        Message(
          "agent",
          text_at(args, "thought"),
          where,
          actions=(action_of(action, where, frozenset())[0],),
          call_ids=(call_id,),
        )
      )
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
