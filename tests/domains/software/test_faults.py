# SPDX-License-Identifier: Apache-2.0
"""Faults of the machine and of a task say nothing of a repair."""

import dataclasses
import venv

import pytest

from srl_jax.domains.software import hidden_tests
from srl_jax.domains.software.hidden_tests import judge
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
  venv.create(tmp_path / "bare")
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
