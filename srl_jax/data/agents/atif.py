# SPDX-License-Identifier: Apache-2.0
"""Reads the Agent Trajectory Interchange Format (ATIF).

A document holds one trajectory: steps of the user, the system and the agent.
A step of the agent holds its calls of tools and, as their results, what was
observed. Versions 1.0 to 1.8 are read. Trajectories of subagents inside of a
document are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from srl_jax.data.agents.messages import Facts, Message, is_solved
from srl_jax.data.agents.values import (
  actions_of,
  content_of,
  list_at,
  object_at,
  offered_tools,
  text_at,
  thinking_of,
)
from srl_jax.trajectory import RecordError

_READ = re.compile(r"ATIF-v1\.[0-8]")


def read(record: Mapping[str, Any]) -> tuple[list[Message], Facts]:
  """Returns the messages of a document, and what it says beside them.

  Copied context and steps that no model decided are shown, but not learnt
  from.

  Raises:
    RecordError: the document does not have that form.
  """
  version = record["schema_version"]
  if not isinstance(version, str) or not _READ.fullmatch(version):
    raise RecordError(
      "schema_version",
      f"is {version!r}; documents of ATIF-v1.0 to ATIF-v1.8 are read",
    )
  steps = record.get("steps")
  if not isinstance(steps, list) or not steps:
    raise RecordError("steps", "is no list of steps, or empty; write it there")
  agent = object_at(record, "agent")
  tools = offered_tools(agent.get("tool_definitions"), "agent.tool_definitions")
  messages: list[Message] = []
  for number, step in enumerate(steps):
    where = f"steps[{number}]"
    if not isinstance(step, dict):
      raise RecordError(where, f"is {step!r}; an object is expected")
    messages += _messages(step, where, tools)
  extra = object_at(record, "extra")
  solved = is_solved(extra)
  if solved is None:
    metrics = object_at(record, "final_metrics")
    solved = is_solved(object_at(metrics, "extra"))
  return messages, Facts(
    id=text_at(record, "trajectory_id"),
    task=text_at(extra, "instance_id", "task"),
    resolved=solved,
    model=text_at(agent, "model_name"),
  )


def _messages(
  step: dict[str, Any], where: str, tools: frozenset[str]
) -> list[Message]:
  source = step.get("source")
  if source not in ("system", "user", "agent"):
    raise RecordError(
      f"{where}.source", f"is {source!r}; use system, user or agent"
    )
  text = content_of({"content": step.get("message")}, where)
  messages = []
  if source == "user":
    messages.append(Message("user", text, where))
  if source == "agent":
    listed = list_at(step, "tool_calls", where)
    calls = {f"{where}.tool_calls[{i}]": call for i, call in enumerate(listed)}
    messages.append(
      Message(
        "agent",
        text,
        where,
        reasoning=text_at(step, "reasoning_content")
        or thinking_of(step.get("message")),
        **actions_of(calls, tools)._asdict(),
        is_target=not (
          step.get("is_copied_context") or step.get("llm_call_count") == 0
        ),
      )
    )
  observation = object_at(step, "observation")
  for result in list_at(observation, "results", f"{where}.observation"):
    if not isinstance(result, dict):
      raise RecordError(
        f"{where}.observation", f"is of {result!r}; write objects there"
      )
    call_id = text_at(result, "source_call_id")
    messages.append(
      Message(
        "tool",
        content_of(result, f"{where}.observation"),
        where,
        answers=(call_id,) if call_id else (),
      )
    )
  return messages
