# SPDX-License-Identifier: Apache-2.0
"""One small repair by a software agent, in all the shapes that are read.

Each function returns a record as the named software publishes it. All of them
tell of the same steps: look, edit, submit, and submit again after a review.
`chat` makes a record of other messages.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

from srl_jax.domains.software.actions import Action, render

ISSUE = "add() subtracts.\n\nadd(2, 3) gives -1."
TASK = "owner__repo.1a2b3c.add_1"
PROBLEM = f"The repository is in /testbed.\n\n{ISSUE}"
_ASKED = (
  "<uploaded_files>\n/testbed\n</uploaded_files>\nHere is a repository."
  f"\n\n<pr_description>\n{ISSUE}\n</pr_description>\n\nWrite tool calls."
)
EDIT = {
  "command": "str_replace",
  "path": "/testbed/calc.py",
  "old_str": "  return a - b",
  "new_str": "  return a + b\n",
}
VIEW = {"command": "view", "path": "/testbed/calc.py", "view_range": [1, 2]}
# (thought, tool, arguments, what the environment answers).
TURNS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
  ("Let me look.", "bash", {"command": "ls /testbed\npwd"}, "calc.py\n/"),
  ("Now the file.", "str_replace_editor", VIEW, "1\tdef add(a, b):"),
  ("It's the sign.", "str_replace_editor", EDIT, "The file was edited."),
  ("Done.", "submit", {}, "Review your changes, then submit again."),
  ("", "submit", {}, ""),
)


def _record(**fields: Any) -> dict[str, Any]:
  return {"instance_id": TASK, "resolved": True, "model": "expert"} | fields


def _spelled(
  spell: Callable[[str, dict[str, Any]], str], label: str
) -> list[dict[str, str]]:
  messages = [
    {"role": "system", "content": "You are an agent."},
    {"role": "user", "content": _ASKED},
  ]
  for thought, tool, arguments, answer in TURNS:
    text = f"{thought}\n\n{spell(tool, arguments)}"
    messages.append({"role": "assistant", "content": text})
    messages.append({"role": "user", "content": label + answer})
  return messages[:-1]  # Nothing answers the last submission.


def _tagged(tool: str, arguments: dict[str, Any]) -> str:
  return render(Action.of_call(tool, arguments))


def _line(tool: str, arguments: dict[str, Any]) -> str:
  if tool == "bash":
    return arguments["command"]
  words = [tool]
  for name, value in arguments.items():
    if name == "view_range":
      words.append("--view_range " + " ".join(map(str, value)))
    elif name in ("command", "path"):
      words.append(shlex.quote(value))
    else:
      words.append(f"--{name} {shlex.quote(value)}")
  return " ".join(words)


def smith_xml() -> dict[str, Any]:
  """SWE-smith's split "xml"; messages are JSON text, lines end in CRLF."""
  messages = _spelled(_tagged, "OBSERVATION:\n")
  for message in messages[3::2]:
    message["content"] = message["content"].replace("\n", "\r\n")
  return _record(messages=json.dumps(messages), traj_id="traj-1", patch="diff")


def smith_ticks() -> dict[str, Any]:
  """SWE-smith's split "ticks": flattened lines between fences."""

  def fenced(tool, arguments):
    return f"```\n{_line(tool, arguments)}\n```"

  messages = _spelled(fenced, "Observation: ")
  messages[2]["content"] = "As in\n```python\n1\n```\n" + messages[2]["content"]
  return _record(messages=json.dumps(messages))


def _calling(names: dict[str, str], ids: str) -> list[dict[str, Any]]:
  messages = [
    {"role": "system", "content": "You are an agent."},
    {"role": "user", "content": _ASKED},
  ]
  for number, (thought, tool, arguments, answer) in enumerate(TURNS):
    function = {
      "name": names.get(tool, tool),
      "arguments": json.dumps(arguments),
    }
    call = {"id": f"c{number}", "type": "function", "function": function}
    answered = call["id"] if ids == "tool_call_id" else [call["id"]]
    messages += [
      {"role": "assistant", "content": thought, "tool_calls": [call]},
      {"role": "tool", "content": answer, ids: answered},
    ]
  return messages[:-1]


