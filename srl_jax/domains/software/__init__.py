# SPDX-License-Identifier: Apache-2.0
"""The domain of issues in a code repository, resolved action by action.

actions       actions of agents, and the grammar in which they are written
foreign       actions as other agents write them
edits         edits by search and replace, as models write them into answers
patches       patches: made from changed files, read and compared
repositories  files of commits, read out of a folder of git clones
swebench      instances of SWE-bench, and what models are asked about them
tasks         repositories with issues and hidden tests
environment   what episodes act in, and the domain of a file of tasks
dialects      how agents write actions and what they are answered
editor        the tool that edits files
workspace     the agent's copy of a repository, and its changes as a patch
hidden_tests  judges a patch by tests that come in afterwards
examiner      runs inside of a sandbox: pytest, and who deceives it
verdicts      what the reports of hidden tests say
controls      tests that must fail, beside which the hidden ones run
sandbox       where all of this runs
launchers     bubblewrap, podman or docker, and limits
supervisor    runs inside of a sandbox: its first process
cgroups       limits that the kernel keeps
bugs          a generator of tasks and experts' trajectories
"""

from __future__ import annotations

from srl_jax.domains.domain import Domain

_SUBJECT = "software engineering issues in a code repository"


def submits(action: str) -> bool:
  """Whether an action submits the work, in the form that SWE-agent uses."""
  return action.strip() == "submit" or "<function=submit>" in action


SOFTWARE = Domain(
  name="software",
  step_prompt=(
    f"You are a helpful assistant for {_SUBJECT}. The user gives you an issue"
    " and the most recent actions taken to resolve it, each with what the"
    " environment answered. Choose the very next action, and that one only.\n"
    "First think it through between <think> and </think>: an informal inner"
    " monologue, as long as you need. After </think> write exactly one"
    " executable action in the form of the actions before it."
  ),
  solve_prompt=(
    f"You are a helpful assistant for {_SUBJECT}. Resolve the issue that the"
    " user gives you. Scratch work may stand between <think> and </think>."
  ),
  steps_heading="Recent actions:",
  is_final=submits,
  environment_waits=True,
)
