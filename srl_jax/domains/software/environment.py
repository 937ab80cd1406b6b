# SPDX-License-Identifier: Apache-2.0
"""The environment of repair tasks: episodes act in it, hidden tests judge.

REPAIRS = repair_domain("tasks.jsonl")      in a module of your own,
c.data.domain = "my_repairs:REPAIRS"        in an experiment
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from srl_jax import strict
from srl_jax.domains.domain import Domain
from srl_jax.domains.software import SOFTWARE
from srl_jax.domains.software.dialects import DIALECTS, ActionResult, Dialect
from srl_jax.domains.software.hidden_tests import judge
from srl_jax.domains.software.launchers import (
  ExhaustedError,
  SandboxConfig,
  SandboxError,
)
from srl_jax.domains.software.sandbox import Sandbox, check_sandbox
from srl_jax.domains.software.tasks import RepairTask, read_tasks
from srl_jax.domains.software.verdicts import Verdict
from srl_jax.domains.software.workspace import (
  TaskError,
  WorkError,
  changes,
  open_workspace,
)
from srl_jax.trajectory import Trajectory

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AgentConfig:
  """How an agent acts, and when it is stopped.

  Attributes:
    dialect: how it writes actions: swe-smith, swe-smith-once or mini; see
      dialects.py.
    turns: number of actions; 0 for any. SWE-smith's agents get 75,
      mini-swe-agent's 250. Evaluation and RL on outcomes also have limits of
      their own: c.evaluate.max_turns and c.episodes.turns.
    wall_s: seconds that the whole episode may spend in the environment; no
      action is begun after them; 0 for any. The model's own time is not
      counted: it depends on the chip and on what else is decoded.
    action_s: seconds for one command; 0 for those of the sandbox's limits.
    format_errors: so many texts in a row without an action end the episode.
      A sampler ends it at the first text that holds nothing but a thought.
    tests_s: seconds for the hidden tests.
  """

  dialect: str = "swe-smith"
  turns: int = 75
  wall_s: float = 3600.0
  action_s: float = 0.0
  format_errors: int = 3
  tests_s: float = 600.0

  def __post_init__(self):
    if self.dialect not in DIALECTS:
      raise ValueError(
        f"there is no dialect {self.dialect!r}; use one of"
        f" {', '.join(DIALECTS)}"
      )
    strict.check_numbers(
      self,
      turns="[0, )",
      wall_s="[0, )",
      action_s="[0, )",
      format_errors="[1, )",
      tests_s="(0, )",
    )


class RepairEnvironment:
  """The environment of one episode; see srl_jax.domains.Environment.

  Whatever a model writes and whatever a repository holds, `step` answers it.
  A task that cannot be begun and a sandbox that has ended end the episode.
  Nobody can then tell whether it is solved, and the log says why in one line;
  but an agent that has used up the sandbox's memory has solved nothing, and
  neither has one whose files are too large to be read.

  Attributes:
    ending: why the episode has ended, in mini-swe-agent's words: Submitted,
      LimitsExceeded, TimeExceeded, RepeatedFormatError, or SandboxError; "" if
      it has not.
    patch: the repair, once the episode has ended.
    verdict: what the hidden tests say, once `solved` has been asked.
  """

  def __init__(
    self,
    tasks: Mapping[str, RepairTask],
    sandbox: SandboxConfig,
    agent: AgentConfig,
  ) -> None:
    """Waits for an episode to begin.

    Raises:
      SandboxError: this machine has no sandbox; the message says what to do.
    """
    _check_once(sandbox)
    self._tasks, self._config, self._agent = tasks, sandbox, agent
    self._sandbox: Sandbox | None = None
    self._dialect: Dialect | None = None
    self._problem = ""
    self._is_void = False
    self._errors_in_a_row = 0
    self._spent_s = 0.0
    self._turns = 0
    self.ending = ""
    self.patch = b""
    self.verdict: Verdict | None = None

  def reset(self, trajectory: Trajectory) -> None:
    """Opens the private copy of the trajectory's task.

    The task is that of the name `metadata["task"]`, or of the trajectory's id.

    Raises:
      ValueError: there is no such task.
    """
    name = trajectory.metadata.get("task", trajectory.id)
    if name not in self._tasks:
      raise ValueError(
        f"the trajectory {trajectory.id!r} is of the task {name!r}, which is"
        f" none of {len(self._tasks)} tasks; add it to the file of tasks"
      )
    self._task = self._tasks[name]
    begin = time.monotonic()
    try:
      self._sandbox = open_workspace(self._task, self._config)
      self._spent_s = time.monotonic() - begin
    except (TaskError, SandboxError) as error:
      self._fail(error)
      return
    action_s = self._agent.action_s or self._config.limits.wall_s
    dialect = DIALECTS[self._agent.dialect]
    self._dialect = dialect(self._sandbox, action_s)

  def step(self, action: str) -> tuple[str, bool]:
    """Carries an action out; returns (observation, whether it is over)."""
    if self.ending:
      return self._problem, True
    begin = time.monotonic()
    try:
      outcome = self._dialect.act(action)
      if outcome.submits:
        self._end("Submitted", outcome.patch)
    except (TaskError, SandboxError) as error:
      outcome = ActionResult("")
      self._fail(error)
    self._spent_s += time.monotonic() - begin
    self._turns += 1
    self._errors_in_a_row += 1
    if not outcome.is_format_error:
      self._errors_in_a_row = 0
    if not self.ending:
      self._stop_at_limits()
    return outcome.observation or self._problem, bool(self.ending)

  def solved(self) -> bool | None:
    """Whether the hidden tests pass on the work so far; None if nobody knows.

    So it is if the fault is the machine's or the task's; see Verdict.is_void.
    """
    self._stop("LimitsExceeded")
    if self.verdict is None:
      self.verdict = self._judge()
      is_odd = self.verdict.problem or self.verdict.missing
      if not self.verdict.is_solved:
        level = logging.WARNING if is_odd else logging.INFO
        _LOG.log(level, "%s: %s", self._task.id, self.verdict.reason)
    return None if self.verdict.is_void else self.verdict.is_solved

  def close(self) -> None:
    """Ends the sandbox."""
    if self._sandbox is not None:
      self._sandbox.close()

  def _stop_at_limits(self) -> None:
    agent = self._agent
    if self._errors_in_a_row >= agent.format_errors:
      self._stop("RepeatedFormatError")
    elif 0 < agent.turns <= self._turns:
      self._stop("LimitsExceeded")
    elif 0 < agent.wall_s <= self._spent_s:
      _LOG.warning(
        "%s: stopped after %.0f s in the environment (wall_s=%g)",
        self._task.id,
        self._spent_s,
        agent.wall_s,
      )
      self._stop("TimeExceeded")

  def _stop(self, ending: str) -> None:
    """Ends an episode without a submission, if it has not ended.

    The work so far counts where the files are what is submitted.
    """
    if self.ending:
      return
    try:
      self._end(ending, None if self._dialect.submits_files else b"")
    except (TaskError, SandboxError) as error:
      self._fail(error)

  def _end(self, ending: str, patch: bytes | None) -> None:
    if patch is None:
      try:
        patch = changes(self._task, self._config, self._sandbox)
      except WorkError as error:
        patch, self._problem = b"", str(error)
    self.patch, self.ending = patch, ending
    self._sandbox.close()

  def _fail(self, error: Exception) -> None:
    self.ending = "SandboxError"
    # Before there is a dialect, no agent has acted.
    is_agents = self._dialect and isinstance(error, ExhaustedError)
    self._is_void = not is_agents
    self._problem = f"The work cannot go on: {error}"
    _LOG.warning("%s: %s", self._task.id, error)

  def _judge(self) -> Verdict:
    nothing = dict.fromkeys(self._task.tests, False)
    if self.ending == "SandboxError":
      return Verdict(nothing, self._problem, is_void=self._is_void)
    if not self.patch.strip():
      problem = "nothing was changed, or no patch submitted"
      return Verdict(nothing, self._problem or problem)
    try:
      return judge(self._task, self._config, self.patch, self._agent.tests_s)
    except (TaskError, SandboxError) as error:
      return Verdict(nothing, str(error), is_void=True)


def repair_domain(
  tasks: str | pathlib.Path,
  *,
  repositories: str | pathlib.Path = "",
  sandbox: SandboxConfig = SandboxConfig(),
  agent: AgentConfig = AgentConfig(),
  **changes: Any,
) -> Domain:
  """Returns the domain of repair tasks, whose episodes act in sandboxes.

  Args:
    tasks: file of tasks; see tasks.py.
    repositories: folder of the repositories; "" for that of the file.
    sandbox: how sandboxes are made.
    agent: how the agent acts.
    **changes: fields of the Domain that are different.

  Raises:
    ValueError: the tasks cannot be used.
  """
  instructions = DIALECTS[agent.dialect].instructions
  settings = {
    "name": "repairs",
    "step_prompt": f"{SOFTWARE.step_prompt}\n\n{instructions}",
    # The environment says when an episode ends.
    "is_final": _never,
    "environment": functools.partial(
      RepairEnvironment, read_tasks(tasks, repositories), sandbox, agent
    ),
  }
  return dataclasses.replace(SOFTWARE, **settings | changes)


def _never(action: str) -> bool:
  del action
  return False


@functools.cache
def _check_once(config: SandboxConfig) -> None:
  check_sandbox(config)
