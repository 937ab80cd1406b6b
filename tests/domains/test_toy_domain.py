# SPDX-License-Identifier: Apache-2.0
"""A user's domain works from its data to solutions in its environment."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from srl_jax.rewards import format
from srl_jax.testing import experiment

HERE = str(pathlib.Path(__file__).parent)
ROOT = pathlib.Path(__file__).parents[2]
TOY = "toy_domain_for_tests:TOY"


@pytest.fixture(autouse=True)
def user_module_is_importable(monkeypatch):
  monkeypatch.syspath_prepend(HERE)


def write_data(path):
  """Writes every way of up to three steps between two numbers below 13."""
  lines = []
  for start in range(13):
    for goal in {*range(start - 3, start + 4)} & {*range(13)} - {start}:
      sign = 1 if goal > start else -1
      steps = [
        {
          "text": "+" if sign > 0 else "-",
          "thought": ".",
          "observation": str(x),
        }
        for x in range(start + sign, goal + sign, sign)
      ]
      problem = f"from {start} to {goal}"
      lines.append({"id": problem, "problem": problem, "steps": steps})
  path.write_text("\n".join(map(json.dumps, lines)))
  return str(path)


@pytest.fixture(scope="module")
def trained(runs):
  """A run of SFT and SRL in which only the config names the domain."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(HERE)
    return runs.run(
      runs.folder / "toy",
      "sft_srl",
      data__path=write_data(runs.folder / "toy.jsonl"),
      data__domain=TOY,
      sft__alternate_solve=False,
      sft__trunks__context_turns=1,
      srl__trunks__context_turns=1,
      reward_workers__count=1,
      srl__update_steps=4,
      srl__validate_every=0,
      evaluate__max_turns=3,
    )


def test_its_reward_judges_actions_in_the_state_that_they_were_taken_in(
  trained,
):
  # The reward runs in a worker process and asserts that the state is right.
  rows = experiment.metric_rows(trained.workdir)
  measured = {
    k: v for row in rows for k, v in row.items() if k.startswith("srl")
  }
  assert "srl/validation_value" in measured
  assert not any("similarity" in name for name in measured)
  for depth in (1, 2, 3):
    assert 0 < measured[f"srl/validation_value_step_{depth}"] < 1
  # Only the expert's action moves the counter towards its goal.
  value, exact = (measured[f"srl/validation_{x}"] for x in ("value", "exact"))
  assert value == exact


@pytest.mark.parametrize("moment", ["after_sft", "after_srl"])
def test_its_environment_answers_and_says_what_is_solved(trained, moment):
  accuracy = check_solutions(trained.workdir, moment)
  results = trained.results[moment.replace("_", " ")]
  assert results["turns accuracy, greedy"][0] == accuracy > 0


def check_solutions(workdir, moment):
  """Replays the solutions of a moment; returns the share of correct ones."""
  path = workdir / "solutions" / f"{moment}.jsonl"
  solutions = list(map(json.loads, path.read_text().splitlines()))
  assert len(solutions) == 8
  for solution in solutions:
    start, goal = map(int, solution["problem"].split()[1::2])
    texts, seen = solution["texts"], solution.get("observations", [])
    actions = [format.split_lenient(text).action for text in texts]
    value, values = start, []
    for action in filter(None, actions):
      value += {"+": 1, "-": -1}.get(action, 0)
      values.append(str(value))
    # The environment answered every action until the counter was at the goal.
    assert seen == values
    assert solution["is_correct"] == (value == goal)
    assert str(goal) not in values[:-1]
    assert (solution["ending"] == "environment done") == (value == goal)
  return sum(x["is_correct"] for x in solutions) / len(solutions)


def test_the_run_remembers_the_domain_and_not_what_it_stands_for(trained):
  saved = json.loads((trained.workdir / "config.json").read_text())
  assert saved["data"]["domain"] == TOY
  assert saved["srl"]["reward"]["function"] == "domain"


def run_as_two(runs, workdir, **environment):
  """Runs SFT as two processes; returns status and output."""
  paths = [HERE, os.environ.get("PYTHONPATH", "")]
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launch.local", "--processes=2", "--"),
      *runs.command(workdir, "sft"),
      f"--config.data.path={write_data(runs.folder / 'toy.jsonl')}",
      f"--config.data.domain={TOY}",
      "--config.sft.alternate_solve=false",
      "--config.evaluate.max_turns=3",
    ],
    cwd=ROOT,
    env=runs.environment()
    | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    | environment,
    capture_output=True,
    text=True,
    timeout=600,
  )
  return done.returncode, done.stdout


@pytest.mark.slow
def test_each_environment_lives_in_one_of_two_processes(runs, tmp_path):
  status, output = run_as_two(runs, tmp_path)
  assert status == 0, output
  assert check_solutions(tmp_path, "after_sft") > 0
  # This problem's environment lives, and fails, in the other process only.
  path = tmp_path / "solutions" / "after_sft.jsonl"
  solutions = list(map(json.loads, path.read_text().splitlines()))
  status, output = run_as_two(
    runs, tmp_path / "again", TOY_FAILS_AT=solutions[1]["problem"]
  )
  assert status == 1
  said = [
    line[:4]
    for line in output.splitlines()
    if "the environment of the domain 'toy' failed at the problem" in line
  ]
  assert sorted(said) == ["[0] ", "[1] "], output
