# SPDX-License-Identifier: Apache-2.0
"""Runs measure suites before, after and meanwhile, and alike if they resume."""

import csv
import json
import pathlib
import re
import shutil

import pytest

from srl_jax.evaluate.journal import read_answers
from srl_jax.measuring import metric_name
from srl_jax.storage import files
from srl_jax.testing import experiment


class PowerCutError(Exception):
  """Stands for whatever may end a process."""


def cut():
  raise PowerCutError


@pytest.fixture(scope="module")
def changes(runs):
  """Changes of a config that measure a suite of copying tasks."""
  path = runs.folder / "copies.jsonl"
  lines = [
    json.dumps({"problem": f"{i}: {i % 3 + 1}", "answer": str(i % 3 + 1)})
    for i in range(9)
  ]
  path.write_text("".join(line + "\n" for line in lines))
  return {
    "sft__update_steps": 12,
    "sft__validate_every": 4,
    "evaluate__suites": (str(path),),
    "evaluate__suite_samples": 2,
    "evaluate__suite_tokens": 8,
    "evaluate__suites_every_update_steps": 4,
    "evaluate__suites_problems": 6,
  }


@pytest.fixture(scope="module")
def measured(runs, changes):
  return runs.run(runs.folder / "measured", "sft", **changes)


def right(workdir, name, decoding, count):
  """Share of right answers in a folder of the run, counted by hand."""
  answers = [
    a for a in read_answers(workdir / "suites" / name) if a.decoding == decoding
  ]
  assert len(answers) == count
  return sum(a.is_correct for a in answers) / count


def test_the_model_before_training_need_not_be_measured(runs, tmp_path, capsys):
  changes = {"sft__update_steps": 1, "evaluate__before": False}
  for _ in range(2):
    results = runs.run(tmp_path, "sft", **changes).results
    assert results["before"] == {} and results["after sft"]
    said = capsys.readouterr().out
    assert re.findall("held-out test set +(.*)", said) == ["after sft"]
  assert [x.name for x in (tmp_path / "solutions").iterdir()] == [
    "after_sft.jsonl"
  ]


@pytest.mark.slow
def test_results_have_the_suites_before_and_after(measured):
  saved = json.loads((measured.workdir / "results.json").read_text())
  for moment, name in (("before", "before"), ("after sft", "after_sft")):
    rows = saved[moment]
    greedy = right(measured.workdir, name, "greedy", 9)
    sampled = right(measured.workdir, name, "sampled", 18)
    assert rows["copies greedy"][0] == pytest.approx(greedy)
    assert rows["copies avg@2"][0] == pytest.approx(sampled)
    assert "copies tokens" not in rows
  # It learnt to answer, so the numbers are not zeros.
  assert saved["before"]["copies greedy"][0] == 0
  assert saved["after sft"]["copies greedy"][0] > 0


@pytest.mark.slow
def test_metrics_have_a_part_of_the_suites_meanwhile(measured):
  with (measured.workdir / "metrics.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  found = {
    int(row["update_step"]): float(row["sft/suite_copies"])
    for row in rows
    if row["sft/suite_copies"]
  }
  assert list(found) == [3, 7, 11]
  for update_step, share in found.items():
    name = f"sft_{update_step + 1}"
    assert share == pytest.approx(right(measured.workdir, name, "greedy", 6))


@pytest.mark.slow
def test_a_run_that_is_resumed_measures_the_same(runs, changes, measured):
  outcome = experiment.RunOutcome(runs.folder / "measured_in_pieces")
  for step in (7, 9):
    with pytest.raises(PowerCutError):
      runs.run(
        outcome.workdir,
        "sft",
        events={("sft", step): cut},
        outcome=outcome,
        **changes,
      )
    if step == 7:
      # What a killed attempt would leave that had got further: answers by
      # parameters which these need not be.
      suites = outcome.workdir / "suites"
      shutil.copytree(suites / "sft_4", suites / "sft_8")
  runs.run(outcome.workdir, "sft", outcome=outcome, **changes)
  assert outcome.results == measured.results
  assert outcome.rows() == measured.rows()
  ours, theirs = (
    (x.workdir / "model/model.safetensors").read_bytes()
    for x in (outcome, measured)
  )
  assert ours == theirs


