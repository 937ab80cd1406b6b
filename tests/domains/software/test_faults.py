# SPDX-License-Identifier: Apache-2.0
"""Faults of the machine and of a task say nothing of a repair.

Those of the agent leave its task unsolved.
"""

import dataclasses
import re
import venv

import pytest

from srl_jax.domains.software import cgroups, hidden_tests
from srl_jax.domains.software.actions import Action, render
from srl_jax.domains.software.environment import (
  AgentConfig,
  RepairEnvironment,
)
from srl_jax.domains.software.hidden_tests import check_task, judge
from srl_jax.domains.software.launchers import ExhaustedError
from srl_jax.domains.software.sandbox import Sandbox
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  FILES,
  FIXED,
  make_task,
  patch,
  write_repository,
)

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def task(folder):
  return make_task(folder)


@pytest.mark.parametrize(
  ("changes", "problem"),
  [
    (
      {"pytest_arguments": ("--nonsense",)},
      "unrecognized arguments: --nonsense;",
    ),
    ({"test_patch": "x"}, "test_patch cannot be read"),
  ],
)
def test_a_task_that_cannot_be_judged_says_nothing_of_the_repair(
  task, changes, problem
):
  odd = dataclasses.replace(task, **changes)
  judged = judge(odd, CONFIG, patch(calc_DOT_py=FIXED))
  assert problem in judged.problem
  assert judged.is_void and not judged.is_solved


OPTION = """

def pytest_addoption(parser):
  parser.addoption("--slow", action="store_true")
"""


@pytest.mark.parametrize(
  ("conftest", "text", "problem", "is_void"),
  [
    (FILES["tests/conftest.py"] + OPTION, "while True: pass", "time", False),
    ("import nothing_there\n", FIXED, "No module named", True),
  ],
  ids=["an-endless-loop", "a-broken-conftest"],
)
def test_settings_of_the_tests_count_in_telling_whose_fault_it_is(
  tmp_path, conftest, text, problem, is_void
):
  write_repository(tmp_path)
  (tmp_path / "tests/conftest.py").write_text(conftest)
  arguments = ("--slow",) if conftest.endswith(OPTION) else ()
  odd = make_task(tmp_path, pytest_arguments=arguments)
  judged = judge(odd, CONFIG, patch(calc_DOT_py=text + "\n"), wall_s=3)
  assert problem in judged.problem
  assert judged.is_void == is_void


def test_a_python_that_lacks_pytest_says_nothing_of_the_repair(task, tmp_path):
  venv.create(tmp_path / "bare", symlinks=True)
  bare = dataclasses.replace(CONFIG, python=str(tmp_path / "bare/bin/python"))
  judged = judge(task, bare, patch(calc_DOT_py=FIXED))
  assert "cannot import pytest" in judged.problem
  assert judged.is_void


def test_a_sandbox_that_ends_says_nothing_of_the_repair(task, monkeypatch):
  run = Sandbox.run

  def run_or_end(sandbox, arguments, *rest, **more):
    if hidden_tests._EXAMINER_INSIDE in arguments:
      sandbox.close()
    return run(sandbox, arguments, *rest, **more)

  monkeypatch.setattr(Sandbox, "run", run_or_end)
  judged = judge(task, CONFIG, patch(calc_DOT_py=FIXED))
  assert (judged.problem, judged.is_void) == ("the sandbox has ended", True)


def test_paths_of_settings_are_relative_to_the_repository(tmp_path):
  write_repository(tmp_path)
  (tmp_path / "lib").mkdir()
  (tmp_path / "calc.py").rename(tmp_path / "lib/calc.py")
  task = make_task(tmp_path, pytest_arguments=("-o", "pythonpath=lib"))
  assert check_task(task, CONFIG) == ""
  # The file of settings is gone when tests look at the folder.
  test = 'from os import listdir\n\ndef test_a():\n  assert 0, listdir(".")\n'
  looks = make_task(
    tmp_path,
    fail_to_pass=("tests/test_a.py::test_a",),
    pass_to_pass=(),
    test_files=(("tests/test_a.py", test),),
  )
  assert ".ini" not in judge(looks, CONFIG, b"").log
  # Without the setting, the reason says why no test passes.
  task = dataclasses.replace(task, pytest_arguments=())
  why = "no tests of tests/test_calc.py: ModuleNotFoundError: No module named"
  assert why in check_task(task, CONFIG)
  assert why in judge(task, CONFIG, b"").reason


def after(task, command, **limits):
  """An environment in which an agent has run a command and submitted."""
  config = dataclasses.replace(
    CONFIG, limits=dataclasses.replace(CONFIG.limits, **limits)
  )
  environment = RepairEnvironment(
    {task.id: task}, config, AgentConfig("swe-smith-once")
  )
  environment.reset(task.trajectory("repairs"))
  environment.step(render(Action("bash", (("command", command),))))
  environment.step(render(Action("submit")))
  environment.solved()
  environment.close()
  return environment


@pytest.mark.parametrize(
  ("command", "problem"),
  [
    ("truncate -s 40M a b", "larger than disk_bytes=67108864"),
    ("head -c 50M /dev/urandom > a", "compared: .*No space left"),
    (
      "for _ in {1..60}; do n=$(printf 'd%.0s' {1..99}); mkdir $n; cd $n; done;"
      " touch a",
      "cannot be compared: ",
    ),
    # The patch itself can be made, but not be listed.
    ("touch $(seq -f %.0fa$(printf 'b%.0s' {1..200}) 600)", "cannot be listed"),
  ],
  ids=["large", "full", "deep", "many"],
)
def test_files_that_cannot_be_compared_are_the_fault_of_the_agent(
  task, command, problem
):
  limits = {"disk_bytes": 64 << 20, "output_bytes": 100_000}
  environment = after(task, command, **limits)
  assert environment.ending == "Submitted"
  assert re.search(problem, environment.verdict.problem)
  assert environment.solved() is False


@pytest.mark.skipif(not cgroups.available(), reason="no control group here")
def test_memory_that_files_use_up_is_the_fault_of_the_agent(task):
  command = "head -c 200M /dev/zero > a; head -c 200M /dev/zero > /tmp/a"
  environment = after(task, command, memory_bytes=300 << 20)
  assert "the sandbox has ended: " in environment.verdict.problem
  assert environment.solved() is False


def test_memory_that_tests_use_up_is_the_fault_of_the_repair(task, monkeypatch):
  run = Sandbox.run
  problems = ["the sandbox has ended"]

  def run_or_end(sandbox, arguments, *rest, **more):
    if hidden_tests._EXAMINER_INSIDE in arguments and problems:
      raise ExhaustedError(problems.pop())
    return run(sandbox, arguments, *rest, **more)

  monkeypatch.setattr(Sandbox, "run", run_or_end)
  judged = judge(task, CONFIG, patch(calc_DOT_py=FIXED))
  assert (judged.problem, judged.is_void) == ("the sandbox has ended", False)