def smith_tool() -> dict[str, Any]:
  """SWE-smith's split "tool": function calls, content in parts."""
  messages = _calling({}, "tool_call_ids")
  messages[1]["content"] = [{"type": "text", "text": _ASKED}]
  for message in messages[3::2]:
    text = "OBSERVATION:\n" + message["content"]
    message["content"] = [{"type": "text", "text": text}]
  return _record(messages=json.dumps(messages))


def traj() -> dict[str, Any]:
  """A .traj file of SWE-agent 1, with its log beside its history."""
  messages = _calling({}, "tool_call_ids")
  log = []
  acting = (m for m in messages if m["role"] == "assistant")
  for message, (thought, tool, arguments, answer) in zip(
    acting, TURNS, strict=True
  ):
    message |= {"thought": thought, "action": _line(tool, arguments)}
    log.append(
      {
        "action": message["action"],
        "observation": answer,
        "response": thought,
        "thought": thought,
        "state": {"working_dir": "/testbed"},
        "query": messages[:2],
      }
    )
  return {
    "environment": TASK,
    "trajectory": log,
    "history": messages,
    "info": {"exit_status": "submitted", "submission": "diff"},
    "replay_config": None,
  }


def traj_without_history() -> dict[str, Any]:
  """The same file with the log alone."""
  record = traj()
  del record["history"]
  return record


def nebius() -> dict[str, Any]:
  """A row of nebius' trajectories of SWE-agent 0.7."""
  roles = {"assistant": "ai", "user": "user"}
  messages = json.loads(smith_ticks()["messages"])
  rows = [{"role": "system", "system_prompt": "You are.", "text": None}]
  rows += [
    {"role": roles[m["role"]], "system_prompt": None, "text": m["content"]}
    for m in messages[1:]
  ]
  rows = [row | {"mask": False, "cutoff_date": "01.01.2023"} for row in rows]
  return {
    "instance_id": TASK,
    "model_name": "expert",
    "target": True,
    "trajectory": rows,
    "generated_patch": "diff",
  }


def openhands() -> dict[str, Any]:
  """A row of OpenHands by function calls; `finish` takes a message."""
  names = {"bash": "execute_bash", "submit": "finish"}
  tools = [
    {"type": "function", "function": {"name": names.get(t[1], t[1])}}
    for t in TURNS
  ]
  messages = _calling(names, "tool_call_id")
  first = messages[2]["tool_calls"][0]["function"]
  first["arguments"] = json.dumps(
    TURNS[0][2] | {"is_input": "false", "security_risk": "LOW"}
  )
  messages[8] |= {"content": ""}
  done = messages[8]["tool_calls"][0]["function"]
  done["arguments"] = json.dumps({"message": "Done.", "task_completed": "true"})
  return _record(
    trajectory=messages, tools=json.dumps(tools), resolved=1, model_patch="diff"
  )


def events() -> dict[str, Any]:
  """A line of OpenHands' output.jsonl."""
  log: list[dict[str, Any]] = [
    {"action": "system", "args": {"content": "You are."}, "source": "agent"},
    {"action": "message", "args": {"content": _ASKED}, "source": "user"},
  ]
  for number, (thought, tool, arguments, answer) in enumerate(TURNS):
    function = {"name": tool, "arguments": json.dumps(arguments)}
    call = {"id": f"c{number}", "function": function}
    response = {"choices": [{"message": {"tool_calls": [call]}}]}
    about = {
      "source": "agent",
      "tool_call_metadata": {
        "tool_call_id": call["id"],
        "model_response": response,
      },
    }
    log.append(about | {"action": "run", "args": {"thought": thought}})
    log.append(about | {"observation": "run", "content": answer, "extras": {}})
  return {
    "instance_id": TASK,
    "history": log[:-1],
    "report": {"resolved": True},
  }


