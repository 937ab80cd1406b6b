# SPDX-License-Identifier: Apache-2.0
"""Bugs planted in functions: mutators, limits, validity, experts' repairs."""

import ast
import dataclasses
import json
import subprocess
import sys

import pytest

from srl_jax.data import readers, schema
from srl_jax.domains.software.bugs import __main__ as command
from srl_jax.domains.software.bugs import sources
from srl_jax.domains.software.bugs.experts import MISTAKES, STYLES, replacement
from srl_jax.domains.software.bugs.module import Module
from srl_jax.domains.software.bugs.mutators import MUTATORS, mutants
from srl_jax.domains.software.bugs.planted import Planter, variant
from srl_jax.domains.software.bugs.trials import LINES, Trials, outcomes
from srl_jax.domains.software.environment import (
  AgentConfig,
  RepairEnvironment,
)
from srl_jax.domains.software.hidden_tests import check_task
from srl_jax.domains.software.tasks import read_tasks
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import CONFIG

# What each mutator makes of a small function, the first of it.
MISTAKEN = [
  ("comparison", "return a < b", "return a <= b"),
  ("comparison", "return a not in b", "return a in b"),
  ("off_by_one", "return a[3]", "return a[4]"),
  ("off_by_one", "return range(a, b)", "return range(a, b + 1)"),
  ("operator", "return (a + 1) * b", "return (a + 1) + b"),
  ("operator", "a += b", "a -= b"),
  ("connective", "return a and b", "return a or b"),
  ("arguments", 'return f(a, "x y")', 'return f("x y", a)'),
  ("operands", "return a - b", "return b - a"),
  ("callee", "return f(b, a)", "return g(b, a)"),
  ("callee", "return max(a, b)", "return min(a, b)"),
  ("callee", "return a.strip().lower()", "return a.rstrip().lower()"),
  ("key", 'return a["x"] + a["y"]', 'return a["y"] + a["y"]'),
  ("key", "return b[a]", "return b[b]"),
  ("variable", "return a + 1", "return b + 1"),
  ("condition", "return 1 if not a else b", "return 1 if a else b"),
  ("branch", "if a:\n    b = 1\n  return b", "return b"),
  (
    "branch",
    "if a:\n    b = 1\n  elif b:\n    b = 2\n  return b",
    "if a:\n    b = 1\n  return b",
  ),
  ("branch", "if a:\n    b = 1", "pass"),
  ("initial_value", 'a = ""\n  return a', 'a = " "\n  return a'),
  (
    "early_return",
    "for x in a:\n    b += x\n  return b",
    "for x in a:\n    b += x\n    return b",
  ),
  ("statement", "a = 1\n  return a", "return a"),
  ("slicing", "return a[1:b]", "return a[:b]"),
  ("slicing", "return a[::-1]", "return a[:]"),
  ("negation", "return -a", "return a"),
  ("keyword", "return sorted(a, reverse=b)", "return sorted(a)"),
]


@pytest.fixture(scope="module")
def planter():
  """Of one module, in which every mutator finds something."""
  with Trials() as trials:
    yield Planter(["grids"], trials)


@pytest.fixture(scope="module")
def written(tmp_path_factory, planter):
  """A folder of the command's files: tasks with one bug and with two."""
  out = tmp_path_factory.mktemp("bugs")
  tasks = [*planter.draw(40, 1, 0), *planter.draw(20, 2, 0)]
  command.write(tasks, out, 0)
  lines = (out / "trajectories.jsonl").read_text().splitlines()
  experts = [schema.from_json(json.loads(line)) for line in lines]
  return out, read_tasks(out / "tasks.jsonl"), experts


def test_there_are_many_functions_and_all_are_right():
  checks = {}
  for name in sources.names():
    source = sources.read(name)
    results = outcomes(
      {
        "text": source.text,
        "calls": [x.call for x in source.checks],
        "wanted": [x.wanted for x in source.checks],
      }
    )
    assert [x for x in results if not x.is_right] == []
    for check in source.checks:
      checks.setdefault((name, check.function), []).append(check)
  assert len(checks) >= 60
  assert min(map(len, checks.values())) >= 3


