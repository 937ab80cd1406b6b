# SPDX-License-Identifier: Apache-2.0
"""What a report reads of runs, and the numbers behind its charts."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from srl_jax.evaluate import seeds
from srl_jax.evaluate.journal import Journal
from srl_jax.report import series
from srl_jax.report.page import make_page
from srl_jax.report.runs import (
  group_differences,
  paired_differences,
  read_runs,
)
from srl_jax.report.viewer import MOST_CHARS, Viewer, read_rollouts
from srl_jax.rewards import matching_blocks
from srl_jax.storage.workdir import SOURCE
from srl_jax.testing.reports import write_run
from tests.support.answers import with_finals


def begin_run(workdir, **config):
  workdir.mkdir(parents=True)
  (workdir / "config.json").write_text(json.dumps(config))
  return workdir


def test_runs_that_differ_in_their_seeds_only_are_one_group(tmp_path):
  paths = [
    write_run(tmp_path / "a" / "run", seed=0),
    write_run(tmp_path / "b" / "run", seed=1),
    write_run(tmp_path / "other", update_steps=21),
  ]
  # What changes no number does not count.
  config = json.loads((paths[1] / "config.json").read_text())
  config["log_every"], config["trackers"]["wandb"] = 7, True
  config["evaluate"]["before"] = False
  (paths[1] / "config.json").write_text(json.dumps(config))
  first, second, other = read_runs(paths)
  assert first.group == second.group == "made-up"
  assert other.group == "made-up (tmp/other)".replace("tmp", tmp_path.name)
  assert [x.label for x in (first, second)] == ["a/run", "b/run"]
  [lone] = read_runs(paths[:1])
  assert lone.label == "run"
  # Runs of other code are no repetitions.
  code = {"versions.json": {SOURCE: "f0"}, "own_code.json": {"data.domain": 1}}
  for name, value in code.items():
    (paths[1] / name).write_text(json.dumps(value))
    first, second, _ = read_runs(paths)
    assert second.group != first.group
    (paths[0] / name).write_text(json.dumps(value))
    first, second, _ = read_runs(paths)
    assert second.group == first.group


def test_a_run_that_has_just_begun_is_empty(tmp_path):
  [run] = read_runs([begin_run(tmp_path / "run", name="new", stages=["srl"])])
  assert (run.steps_done, run.update_steps) == (0, 0)
  assert not run.is_finished and not run.rows and not run.results
  assert series.curves([run]) == {"axes": [], "series": []}
  assert series.groups_kept([run]) == []
  viewer, _, total = read_rollouts([run], 10)
  assert viewer.samples == total == 0
  assert list(paired_differences(run)) == []


def test_what_is_no_run_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r"there is no run in .*no config\.json"):
    read_runs([tmp_path / "absent"])
  run = begin_run(tmp_path / "run")
  with pytest.raises(ValueError, match="a run is named twice"):
    read_runs([run, f"{run}/../run"])
  (run / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config\.json is not JSON"):
    read_runs([run])
  (run / "config.json").write_text("[]")
  with pytest.raises(ValueError, match="holds no JSON object"):
    read_runs([run])


def test_rollouts_of_a_later_stage_count_on(tmp_path):
  workdir = write_run(tmp_path / "run", update_steps=20, moments=(0, 9))
  path = workdir / "config.json"
  config = json.loads(path.read_text())
  config["stages"] = ["sft", "srl", "rlvr"]
  config["sft"]["update_steps"] = 300
  config["rlvr"]["update_steps"] = 7
  path.write_text(json.dumps(config))
  [run] = read_runs([workdir])
  assert run.first_steps == {"sft": 0, "srl": 300, "rlvr": 320}
  assert run.update_steps == 327
  steps = [run.rollouts(x)[0]["update_step"] for x in run.rollout_files]
  assert steps == [300, 309]
  # In order of time, which is not that of the names.
  first = workdir / "rollouts" / "srl.00000000.train.parquet"
  shutil.copy(first, first.with_name("rlvr.00000000.train.parquet"))
  shutil.copy(first, first.with_name("srl.00000009.train.parquet"))
  [run] = read_runs([workdir])
  assert [x[:3] for x in run.rollout_files] == [
    ("srl", 0, "train"),
    ("srl", 9, "train"),
    ("srl", 9, "valid"),
    ("rlvr", 0, "train"),
  ]


def test_differences_are_paired_by_problem(tmp_path):
  [run] = read_runs([write_run(tmp_path / "run")])
  [difference] = paired_differences(run)
  # Before 1000 and after 0111: three gained, one lost, (3 - 1) / 4.
  assert (difference.gained, difference.lost, difference.problems) == (3, 1, 4)
  assert difference.estimate.value == 0.5
  assert difference.estimate.low < 0.5 < difference.estimate.high
  assert (difference.moment, difference.how) == ("after srl", "turns, greedy")


def test_groups_are_compared_over_problems_and_runs(tmp_path):
  ends = {"a": ("0011", "0001"), "b": ("0111", "1111")}
  paths = []
  for number, rights in enumerate(ends.values()):
    for seed, right in enumerate(rights):
      path = write_run(
        tmp_path / f"{number}{seed}", seed=seed, update_steps=20 + number
      )
      solutions = path / "solutions" / "after_srl.jsonl"
      rows = map(json.loads, solutions.read_text().splitlines())
      lines = [
        json.dumps(row | {"is_correct": x == "1"}) + "\n"
        for row, x in zip(rows, right, strict=True)
      ]
      solutions.write_text("".join(lines))
      paths.append(path)
  [found] = group_differences(read_runs(paths))
  assert (found.base, found.runs) == ("made-up", (2, 2))
  # 7 of 8 minus 3 of 8.
  assert found.estimate == seeds.difference(
    [[0, 0, 1, 1], [0, 0, 0, 1]], [[0, 1, 1, 1], [1, 1, 1, 1]], is_share=True
  )
  assert found.estimate.value == 0.5
  # Not where the problems, or how they were asked, are others.
  (paths[0] / "held_out.json").write_text(json.dumps({"test": {"crc32": 1}}))
  [found] = group_differences(read_runs(paths))
  assert found.estimate is None
  assert found.refusal == "not measured alike: other test problems"


def test_a_problem_that_only_one_moment_has_is_left_out(tmp_path):
  workdir = write_run(tmp_path / "run")
  path = workdir / "solutions" / "after_srl.jsonl"
  path.write_text("".join(path.read_text().splitlines(True)[:2]))
  [run] = read_runs([workdir])
  [difference] = paired_differences(run)
  assert (difference.problems, difference.estimate.value) == (2, 0.0)
  # One without a verdict is as one that is not there.
  path.write_text(path.read_text().replace("false", "null"))
  [run] = read_runs([workdir])
  assert list(paired_differences(run)) == []  # One problem has no interval.


def write_rows(workdir, rows):
  lines = (json.dumps(row) + "\n" for row in rows)
  (workdir / "metrics.jsonl").write_text("".join(lines))


def curve(found, metric, run=None):
  [one] = [
    x for x in found["series"] if x["metric"] == metric and x.get("run") == run
  ]
  return one, found["axes"][one["axis"]]


def test_curves_run_over_update_steps_seconds_and_tokens(tmp_path):
  workdir = begin_run(tmp_path / "run", name="x", stages=["srl"])
  step = {"srl/update_step_s": 2.0, "srl/tokens_sampled": 100.0}
  write_rows(
    workdir,
    [
      {"update_step": -1, "test/exam_greedy": 0.25},
      {"update_step": 0, "srl/reward": 0.5} | step,
      {"update_step": 1, "srl/reward": None} | step,
      {"update_step": 1, "srl/validation_reward": 0.75},
      {"update_step": 2, "srl/reward": 0.125} | step,
    ],
  )
  found = series.curves(read_runs([workdir]))
  # The tables have what is measured before and after the stages.
  assert {x["stage"] for x in found["series"]} == {"srl"}
  one, axis = curve(found, "reward", "run")
  assert one["y"] == [0.5, 0.125]
  assert axis == {
    "update_step": [0, 2],
    "seconds": [2, 6],
    "tokens": [100, 300],
  }
  one, axis = curve(found, "validation_reward", "run")
  assert (one["y"], axis["seconds"], axis["tokens"]) == ([0.75], [4], [200])


def test_a_metric_of_two_stages_is_two_curves(tmp_path):
  workdirs = []
  for seed in (0, 1):
    stages = ["sft", "srl"]
    workdirs.append(
      begin_run(tmp_path / f"run{seed}", name="x", seed=seed, stages=stages)
    )
    kept = {"srl/groups_sampled": 4, "srl/groups_kept": 3}
    write_rows(
      workdirs[-1],
      [
        {"update_step": 0, "sft/loss": 2.0},
        {"update_step": 1, "srl/loss": -0.5} | kept,
      ],
    )
  found = read_runs(workdirs)
  curves = series.curves(found)["series"]
  # Two runs and their mean.
  assert [
    (x["stage"], x["y"]) for x in curves if x["metric"] == "loss"
  ] == 3 * [("sft", [2]), ("srl", [-0.5])]
  counts = [(x["groups"], x["count"]) for x in series.groups_kept(found)]
  assert counts == 2 * [("kept", 3), ("dropped", 1)]


def test_the_mean_of_a_group_ends_where_its_first_run_ends(tmp_path):
  paths = []
  for seed, values in enumerate([(0.0, 1.0, 5.0), (0.5, 2.0)]):
    paths.append(
      begin_run(tmp_path / f"run{seed}", name="x", seed=seed, stages=["srl"])
    )
    write_rows(
      paths[-1],
      [{"update_step": i, "srl/reward": x} for i, x in enumerate(values)],
    )
  mean, axis = curve(series.curves(read_runs(paths)), "reward")
  assert (mean["group"], mean["runs"]) == ("x", 2)
  assert axis["update_step"] == [0, 1]
  assert mean["y"] == [0.25, 1.5]
  assert (mean["low"], mean["high"]) == ([0, 1], [0.5, 2])


def test_means_of_long_curves_are_over_the_same_update_steps(tmp_path):
  paths = []
  for seed, (count, gap) in enumerate([(1000, -1), (700, 5)]):
    paths.append(
      begin_run(tmp_path / f"run{seed}", name="x", seed=seed, stages=["srl"])
    )
    reward = {i: None if i == gap else i + 100 * seed for i in range(count)}
    rows = [{"update_step": i, "srl/reward": x} for i, x in reward.items()]
    write_rows(paths[-1], rows)
  mean, axis = curve(series.curves(read_runs(paths)), "reward")
  steps = np.array(axis["update_step"])
  # Of the 699 common update steps the first are averaged in pairs.
  assert len(steps) == series.MOST_POINTS
  assert (*steps[:3], steps[-1]) == (0.5, 2.5, 5, 699)
  np.testing.assert_allclose(mean["y"], steps + 50, rtol=1e-3)
  np.testing.assert_allclose(mean["low"], steps, rtol=1e-3)
  np.testing.assert_allclose(mean["high"], steps + 100, rtol=1e-3)


def test_long_curves_are_averaged_over_neighbours(tmp_path):
  workdir = begin_run(tmp_path / "run", name="x", stages=["srl"])
  count = 2 * series.MOST_POINTS
  write_rows(
    workdir, [{"update_step": i, "srl/reward": i % 2} for i in range(count)]
  )
  one, axis = curve(series.curves(read_runs([workdir])), "reward", "run")
  assert one["y"] == [0.5] * series.MOST_POINTS
  assert axis["update_step"][:2] == [0.5, 2.5]


def row(reward, *, failure="", step=0, text="<think>ab</think>c", **others):
  return {
    "stage": "srl",
    "split": "train",
    "update_step": 5,
    "trajectory": "t",
    "problem": "p",
    "steps": [{"title": "", "text": "one"}, {"title": "Two", "text": "two"}],
    "step": step,
    "target": "one",
    "sample": 0,
    "text": text,
    "tokens": 3,
    "is_stopped": True,
    "reward": reward,
    "value": reward,
    "failure": failure,
    "is_kept": True,
  } | others


def test_charts_count_rewards_failures_and_depths():
  counts = series.RolloutCounts()
  rows = [
    row(0.25),
    row(0.29),
    row(1.0, step=1),
    row(-1.0, failure="no_thought"),
  ]
  counts.add("run", [*rows, row(math.nan)])
  shares = {x["low"]: x["share"] for x in counts.histogram}
  assert shares == {0.2: 0.5, 1.0: 0.25, -1.0: 0.25}
  assert [(x["cause"], x["share"]) for x in counts.failures] == [
    ("no_thought", 0.2),
    (series.NO_CAUSE, 0),
  ]
  means = {x["step"]: (x["reward"], x["count"]) for x in counts.depths}
  assert means == {1: (pytest.approx(-0.46 / 3, abs=1e-5), 3), 2: (1, 1)}


def test_the_viewer_marks_what_the_reward_compared():
  viewer = Viewer()
  action, target = "so 😀 6*7=42", " 6*7 = 42\n"
  whole = row(0.8, text=f"<think> six </think>{action}", target=target)
  viewer.add("run", [whole, whole | {"failure": "not_stopped"}])
  page = viewer.payload()
  (group, _, thought, ours, _, *_, blocks), broken = page["samples"]
  assert page["texts"][thought] == "six"
  assert page["texts"][ours] == action
  theirs = page["texts"][page["groups"][group][6]]
  assert theirs == "6*7 = 42"
  assert blocks == tuple(
    number for block in matching_blocks(action, theirs) for number in block
  )
  # A broken format is shown whole, and nothing of it was compared.
  assert page["texts"][broken[3]] == whole["text"] and not broken[-1]
  assert page["texts"][broken[2]] == ""


def test_long_texts_are_cut_and_their_marks_with_them():
  long = "x" * (MOST_CHARS + 5)
  viewer = Viewer()
  viewer.add("run", [row(1.0, text=f"<think>a</think>{long}", target=long)])
  page = viewer.payload()
  [[group, _, _, ours, *_, blocks]] = page["samples"]
  assert page["texts"][ours] == ["x" * MOST_CHARS, 5]
  assert page["groups"][group][6] == ours
  assert blocks == (0, 0, MOST_CHARS)


def test_a_page_takes_whole_trajectories_of_all_moments(tmp_path):
  # Three files of three trajectories, each of 12 samples.
  [run] = read_runs([write_run(tmp_path / "run")])
  for most, expected, of in (
    (1000, 108, {0, 10, 19}),
    (80, 72, {0, 10, 19}),
    (30, 24, {0, 19}),
    (1, 12, {0}),
  ):
    viewer, counts, total = read_rollouts([run], most)
    assert (viewer.samples, total) == (expected, 108)
    moments = {group[3] for group in viewer.payload()["groups"]}
    assert moments == of
    # The charts count all.
    assert sum(x["count"] for x in counts.depths) == 108


RULES = {"rules_sha256": "of now"}


def test_answers_to_suites_are_compared_between_moments(tmp_path):
  workdir = write_run(tmp_path / "run")
  for moment, rights in (("before", "000"), ("after_srl", "011")):
    problems, answers = with_finals(
      [["1" if x == "1" else "2"] for x in rights], decoding="greedy"
    )
    problems = [dataclasses.replace(x, suite="sums") for x in problems]
    folder = workdir / "suites" / moment
    with Journal(folder, {"protocol": RULES}, problems) as journal:
      for answer in answers:
        journal.add(answer)
  [run] = read_runs([workdir])
  _, difference = paired_differences(run)
  assert (difference.how, difference.moment) == ("sums, greedy", "after srl")
  assert (difference.gained, difference.lost, difference.problems) == (2, 0, 3)
  assert difference.estimate.value == pytest.approx(2 / 3)
  other = write_run(tmp_path / "other", update_steps=21)
  shutil.copytree(workdir / "suites", other / "suites")
  _, of_groups = group_differences(read_runs([workdir, other]))
  assert (of_groups.how, of_groups.estimate.value) == ("sums, greedy", 0)
  # Not where they were judged otherwise.
  path = other / "suites" / "after_srl" / "evaluation.json"
  path.write_text(path.read_text().replace("of now", "of an older version"))
  runs = read_runs([workdir, other])
  refused = "is 'of now' and 'of an older version'"
  _, of_groups = group_differences(runs)
  _, difference = paired_differences(runs[1])
  for x in (of_groups, difference):
    assert x.estimate is None
    assert refused in x.refusal
  assert make_page(runs).count("of an older version") == 2
