# SPDX-License-Identifier: Apache-2.0
"""Any model can work on a task, and others' tools read what it did."""

import json

import pytest

from srl_jax.domains.software.agent import (
  FORMAT,
  Reply,
  run_agent,
  to_mini,
  write_runs,
)
from srl_jax.domains.software.environment import AgentConfig
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  make_task,
  write_repository,
)

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def task(tmp_path_factory):
  folder = tmp_path_factory.mktemp("repository")
  return make_task(write_repository(folder))


def block(command):
  return f"THOUGHT: so.\n\n```mswea_bash_command\n{command}\n```"


MINI = (
  block("cat calc.py"),
  "I forget the block.",
  block("sed -i 's/a - b/a + b/' calc.py; git diff > patch.txt"),
  block("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch.txt"),
)
TOOLS = (
  "<function=bash>\n<parameter=command>sed -i 's/a - b/a + b/' calc.py"
  "</parameter>\n</function>",
  "<function=submit>\n</function>",
)


def play(task, texts, dialect, **changes):
  """A run of a model that writes given texts, and what it was asked."""
  asked, answers = [], iter(texts)

  def ask(messages):
    asked.append(messages)
    return Reply(next(answers), tokens=10)

  run = run_agent(
    ask, task, sandbox=CONFIG, agent=AgentConfig(dialect=dialect), **changes
  )
  return run, asked


@pytest.fixture(scope="module")
def mini(task):
  return play(task, MINI, "mini")


def test_a_model_sees_what_its_actions_led_to(mini, task):
  run, asked = mini
  assert [message["role"] for message in asked[-1]] == (
    ["system", "user"] + 3 * ["assistant", "user"]
  )
  assert asked[0][1]["content"] == task.problem
  assert "return a - b" in asked[1][-1]["content"]
  assert "found 0" in asked[2][-1]["content"]
  assert run.ending == "Submitted"
  assert run.verdict.is_solved
  assert (run.format_errors, run.tokens) == (1, 40)


def test_tools_answer_with_their_label(task):
  run, asked = play(task, TOOLS, "swe-smith-once")
  assert asked[1][-1]["content"] == (
    "Your command ran successfully and did not produce any output."
  )
  assert run.verdict.is_solved
  view = (
    "<function=str_replace_editor>\n<parameter=command>view</parameter>\n"
    "<parameter=path>/testbed</parameter>\n</function>"
  )
  _, asked = play(task, (view, *TOOLS[1:]), "swe-smith-once")
  assert asked[1][-1]["content"].startswith("OBSERVATION:\nHere's the files")


def test_a_thought_may_quote_an_action(task):
  quoted = f"<think>Not {TOOLS[0]}, but:</think>{TOOLS[0]}"
  run, _ = play(task, (quoted, *TOOLS[1:]), "swe-smith-once")
  assert run.format_errors == 0 and run.verdict.is_solved


def test_a_model_is_not_asked_once_its_tokens_are_used(task):
  run, asked = play(task, MINI, "mini", tokens=15)
  assert len(asked) == 2
  assert run.ending == "LimitsExceeded"
  assert not run.verdict.is_solved


def test_a_task_that_cannot_begin_is_a_run_without_answers(task):
  broken = make_task(task.repository, bug_patch="nonsense")
  run, asked = play(broken, (), "mini")
  assert asked == []
  assert run.ending == "SandboxError"
  assert "cannot be prepared" in run.verdict.problem


def test_a_run_is_a_trajectory_of_mini_swe_agent(mini):
  record = to_mini(mini[0], "org/model")
  assert record["trajectory_format"] == FORMAT == "mini-swe-agent-1.1"
  roles = [message["role"] for message in record["messages"]]
  assert roles == (
    ["system", "user"] + 3 * ["assistant", "user"] + ["assistant", "exit"]
  )
  assert record["info"]["exit_status"] == "Submitted"
  assert record["info"]["submission"].startswith("diff --git a/calc.py")
  assert record["info"]["model_stats"]["api_calls"] == 4
  first, answer = record["messages"][2:4]
  assert first["extra"]["actions"] == [{"command": "cat calc.py"}]
  assert answer["extra"]["returncode"] == 0
  assert answer["extra"]["raw_output"].startswith("def add(a, b):")
  assert record["messages"][5]["extra"] == {"interrupt_type": "FormatError"}


def test_runs_are_written_where_tools_look_for_them(mini, tmp_path):
  run, _ = mini
  write_runs([run], tmp_path / "out", "org/model")
  record = json.loads((tmp_path / "out/toy-1/toy-1.traj.json").read_text())
  assert record == json.loads(json.dumps(to_mini(run, "org/model")))
  assert json.loads((tmp_path / "out/preds.json").read_text()) == {
    "toy-1": {
      "model_name_or_path": "org/model",
      "instance_id": "toy-1",
      "model_patch": run.patch.decode(),
    }
  }