@pytest.mark.parametrize(("name", "right", "wrong"), MISTAKEN)
def test_a_mutator_makes_its_mistake_and_touches_nothing_else(
  name, right, wrong
):
  frame = "def f(a, b):\n  {}\n\n\ndef g(a, b):\n  return  a  # As it was.\n"
  module = Module(frame.format(right))
  function = module.functions["f"]
  texts = [module.apply(edits) for edits in MUTATORS[name](module, function)]
  assert frame.format(wrong) in texts


def test_every_mutator_has_a_case_and_a_word_and_finds_bugs(planter):
  assert {name for name, _, _ in MISTAKEN} == set(MUTATORS)
  assert set(MISTAKES) == set(MUTATORS)
  assert {name for name, found in planter.single.items() if found} == set(
    MUTATORS
  )
  tasks = planter.draw(len(MUTATORS) * 6, 1, 0)
  assert {bug.mutator for x in tasks for bug in x.bugs} == set(MUTATORS)


def test_mutants_are_different_programs():
  source = sources.read("lists")
  texts = [variant(source, [x]) for x in mutants(source.text)]
  trees = {ast.dump(ast.parse(x)) for x in [source.text, *texts]}
  assert len(trees) == len(texts) + 1


def test_tasks_follow_from_the_seed(planter):
  def ids(seed, bugs=1):
    return [x.problem + x.id for x in planter.draw(30, bugs, seed)]

  assert ids(0) == ids(0)
  assert ids(0, 2) == ids(0, 2)
  assert ids(0) != ids(1)
  assert len(set(ids(0))) == 30


@pytest.mark.parametrize(
  "body",
  [
    "while True:\n    pass",
    "return f(x)",
    "return [0] * 10**11",
    "return object()",
  ],
)
def test_what_never_ends_or_is_never_the_same_is_no_task(body):
  text = f"def f(x):\n  {body}\n\n\ndef g():\n  return 1\n"
  with Trials() as trials:
    assert trials.run(text, ["g()", "f(1)"], ["1", "1"]) is None
    # The next one is not touched.
    [result] = trials.run(text, ["g()"], ["1"])
    assert result.is_right


def test_the_limit_is_one_of_lines():
  text = "def f(n):\n  for _ in range(n):\n    pass\n  return n\n"
  few, many = LINES // 4, LINES
  request = {"text": text, "calls": [f"f({few})"], "wanted": [str(few)]}
  assert outcomes(request)[0].is_right
  request = {"text": text, "calls": [f"f({many})"], "wanted": [str(many)]}
  assert outcomes(request) is None
  # Each call has its own.
  request = {"text": text, "calls": [f"f({few})"] * 5, "wanted": [str(few)] * 5}
  assert all(x.is_right for x in outcomes(request))


def test_one_endless_line_is_ended_by_its_seconds():
  text = "def f():\n  return sum(range(10**15))\n"
  with Trials(cpu_s=1) as trials:
    assert trials.run(text, ["f()"], ["1"]) is None


def test_a_child_that_is_gone_costs_one_variant():
  text = "import os\n\n\ndef f():\n  os._exit(1)\n\n\ndef g():\n  return 1\n"
  with Trials() as trials:
    assert trials.run(text, ["f()"], ["1"]) is None
    assert trials.run(text, ["g()"], ["1"])[0].is_right


def test_exceptions_are_shown_as_python_does(tmp_path):
  text = (
    "def f(x):\n  size = 1\n  return 2 / x, siz\n\n\n"
    "def g():\n  assert 0\n\n\ndef h():\n  raise ValueError('a\\nb')\n"
  )
  calls = ["f(1)", "f(0)", "g()", "f('x')", "h()"]
  results = outcomes({"text": text, "calls": calls, "wanted": ["1"] * 5})
  (tmp_path / "module.py").write_text(text)
  for call, result in zip(calls, results, strict=True):
    program = f"from module import *; print(repr({call}))"
    done = subprocess.run(
      [sys.executable, "-c", program],
      capture_output=True,
      text=True,
      cwd=tmp_path,
    )
    assert result == (False, done.stderr.splitlines()[-1], True)
  assert "Did you mean: 'size'?" in results[0].shown


def test_one_is_not_true_where_truth_is_wanted():
  request = {"text": "def f(x):\n  return x", "calls": ["f(1)", "f(True)"]}
  results = outcomes(request | {"wanted": ["True", "True"]})
  assert [x.is_right for x in results] == [False, True]