@pytest.mark.slow
def test_measuring_suites_changes_no_other_number(runs, changes, measured):
  without = {k: v for k, v in changes.items() if k.startswith("sft")}
  plain = runs.run(runs.folder / "unmeasured", "sft", **without)
  rows = [
    {k: v for k, v in row.items() if not k.startswith("test/copies")}
    for row in measured.rows()
    if "sft/suite_copies" not in row
  ]
  assert plain.rows() == rows


def test_metrics_have_what_is_measured_before_and_after_stages_once(
  runs, tmp_path, monkeypatch
):
  """Also if the disk is full when results.json is written."""
  write, fails = files.write_json, ["before", "after sft"]

  def write_json(path, value):
    if path.name == "results.json" and fails and fails[0] in value:
      del fails[0]
      raise PowerCutError
    write(path, value)

  monkeypatch.setattr(files, "write_json", write_json)
  outcome = experiment.RunOutcome(tmp_path / "run")
  for _ in range(2):
    with pytest.raises(PowerCutError):
      runs.run(outcome.workdir, "sft", sft__update_steps=3)
  runs.run(outcome.workdir, "sft", outcome=outcome, sft__update_steps=3)
  assert not fails
  found = [
    (row["update_step"], {k: v for k, v in row.items() if k != "update_step"})
    for row in outcome.rows()
    if any(name.startswith("test/") for name in row)
  ]
  assert found == [
    (step, {metric_name(k): x[0] for k, x in outcome.results[moment].items()})
    for step, moment in ((-1, "before"), (2, "after sft"))
  ]
  assert "test/step_similarity_step_1_sampled" in found[0][1]


def test_metrics_are_named_without_spaces_and_signs():
  names = "a avg@32", "my set G-Pass@8 tau=0.5", "step exact, greedy"
  assert [metric_name(x) for x in names] == [
    "test/a_avg_at_32",
    "test/my_set_G-Pass_at_8_tau_0.5",
    "test/step_exact_greedy",
  ]


def test_a_suite_that_is_missing_is_refused_before_training(
  runs, changes, tmp_path
):
  missing = changes | {"evaluate__suites": (str(tmp_path / "no.jsonl"),)}
  with pytest.raises(ValueError, match=r"there is no file .*no\.jsonl"):
    runs.run(tmp_path / "run", "sft", **missing)
  assert not (tmp_path / "run" / "stages").exists()
  with pytest.raises(ValueError, match="did you mean 'aime25'"):
    runs.run(tmp_path / "run", "sft", evaluate__suites=("aime42",))
  with pytest.raises(ValueError, match="there is no protocol 'papre'"):
    runs.config("sft", evaluate__protocol="papre")


@pytest.fixture
def answered(runs, tmp_path):
  """A run up to its first update step, where only some problems have answers.

  The function takes ids and returns the results before, the ids of the
  problems that were solved, and all ids.
  """

  def run(preset, ids, **changes):
    lines = pathlib.Path(runs.data).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
      if record["id"] not in ids:
        del record["answer"]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(x) + "\n" for x in records))
    workdir = tmp_path / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    events = {(preset, 0): cut}
    with pytest.raises(PowerCutError):
      runs.run(workdir, preset, events=events, data__path=str(data), **changes)
    solutions = (workdir / "solutions" / "before.jsonl").read_text()
    results = json.loads((workdir / "results.json").read_text())["before"]
    return results, [json.loads(x)["problem"] for x in solutions.splitlines()]

  return run


ALL = {f"copy-{number}" for number in range(64)}


def test_problems_without_an_answer_do_not_count_as_unsolved(answered, capsys):
  results, test = answered("sft", ALL)
  assert "turns accuracy, greedy" in results and len(test) == 8
  results, found = answered("sft", ALL - set(test[:5]))
  assert found == test[5:] and "turns accuracy, greedy" in results
  said = capsys.readouterr().out
  assert "warning: test: 5 of 8 problems have no reference answer" in said
  results, found = answered("sft", ())
  assert not found and "turns accuracy, greedy" not in results
  assert "step exact, greedy" in results


@pytest.mark.parametrize("stage", ["rlvr", "episodes"])
def test_stages_of_judged_solutions_say_what_they_leave_out(
  answered, capsys, stage
):
  odd = {f"copy-{number}" for number in range(1, 64, 2)}
  answered(stage, odd)
  said = capsys.readouterr().out
  for split, count in (("train", 48), ("valid", 8)):
    assert re.search(rf"{split}: \d+ of {count} problems have no ref", said)
  with pytest.raises(ValueError, match="none of the 48 problems of the train"):
    answered(stage, ())
