# SPDX-License-Identifier: Apache-2.0
"""What a report reads of runs, and the numbers behind its charts."""

import json
import math
import shutil

import numpy as np
import pytest

from srl_jax.report import series
from srl_jax.report.differences import paired_differences
from srl_jax.report.runs import read_runs
from srl_jax.report.viewer import MOST_CHARS, Viewer, read_rollouts
from srl_jax.rewards import matching_blocks
from srl_jax.storage.workdir import SOURCE
from srl_jax.testing.reports import write_run


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
