# SPDX-License-Identifier: Apache-2.0
"""What is trained on is chosen by outcome, by task and by tool, and counted."""

import dataclasses
import json
import random

import pytest

from srl_jax.data import readers, tfds_builders
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.data.schema import to_json
from srl_jax.data.selection import check_used, select, tools_of
from srl_jax.domains.software.actions import Action, render
from srl_jax.trajectory import Step, Trajectory
from tests.support.agents import chat

VIEW = render(
  Action("str_replace_editor", (("command", "view"), ("path", "/a")))
)
LS = render(Action("bash", (("command", "ls"),)))
SUBMIT = render(Action("submit"))


def run(name, task="", resolved="", steps=(LS, VIEW, SUBMIT)):
  metadata = {"task": task, "resolved": resolved}
  return Trajectory(
    name,
    "software",
    f"problem of {task or name}",
    tuple(Step(text, observation="") for text in steps),
    metadata={k: v for k, v in metadata.items() if v},
  )


RUNS = [
  run("a1", "a", "true"),
  run("b1", "b", "true"),
  run("a2", "a", "true"),
  run("c1", "c", "false"),
  run("a3", "a", "true"),
  run("b2", "b"),
  run("a4", "a", "true"),
]


def chosen(**choice):
  config = DataConfig("agents", "x.jsonl", **choice)
  kept, left_out, _ = select(RUNS, config)
  return [t.id for t in kept], left_out


def test_without_a_choice_everything_is_kept():
  assert chosen() == ([t.id for t in RUNS], {})


def test_only_resolved_runs_are_kept_and_the_others_are_named():
  kept, left_out = chosen(resolved_only=True)
  assert kept == ["a1", "b1", "a2", "a3", "a4"]
  assert left_out == {
    "does not say whether it is resolved": ("b2",),
    "not resolved": ("c1",),
  }


def test_an_outcome_that_is_no_boolean_is_not_called_a_failure():
  said = {"a": "True", "b": "False", "c": "yes", "d": " true", "e": ""}
  runs = [run(name, resolved=value) for name, value in said.items()]
  config = DataConfig("jsonl", "x.jsonl", resolved_only=True)
  kept, left_out, _ = select(runs, config)
  assert [t.id for t in kept] == ["a", "d"]
  assert left_out == {
    "not resolved": ("b",),
    "metadata.resolved is neither 'true' nor 'false'": ("c",),
    "does not say whether it is resolved": ("e",),
  }


def test_runs_of_a_task_are_drawn_as_swe_smith_draws_them():
  # Its rule, in its words: random.sample of each task's list, in the order of
  # the file, after one random.seed.
  random.seed(24)
  theirs = [
    name
    for names in (["a1", "a2", "a3", "a4"], ["b1"])
    for name in random.sample(names, min(len(names), 3))
  ]
  kept, left_out = chosen(resolved_only=True, per_task=3, seed=24)
  assert sorted(kept) == sorted(theirs)
  assert kept == [t.id for t in RUNS if t.id in theirs]
  [dropped] = left_out["beyond 3 of one task"]
  assert dropped not in kept
  draws = {tuple(chosen(per_task=1, seed=seed)[0]) for seed in range(20)}
  assert len(draws) > 4


def test_runs_of_no_task_are_of_one_if_their_problem_is_the_same():
  same = [dataclasses.replace(run(x), problem="p") for x in "xyz"]
  config = DataConfig("agents", "x.jsonl", per_task=2)
  assert len(select([*same, run("w")], config).kept) == 3


def test_chosen_tools_are_learnt_and_the_other_actions_shown():
  def targets(tools):
    config = DataConfig("agents", "x.jsonl", target_tools=tools)
    kept, left_out, used = select([RUNS[0], run("n", steps=(LS,))], config)
    check_used(tools, used)
    return [[s.is_target for s in t.steps] for t in kept], left_out

  assert targets("str_replace_editor:view, submit") == (
    [[False, True, True]],
    {"no action of str_replace_editor:view, submit": ("n",)},
  )
  assert targets("bash") == ([[True, False, False], [True]], {})
  with pytest.raises(
    ValueError,
    match=r"names edit, which no action uses; "
    r"there are bash \(2\), str_replace_editor \(1\)",
  ):
    targets("bash,edit")