def test_a_repair_is_of_whole_lines_that_stand_there_once():
  assert replacement("a\nb\nc\n", "a\nB\nc\n") == ("b", "B")
  assert replacement("a\nx\nb\nx\n", "a\nx\nb\ny\n") == ("b\nx", "b\ny")
  assert replacement("a\nc\n", "a\nb\nc\n") == ("a", "a\nb")
  assert replacement("a\nb\nb\n", "a\nb\n") == ("b\nb", "b")
  assert replacement("bb\n\nb\nc\n", "bb\n\nd\nc\n") == ("\nb", "\nd")


def test_issues_tell_of_calls_that_the_bugs_break(written):
  _, tasks, experts = written
  assert len(tasks) == len(experts) == 60
  wrong = {f"`{x.call}`": x for x in sources.read("grids").checks}
  for expert in experts:
    task = tasks[expert.metadata["task"]]
    assert expert.problem == task.problem
    told = [wrong[x] for x in wrong if x in task.problem]
    assert len(told) == len(expert.metadata["functions"].split(","))
    for check in told:
      assert f"tests/test_grids.py::{check.name}" in task.fail_to_pass
      assert f"`{check.wanted}`" in task.problem
  assert {x.metadata["style"] for x in experts} == set(STYLES)


def test_half_of_the_tests_stay_hidden(written):
  out, tasks, _ = written
  source = sources.read("grids")
  seen = (out / "repositories/grids/tests/test_grids.py").read_text()
  judging = next(iter(tasks.values()))
  assert len(judging.tests) == len(source.checks)
  assert seen.count("assert") == (len(source.checks) + 1) // 2
  assert dict(judging.test_files)[source.tests_path].startswith(
    seen.partition("\n")[0]
  )


@needs_sandbox
@pytest.mark.parametrize("place", [*STYLES, "two bugs"])
def test_the_sandbox_answers_what_experts_have_seen_and_they_repair(
  written, place
):
  _, tasks, experts = written
  chosen = {x.metadata["style"]: x for x in experts[:40]}
  expert = chosen.get(place, experts[-1])
  task = tasks[expert.metadata["task"]]
  # Validity, found again by pytest: without a repair, tests fail and pass.
  assert task.pass_to_pass
  assert not check_task(task, CONFIG)
  environment = RepairEnvironment(tasks, CONFIG, AgentConfig("swe-smith-once"))
  environment.reset(expert)
  for step in expert.steps:
    observation, is_over = environment.step(step.text)
    assert observation == step.observation, step.text
  assert is_over
  assert environment.solved(), environment.verdict


@needs_sandbox
def test_no_edit_repairs_nothing(written):
  _, tasks, experts = written
  idle = dataclasses.replace(experts[0], steps=experts[0].steps[-1:])
  environment = RepairEnvironment(tasks, CONFIG, AgentConfig("swe-smith-once"))
  environment.reset(idle)
  assert environment.step(idle.steps[0].text)[1]
  assert not environment.solved()


def test_the_command_writes_what_readers_read(tmp_path, capsys):
  arguments = ["--count=12", "--modules=days", f"--out={tmp_path}"]
  command.main(arguments)
  assert "valid" in capsys.readouterr().out
  config = readers.DataConfig(
    format="jsonl", path=str(tmp_path / "trajectories.jsonl")
  )
  assert len(readers.load_trajectories(config).trajectories) == 12
  assert len(read_tasks(tmp_path / "tasks.jsonl")) == 12
  with pytest.raises(SystemExit, match=r"trajectories.jsonl exists already"):
    command.main(arguments)


def test_a_part_of_the_tasks_does_not_read_as_all_of_them(
  tmp_path, monkeypatch
):
  def interrupted(*_):
    raise KeyboardInterrupt

  arguments = ["--count=2", "--modules=days", f"--out={tmp_path}"]
  with monkeypatch.context() as patch:
    patch.setattr(command, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
      command.main(arguments)
  assert not list(tmp_path.glob("*.jsonl"))
  command.main(arguments)
  names = {"repositories", "tasks.jsonl", "trajectories.jsonl"}
  assert {x.name for x in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--count=0"], "--count=0 is too low; give 1 or more"),
    (["--modules=nothing"], "use days, figures"),
    (["--modules=days", "--count=9999"], "but there are 153 tasks"),
  ],
)
def test_the_command_says_what_it_cannot_do(tmp_path, arguments, said):
  with pytest.raises(SystemExit, match=said):
    command.main([*arguments, f"--out={tmp_path}"])