def events_of_sdk() -> dict[str, Any]:
  """The same of OpenHands 1; the second action is refused, and tried again."""

  def said(source: str, text: str) -> dict[str, Any]:
    message = {"content": [{"type": "text", "text": text}]}
    return {"kind": "MessageEvent", "source": source, "llm_message": message}

  names = {"bash": "terminal", "str_replace_editor": "file_editor"}
  log = [{"kind": "SystemPromptEvent", "source": "agent"}, said("user", _ASKED)]
  for number, (thought, tool, arguments, answer) in enumerate(TURNS):
    call_id, name = f"c{number}", names.get(tool, tool)
    about = {"tool_name": name, "tool_call_id": call_id}
    extra = {"summary": "Work.", "security_risk": "LOW"}
    call = {
      "id": call_id,
      "name": name,
      "arguments": json.dumps(arguments | extra),
    }
    parts = [{"type": "text", "text": answer}]
    acting = about | {
      "kind": "ActionEvent",
      "source": "agent",
      "thought": [] if number % 2 else [{"type": "text", "text": thought}],
      "reasoning_content": thought if number % 2 else None,
      "action": {"kind": "SomeAction"},
      "tool_call": call,
    }
    if number == 1:
      error = about | {"source": "agent", "error": "No such parameter."}
      log.append(acting | {"action": None})
      log.append(error | {"kind": "AgentErrorEvent"})
    log.append(acting)
    # Its first versions have a text.
    result = {"content": parts} if number % 2 else {"output": answer}
    seen = about | {"source": "environment", "observation": result}
    log.append(seen | {"kind": "ObservationEvent"})
  return {"instance_id": TASK, "history": log[:-1], "resolved": True}


def atif() -> dict[str, Any]:
  """An ATIF document; a thought may be the message or the reasoning."""
  steps: list[dict[str, Any]] = [
    {"source": "system", "message": "You are an agent."},
    {"source": "user", "message": [{"type": "text", "text": _ASKED}]},
  ]
  for number, (thought, tool, arguments, answer) in enumerate(TURNS):
    call = {"tool_call_id": f"c{number}", "function_name": tool}
    result = {"source_call_id": f"c{number}", "content": answer}
    steps.append(
      {
        "source": "agent",
        "message": thought if number % 2 else "",
        "reasoning_content": None if number % 2 else thought,
        "tool_calls": [call | {"arguments": arguments}],
        "observation": {"results": [result]},
      }
    )
  del steps[-1]["observation"]
  return {
    "schema_version": "ATIF-v1.6",
    "session_id": "s",
    "agent": {"name": "a", "version": "1", "model_name": "expert"},
    "steps": [{"step_id": i, **step} for i, step in enumerate(steps, 1)],
    "extra": {"instance_id": TASK, "resolved": True},
  }


SHAPES = {
  make.__name__: make
  for make in (
    smith_xml,
    smith_ticks,
    smith_tool,
    traj,
    traj_without_history,
    nebius,
    openhands,
    events,
    events_of_sdk,
    atif,
  )
}


def mini_swe_agent() -> dict[str, Any]:
  """A file of mini-swe-agent 2: bash alone, and a line that submits."""

  def turn(number, thought, command, answer):
    call = {
      "id": f"c{number}",
      "type": "function",
      "function": {
        "name": "bash",
        "arguments": json.dumps({"command": command}),
      },
    }
    action = {"command": command, "tool_call_id": call["id"]}
    return [
      {
        "role": "assistant",
        "content": thought,
        "tool_calls": [call],
        "extra": {"actions": [action], "cost": 0.0},
      },
      {"role": "tool", "content": answer, "tool_call_id": call["id"]},
    ]

  submit = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt"
  interrupt = {"role": "user", "content": "No tool calls found."}
  asked = (
    "<pr_description>\nConsider the following PR description:\n"
    f"{ISSUE}\n</pr_description>\n\n<instructions>Use bash.</instructions>"
  )
  return {
    "info": {"exit_status": "Submitted", "submission": "diff"},
    "messages": [
      {"role": "system", "content": "You are."},
      {"role": "user", "content": asked},
      *turn(0, None, "ls", "<returncode>0</returncode>\n<output>\ncalc.py"),
      interrupt | {"extra": {"interrupt_type": "FormatError"}},
      *turn(1, "THOUGHT: the sign.", "sed -i s/-/+/ calc.py", ""),
      turn(2, None, submit, "")[0],
      {"role": "exit", "content": "diff", "extra": {"submission": "diff"}},
    ],
    "trajectory_format": "mini-swe-agent-1.1",
    "instance_id": TASK,
  }


def chat(*texts: Any, **fields: Any) -> dict[str, Any]:
  """A record of messages: the user's, then agent's and user's in turns."""
  roles = ["user", *["assistant", "user"] * len(texts)]
  messages: list[dict[str, Any]] = [
    {"role": role, "content": text}
    for role, text in zip(roles, texts, strict=False)
  ]
  return {"messages": messages} | fields
