# SPDX-License-Identifier: Apache-2.0
"""The Agent Trajectory Interchange Format (ATIF), in and out.

A document holds one trajectory: steps of the user, the system and the agent.
A step of the agent holds its calls of tools and, as their results, what was
observed. Versions 1.0 to 1.8 are read and 1.8 is written. Trajectories of
subagents inside of a document are not read.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from srl_jax.data.agents.messages import Facts, Message, is_solved
from srl_jax.data.agents.values import (
  action_of,
  content_of,
  list_at,
  object_at,
  offered_tools,
  text_at,
  thinking_of,
)
from srl_jax.data.schema import check_characters
from srl_jax.domains.software.actions import ActionError, parse, render
from srl_jax.trajectory import RecordError, Step, Trajectory

VERSION = "ATIF-v1.8"
_READ = re.compile(r"ATIF-v1\.[0-8]")
# Parameters whose values are JSON and no text.
_JSON = {"insert_line", "view_range"}


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
      f"is {version!r}; documents of ATIF-v1.0 to {VERSION} are read",
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
    metadata={
      key: value
      for key, value in object_at(extra, "metadata").items()
      if isinstance(value, str)
    },
    domain=text_at(extra, "domain"),
    answer=text_at(extra, "answer") or None,
  )


def as_written(
  messages: Sequence[Message], facts: Facts, default_id: str
) -> Trajectory:
  """Returns the trajectory of which `to_atif` wrote a document, as it was.

  Nothing is taken for the words of another agent's harness.

  Raises:
    RecordError: the document does not have the form in which it was written.
  """
  steps: list[Step] = []
  for message in messages[1:]:
    text = message.text
    check_characters(text + message.reasoning, message.where)
    if message.role != "agent" and steps:
      seen = filter(None, (steps[-1].observation, text))
      observation = "\n\n".join(seen)
      steps[-1] = dataclasses.replace(steps[-1], observation=observation)
      continue
    if len(message.actions) > 1:
      raise RecordError(
        message.where,
        f"calls {len(message.actions)} tools; with extra.domain, as here, a"
        " step calls one: split it, or leave extra.domain out",
      )
    try:
      text = render(message.actions[0]) if message.actions else text
    except ActionError as error:
      raise RecordError(message.where, str(error)) from None
    thought = message.reasoning or None
    steps.append(Step(text, thought=thought, is_target=message.is_target))
  if not steps or messages[0].role != "user":
    raise RecordError(
      "steps", "hold no step of an agent after the user's; write it there"
    )
  check_characters(messages[0].text, "steps[0].message")
  known = {
    "task": facts.task,
    "resolved": "" if facts.resolved is None else str(facts.resolved).lower(),
    "model": facts.model,
  }
  return Trajectory(
    facts.id or default_id,
    facts.domain,
    messages[0].text,
    tuple(steps),
    facts.answer,
    {**facts.metadata, **{k: v for k, v in known.items() if v}},
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
    named = [
      action_of(call, f"{where}.tool_calls[{i}]", tools)
      for i, call in enumerate(list_at(step, "tool_calls", where))
    ]
    messages.append(
      Message(
        "agent",
        text,
        where,
        reasoning=text_at(step, "reasoning_content")
        or thinking_of(step.get("message")),
        actions=tuple(action for action, _ in named),
        call_ids=tuple(call_id for _, call_id in named),
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


def to_atif(trajectory: Trajectory) -> dict[str, Any]:
  """Returns a trajectory as an ATIF document, which `read` takes back.

  Thoughts become reasoning_content; titles are lost. A step whose text is no
  action becomes the message of a step without calls. Steps that are no targets
  are marked as copied context, as the format has no other word for them.
  """
  metadata = dict(trajectory.metadata)
  extra: dict[str, Any] = {"domain": trajectory.domain}
  if trajectory.answer is not None:
    extra["answer"] = trajectory.answer
  if metadata.get("resolved") in ("true", "false"):
    extra["resolved"] = metadata.pop("resolved") == "true"
  if metadata.get("task"):
    extra["instance_id"] = metadata.pop("task")
  model = metadata.pop("model") if metadata.get("model") else ""
  if metadata:
    extra["metadata"] = metadata
  agent = {"name": "unknown", "version": "unknown"}
  if model:
    agent["model_name"] = model
  steps = [{"step_id": 1, "source": "user", "message": trajectory.problem}]
  steps += [_document(s, i) for i, s in enumerate(trajectory.steps, 2)]
  return {
    "schema_version": VERSION,
    "session_id": trajectory.id,
    "trajectory_id": trajectory.id,
    "agent": agent,
    "steps": steps,
    "final_metrics": {"total_steps": len(steps)},
    "extra": extra,
  }


def _document(step: Step, number: int) -> dict[str, Any]:
  document: dict[str, Any] = {"step_id": number, "source": "agent"}
  try:
    action = parse(step.text)
  except ActionError:
    document["message"] = step.text
    result = {}
  else:
    name = f"call_{number}"
    document["message"] = ""
    document["tool_calls"] = [
      {
        "tool_call_id": name,
        "function_name": action.name,
        "arguments": {k: _value(k, v) for k, v in action.parameters},
      }
    ]
    result = {"source_call_id": name}
  if step.thought:
    document["reasoning_content"] = step.thought
  if step.observation is not None:
    results = [{**result, "content": step.observation}]
    document["observation"] = {"results": results}
  if not step.is_target:
    document["is_copied_context"] = True
  return document


def _value(name: str, text: str) -> Any:
  if name in _JSON:
    try:
      value = json.loads(text)
    except ValueError:
      return text
    if not isinstance(value, (str, type(None))) and json.dumps(value) == text:
      return value
  return text