def test_a_step_that_is_none_stays_none():
  shown = dataclasses.replace(RUNS[0].steps[0], is_target=False)
  trajectory = dataclasses.replace(RUNS[0], steps=(shown, *RUNS[0].steps))
  config = DataConfig("agents", "x.jsonl", target_tools="bash")
  [kept] = select([trajectory], config).kept
  assert [s.is_target for s in kept.steps] == [False, True, False, False]


def test_if_nothing_is_left_the_error_counts_why(tmp_path):
  path = tmp_path / "runs.jsonl"
  runs = [run("x"), run("y", resolved="false")]
  path.write_text("\n".join(json.dumps(to_json(t)) for t in runs), "utf-8")
  config = DataConfig("jsonl", str(path), resolved_only=True)
  with pytest.raises(
    ValueError,
    match=r"runs.jsonl is left \(does not say whether it is resolved: 1; not"
    r" resolved: 1\); set data.resolved_only=False",
  ):
    load_trajectories(config)


def test_a_file_of_failures_is_read_and_counted_once(tmp_path):
  path = tmp_path / "runs.jsonl"
  line = json.dumps(chat("Fix it.", LS, resolved=False))
  path.write_text(f"{line}\n\n{line}\n{{}}\n", "utf-8")
  config = DataConfig("agents", str(path), resolved_only=True)
  with pytest.raises(ValueError, match=r"left \(not resolved: 2\)"):
    load_trajectories(config)


def test_tools_are_named_with_the_command_of_the_editor():
  assert tools_of(Step(VIEW)) == (
    "str_replace_editor",
    "str_replace_editor:view",
  )
  assert tools_of(Step(LS)) == ("bash",)
  assert tools_of(Step("ls")) == ()


def test_the_choice_comes_before_the_splits(tmp_path):
  path = tmp_path / "runs.jsonl"
  lines = [json.dumps(to_json(t)) for t in RUNS]
  path.write_text("\n".join([*lines, "{}"]), "utf-8")
  config = DataConfig(
    "jsonl", str(path), resolved_only=True, per_task=3, seed=24, valid_size=1
  )
  report = load_trajectories(config)
  assert len(report.trajectories) == 4
  assert len(report.rejects) == 1
  assert {k: len(v) for k, v in report.left_out.items()} == {
    "does not say whether it is resolved": 1,
    "not resolved": 1,
    "beyond 3 of one task": 1,
  }
  tasks = {
    name: {t.metadata["task"] for t in split}
    for name, split in report.splits.items()
  }
  assert tasks["train"] and tasks["valid"]
  assert tasks["train"].isdisjoint(tasks["valid"])


def test_prepared_data_are_chosen_from_too(tmp_path):
  tfds_builders.write({"train": RUNS, "valid": [run("v")]}, tmp_path, "a test")
  config = DataConfig("tfds", str(tmp_path), resolved_only=True, per_task=1)
  report = load_trajectories(config)
  assert len(report.splits["train"]) == 2 and not report.splits["valid"]
  assert report.left_out["does not say whether it is resolved"] == ("b2", "v")


def test_unresolved_runs_are_not_kept_while_reading(tmp_path, monkeypatch):
  path = tmp_path / "runs.jsonl"
  path.write_text("\n".join(json.dumps(to_json(t)) for t in RUNS), "utf-8")
  given = []

  def watched(trajectories, choice):
    given.extend(trajectories)
    return select(trajectories, choice)

  monkeypatch.setattr(readers, "select", watched)
  load_trajectories(DataConfig("jsonl", str(path), resolved_only=True))
  assert [t.id for t in given] == ["a1", "b1", "a2", "a3", "a4"]


def test_data_that_are_made_on_the_spot_cannot_be_chosen_from():
  for choice in (
    {"resolved_only": True},
    {"per_task": 1},
    {"target_tools": "x"},
  ):
    with pytest.raises(ValueError, match="chooses among the trajectories of a"):
      DataConfig(train_size=1, **choice)
