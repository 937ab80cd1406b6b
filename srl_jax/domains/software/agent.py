# SPDX-License-Identifier: Apache-2.0
"""Lets any model work on a repair task, turn by turn, outside of training.

The model is a function from messages to an answer, such as a client of a
server. What it did can be written as mini-swe-agent and SWE-bench read it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from srl_jax import storage
from srl_jax.domains.software.dialects import DIALECTS, NO_OUTPUT, ActionResult
from srl_jax.domains.software.environment import (
  AgentConfig,
  RepairEnvironment,
)
from srl_jax.domains.software.hidden_tests import Verdict
from srl_jax.domains.software.launchers import SandboxConfig
from srl_jax.domains.software.tasks import RepairTask
from srl_jax.rewards import format

FORMAT = "mini-swe-agent-1.1"
_SYSTEM = (
  "You repair software. The user gives you an issue; resolve it by changing the"
  " repository, without changing its tests. Say what you think, then write one"
  " action; you will see what comes of it."
)


class Reply(NamedTuple):
  """A model's answer.

  Attributes:
    text: what it wrote.
    tokens: how many tokens that were; 0 if unknown.
  """

  text: str
  tokens: int = 0


Ask = Callable[[list[dict[str, str]]], Reply]


@dataclasses.dataclass(frozen=True)
class AgentRun:
  """What an agent did at a task.

  Attributes:
    task: id of the task.
    messages: the conversation, from the system's message on.
    outcomes: what each answer of the model has led to.
    ending: why it ended, as in RepairEnvironment.
    patch: the repair.
    verdict: what the hidden tests say.
    format_errors: number of answers without an action.
    tokens: tokens of all answers.
    wall_s: seconds from the first message to the end, without the tests.
  """

  task: str
  messages: tuple[Mapping[str, str], ...]
  outcomes: tuple[ActionResult, ...]
  ending: str
  patch: bytes
  verdict: Verdict
  format_errors: int
  tokens: int
  wall_s: float


def run_agent(
  ask: Ask,
  task: RepairTask,
  *,
  sandbox: SandboxConfig = SandboxConfig(),
  agent: AgentConfig = AgentConfig(),
  tokens: int = 0,
) -> AgentRun:
  """Lets a model work on a task and judges its work by the hidden tests.

  Args:
    ask: the model. Messages have the fields role (system, user, assistant) and
      content.
    task: the task.
    sandbox: how sandboxes are made.
    agent: how the agent acts, and when it is stopped.
    tokens: once the model has written so many tokens, it is not asked again;
      0 for any.

  Raises:
    SandboxError: this machine has no sandbox.
  """
  begin = time.monotonic()
  environment = RepairEnvironment({task.id: task}, sandbox, agent)
  instructions = DIALECTS[agent.dialect].instructions
  messages = [
    {"role": "system", "content": f"{_SYSTEM}\n\n{instructions}"},
    {"role": "user", "content": task.problem},
  ]
  used = 0
  try:
    environment.reset(task.trajectory("software"))
    is_over = bool(environment.ending)
    while not is_over and not 0 < tokens <= used:
      reply = ask([dict(message) for message in messages])
      used += reply.tokens
      messages.append({"role": "assistant", "content": reply.text})
      # A thought may quote actions.
      action = format.split_lenient(reply.text).action
      observation, is_over = environment.step(action)
      if observation or not is_over:
        content = _message(observation, agent.dialect)
        messages.append({"role": "user", "content": content})
    environment.stop("LimitsExceeded")
    wall_s = time.monotonic() - begin
    environment.solved()
  finally:
    environment.close()
  return AgentRun(
    task=task.id,
    messages=tuple(messages),
    outcomes=tuple(environment.outcomes),
    ending=environment.ending,
    patch=environment.patch,
    verdict=environment.verdict,
    format_errors=environment.format_errors,
    tokens=used,
    wall_s=wall_s,
  )


def to_mini(run: AgentRun, model: str) -> dict[str, Any]:
  """Returns a run as a trajectory file of mini-swe-agent (`FORMAT`)."""
  submission = run.patch.decode(errors="replace")
  messages: list[dict[str, Any]] = []
  outcomes = iter(run.outcomes)
  outcome = ActionResult("")
  for message in run.messages:
    extra: dict[str, Any] = {}
    if message["role"] == "assistant":
      outcome = next(outcomes)
      commands = [{"command": outcome.command}] if outcome.command else []
      extra = {"actions": commands, "cost": 0.0}
    elif outcome.ran is not None:
      extra = {
        "raw_output": outcome.ran.output.decode(errors="replace"),
        "returncode": outcome.ran.status,
        "exception_info": outcome.ran.cause,
      }
    elif outcome.is_format_error:
      extra = {"interrupt_type": "FormatError"}
    messages.append({**message, "extra": extra})
  end = {"exit_status": run.ending, "submission": submission}
  messages.append(
    {"role": "exit", "content": submission or run.ending, "extra": end}
  )
  return {
    "info": {
      "model_stats": {"instance_cost": 0.0, "api_calls": len(run.outcomes)},
      "config": {
        "model": {"model_name": model},
        "agent_type": f"{__name__}.{run_agent.__name__}",
      },
      "mini_version": "2.4",
      "format_errors": run.format_errors,
      "resolved": run.verdict.is_solved,
      **end,
    },
    "instance_id": run.task,
    "messages": messages,
    "trajectory_format": FORMAT,
  }


def write_runs(
  runs: Iterable[AgentRun], folder: str | pathlib.Path, model: str
) -> None:
  """Writes ID/ID.traj.json for each run, and preds.json for SWE-bench.

  Args:
    runs: the runs, of different tasks.
    folder: the folder to write to; it is made.
    model: the model's name.
  """
  folder = storage.path(folder)
  predictions = {}
  for run in runs:
    path = folder / run.task / f"{run.task}.traj.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_mini(run, model), indent=2)
    path.write_text(text, encoding="utf-8")
    predictions[run.task] = {
      "model_name_or_path": model,
      "instance_id": run.task,
      "model_patch": run.patch.decode(errors="replace"),
    }
  text = json.dumps(predictions, indent=2)
  (folder / "preds.json").write_text(text, encoding="utf-8")


def _message(observation: str, dialect: str) -> str:
  """An observation as the dialect's own tools show it in a message."""
  if dialect == "mini" or observation == NO_OUTPUT:
    return observation
  return f"OBSERVATION:\n{observation}"
