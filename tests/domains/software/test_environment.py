# SPDX-License-Identifier: Apache-2.0
"""Agents act in a sandbox; what goes wrong is observed and never raised."""

import logging
import math
import types

import pytest

from srl_jax.domains.software.actions import Action, render
from srl_jax.domains.software.dialects import DIALECTS, NO_OUTPUT, Mini
from srl_jax.domains.software.environment import (
  AgentConfig,
  RepairEnvironment,
  repair_domain,
)
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  make_task,
  write_repository,
)

EDIT = "str_replace_editor"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
  folder = tmp_path_factory.mktemp("repository")
  return make_task(write_repository(folder))


def call(name, **parameters):
  return render(Action(name, tuple(parameters.items())))


@pytest.fixture
def begin(task):
  """Begins an episode; the dialect and limits can be changed."""
  opened = []

  def of(task=task, **changes):
    environment = RepairEnvironment(
      {task.id: task}, CONFIG, AgentConfig(**changes)
    )
    opened.append(environment)
    environment.reset(task.trajectory("repairs"))
    return environment

  yield of
  for environment in opened:
    environment.close()


def observe(environment, *actions):
  """The observations of actions, none of which ends the episode."""
  answers = [environment.step(action) for action in actions]
  assert not any(is_over for _, is_over in answers), answers
  return [observation for observation, _ in answers]


def shell(environment, *commands):
  actions = [call("bash", command=command) for command in commands]
  return observe(environment, *actions)


def mini(command):
  return f"THOUGHT: so.\n\n```mswea_bash_command\n{command}\n```"


@needs_sandbox
def test_an_agent_with_tools_repairs_and_is_judged_by_hidden_tests(begin):
  environment = begin()
  [seen] = shell(environment, "python -m pytest -q tests 2>&1 | tail -1")
  assert "1 passed" in seen
  [edited] = observe(
    environment,
    call(
      EDIT,
      command="str_replace",
      path="/testbed/calc.py",
      old_str="  return a - b",
      new_str="  return a + b",
    ),
  )
  assert edited.startswith(
    "The file /testbed/calc.py has been edited. Here's the result of running"
    " `cat -n` on a snippet of /testbed/calc.py:\n     1\tdef add(a, b):\n"
  )
  [review] = observe(environment, "I am done.\n" + call("submit"))
  assert "-  return a - b\n+  return a + b" in review
  assert environment.step(call("submit")) == ("", True)
  assert environment.ending == "Submitted"
  assert environment.solved()
  assert b"+  return a + b" in environment.patch


@needs_sandbox
def test_an_agent_that_prints_its_patch_is_judged_by_that(begin):
  environment = begin(dialect="mini")
  [seen] = observe(environment, mini("cat README.md; exit 7"))
  assert seen == (
    "<returncode>7</returncode>\n<output>\nAdds and doubles.\n</output>"
  )
  # Neither a failed command nor a marker in its middle submits.
  mark = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
  observe(environment, mini(f"{mark}; false"), mini(f"echo x; {mark}"))
  observe(
    environment,
    mini("sed -i 's/a - b/a + b/' calc.py && git diff > patch.txt"),
  )
  assert environment.step(mini(f"{mark} && cat patch.txt")) == ("", True)
  assert environment.solved()
  assert environment.patch.startswith(b"diff --git a/calc.py")


@needs_sandbox
def test_work_that_is_not_submitted_counts_only_where_files_count(
  begin, monkeypatch
):
  command = "sed -i 's/a - b/a + b/' calc.py"
  environment = begin(turns=1)
  assert environment.step(call("bash", command=command)) == (NO_OUTPUT, True)
  assert environment.ending == "LimitsExceeded"
  assert environment.solved()
  # Not its name tells, but the dialect itself.
  monkeypatch.setitem(DIALECTS, "another", Mini)
  environment = begin(dialect="another", turns=1)
  assert environment.step(mini(command))[1]
  assert not environment.solved()
  assert environment.verdict.problem.startswith("nothing was changed")


@needs_sandbox
def test_the_shell_keeps_its_state_only_with_tools(begin):
  environment = begin()
  assert shell(
    environment,
    "cd tests; export A='x y'; B=2; f() { echo \"$1$B\"; }; alias g='f 3'",
    "pwd; echo $A; f 1; g; exit 5",
    "pwd; cd /nowhere",
    "pwd; readonly R=1",
    "echo $R; unset A; cd",
    "echo [$A]; pwd",
  ) == [
    NO_OUTPUT,
    "/testbed/tests\nx y\n12\n32\n",
    "/testbed/tests\nbash: line 5: cd: /nowhere: No such file or directory\n",
    "/testbed/tests\n",
    "1\n",
    "[]\n/tmp\n",
  ]
  environment = begin(dialect="mini")
  answers = observe(environment, mini("cd tests; A=1"), mini("pwd; echo [$A]"))
  assert "/testbed\n[]\n" in answers[1]


@needs_sandbox
def test_what_an_agent_gets_wrong_is_answered(begin):
  environment = begin(format_errors=100)
  [unknown, bare, nothing, several, missing] = observe(
    environment,
    call("browser", url="x"),
    "ls -la",
    "",
    call("bash", command="ls") * 2,
    call("bash"),
  )
  assert unknown == (
    "There is no tool 'browser'; use one of bash, str_replace_editor, submit."
  )
  assert bare.startswith("There are 0 actions in your answer")
  assert nothing.startswith("There are 0 actions")
  assert several.startswith("There are 2 actions")
  assert missing == "The tool bash needs the parameter `command`."
  assert environment._errors_in_a_row == 5
  # A good action makes them forgotten.
  environment = begin(format_errors=2)
  observe(environment, "x", call("bash", command="true"), "x")
  _, is_over = environment.step("x")
  assert is_over
  assert environment.ending == "RepeatedFormatError"
  environment = begin(dialect="mini", format_errors=2)
  [several] = observe(environment, mini("ls") * 2)
  assert "Expected exactly 1 action, found 2." in several


@needs_sandbox
def test_commands_over_a_limit_are_ended_and_said_so(begin):
  environment = begin(action_s=0.5)
  slow, syntax, long, loud = shell(
    environment,
    "echo begun; sleep 20",
    "if then",
    "yes 'a line' | head -n 100000",
    "yes",
  )
  assert slow.startswith("begun\n\nThe command was ended because it took more")
  assert "syntax error" in syntax
  assert long.startswith("a line\na line\n")
  assert len(long) < 71_000
  assert "<response clipped>" in long
  assert "630000 more" in long
  assert "more characters are not shown" in loud
  environment = begin(dialect="mini", action_s=0.5)
  slow, long = observe(
    environment, mini("sleep 20"), mini("yes 'a line' | head -n 100000")
  )
  assert slow.startswith("<exception>The command was ended because it took")
  assert "<returncode>-1</returncode>\n<output>\n</output>" in slow
  assert long.count("a line") == pytest.approx(10_000 / 7, abs=4)
  assert "690000 characters elided" in long


@needs_sandbox
def test_odd_texts_do_not_end_an_episode(begin):
  environment = begin()
  text = "x" * 300_000
  shown = shell(
    environment,
    f"wc -c <<'END'\n{text}\nEND",
    "echo '\ud800'; echo 'a\0b'",
    "printf '\\xff\\x00\\n' | cat; head -c 100 /dev/urandom",
  )
  assert shown[0] == "300001\n"
  assert shown[1] == "?\nab\n"
  odd = ("\ud800", "a\0b", "p" * 9000)
  for path in odd:
    observe(environment, call(EDIT, command="view", path=f"/testbed/{path}"))


@needs_sandbox
def test_a_sandbox_that_ends_ends_the_episode(begin, caplog):
  environment = begin()
  environment._sandbox.close()
  with caplog.at_level(logging.WARNING):
    observation, is_over = environment.step(call("bash", command="ls"))
  assert is_over
  assert observation == "The work cannot go on: the sandbox has ended"
  assert caplog.messages == ["toy-1: the sandbox has ended"]
  assert environment.solved() is None
  # Asked again, it says the same.
  assert environment.step("x") == (observation, True)


@needs_sandbox
def test_a_task_that_cannot_begin_ends_its_episode_in_one_line(begin, caplog):
  folder = begin()._task.repository
  task = make_task(folder, commit="1234567")
  with caplog.at_level(logging.WARNING):
    environment = begin(task)
  observation, is_over = environment.step(call("bash", command="ls"))
  assert is_over
  assert "There is no .git" in observation
  assert environment.solved() is None
  assert len(caplog.messages) == 2
  assert "\n" not in caplog.messages[0]


@needs_sandbox
def test_a_patch_that_does_not_apply_solves_nothing_and_is_said(begin, caplog):
  environment = begin(dialect="mini")
  mark = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
  environment.step(mini(f"echo {mark}; echo nonsense"))
  with caplog.at_level(logging.WARNING):
    assert environment.solved() is False
  assert caplog.messages[0].startswith("toy-1: the patch does not apply")


@needs_sandbox
def test_only_the_time_in_the_environment_is_limited(begin, monkeypatch):
  # Around the start and three actions, before which the model writes for hours.
  clock = iter([0, 2, 9000, 9002, 18000, 18002, 27000, 27004])
  monkeypatch.setattr(
    "srl_jax.domains.software.environment.time",
    types.SimpleNamespace(monotonic=clock.__next__),
  )
  environment = begin(wall_s=10)
  action = call("bash", command="true")
  observe(environment, action, action)
  _, is_over = environment.step(action)
  assert is_over
  assert environment.ending == "TimeExceeded"


@needs_sandbox
def test_a_trajectory_of_no_task_is_refused(begin):
  environment = begin()
  other = make_task(environment._task.repository, id="other")
  with pytest.raises(ValueError, match="'other' is of the task 'other', which"):
    environment.reset(other.trajectory("repairs"))


def test_a_domain_reads_its_tasks_and_tells_the_model_its_dialect(tmp_path):
  (tmp_path / "toy").mkdir()
  file = tmp_path / "tasks.jsonl"
  file.write_text(
    '{"instance_id": "a", "repository": "toy", "problem_statement": "x",'
    ' "FAIL_TO_PASS": ["test_a.py::test_b"]}\n'
  )
  domain = repair_domain(file, agent=AgentConfig(dialect="mini"), name="mine")
  assert domain.name == "mine"
  assert "mswea_bash_command" in domain.step_prompt
  assert not domain.is_final("submit")
  assert domain.environment.args[0]["a"].problem == "x"
  with pytest.raises(ValueError, match="cannot be read"):
    repair_domain(tmp_path / "other.jsonl")


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"dialect": "xml"}, "use one of swe-smith, swe-smith-once, mini"),
    ({"turns": -1}, "turns=-1; set it to 0 or more"),
    ({"format_errors": 0}, "format_errors=0; set it to 1 or more"),
    ({"wall_s": math.nan}, "wall_s=nan"),
  ],
)
def test_an_agent_config_that_cannot_be_meant_is_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    AgentConfig(**changes)
