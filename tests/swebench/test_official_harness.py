# SPDX-License-Identifier: Apache-2.0
"""The official harness is called, its report is read, and it reads our files.

A program of the tests stands in for it where its run is meant; its own reading
and writing is tested where the package swebench is installed.
"""

import json
import pathlib
import shlex
import stat
import sys

import pytest

from srl_jax.data import instances as reading
from srl_jax.swebench.harness import Harness, read_report
from tests.support.repositories import CUTTING

FIX = (
  "```python\n### parts/cutting.py\n<<<<<<< SEARCH\n"
  f"{CUTTING[-41:-1]}\n=======\n\n\nthird = None\n>>>>>>> REPLACE\n```"
)
# It resolves what its predictions patch, if the name begins with "good".
STAND_IN = """#!{python}
import json, pathlib, sys
if sys.argv[1] == "-c":
  sys.exit("No module named 'swebench'" if {lacks} else 0)
given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
with open("calls", "a") as file:
  file.write(given["--run_id"] + "\\n")
print("one\\ntwo")
if {fails}:
  sys.exit(3)
lines = pathlib.Path(given["--predictions_path"]).read_text().splitlines()
found = [json.loads(line) for line in lines]
patched = [x["instance_id"] for x in found if x["model_patch"]]
report = {{
  "resolved_ids": [x for x in patched if x.startswith("good")],
  "error_ids": [x for x in patched if x.startswith("ill")],
}}
model = found[0]["model_name_or_path"].replace("/", "__")
name = f"{{model}}.{{given['--run_id']}}.json"
pathlib.Path(given["--report_dir"], name).write_text(json.dumps(report))
"""
RUN_BY = dict.fromkeys(
  (
    *("image", "eval_script", "eval_type", "log_parser", "version"),
    *("FAIL_TO_PASS", "PASS_TO_PASS"),
  ),
  "",
)


def program(path, text):
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return path


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
  """Makes a stand-in for an interpreter with swebench, and one for Docker."""
  folder = tmp_path / "programs"
  folder.mkdir()
  program(folder / "docker", "#!/bin/sh\nexit 0\n")
  monkeypatch.setenv("PATH", str(folder), prepend=":")

  def make(lacks=False, fails=False):
    text = STAND_IN.format(python=sys.executable, lacks=lacks, fails=fails)
    return program(folder / "python_of_swebench", text)

  return make


DOCS = FIX.replace("\n\nthird = None", f"{CUTTING[-41:-1]}  # A third.")
NAMES = ("good", "good_too", "good_docs", "bad", "ill", "unresolved")


def fixes(prompt, sample):
  if "good_docs" in prompt:
    return DOCS
  return "No." if "bad" in prompt else FIX


def second_fixes(prompt, sample):
  """The first sample has but a comment, and the second is that of `fixes`."""
  return fixes(prompt, sample) if sample or "good_docs" in prompt else "No."


def rows(bench):
  for name in NAMES:
    bench.row(name, **RUN_BY)


def calls(bench):
  return (bench.folder / "out" / "harness" / "calls").read_text().split()


def resolved_of(bench):
  rows = bench.results()["answers"]
  return {x["answers"]: x["resolved"]["value"] for x in rows}


def test_the_report_comes_into_the_table(bench, stand_in):
  rows(bench)
  python = stand_in()
  flags = (f"--harness={python}", "--samples=2")
  said = bench.run(second_fixes, *flags)
  assert resolved_of(bench) == {
    "greedy": pytest.approx(1 / 6),
    "2 sampled": pytest.approx((1 + 3) / 12),
    # No sample of good_docs has a patch of code.
    "majority": pytest.approx(2 / 6),
  }
  assert "| answers | resolved (%) | patches (%) |" in said
  assert "the harness could not run 1 instances (sampled 1), which" in said
  assert "not resolved: ill; see" in said
  assert bench.results()["harness_errors"] == {
    "greedy": [[]],
    "sampled": [[], ["ill"]],
    "majority": [["ill"]],
  }
  names = [name.split("-")[0] for name in calls(bench)]
  # The majority's patches are among those of the samples.
  assert names == ["greedy", "sample_0", "sample_1"]
  # What it has said once it is not asked again.
  bench.run(second_fixes, *flags)
  assert len(calls(bench)) == 3
  assert resolved_of(bench)["greedy"] == pytest.approx(1 / 6)


def test_other_patches_are_another_run(bench, stand_in):
  rows(bench)
  python = stand_in()
  bench.run(fixes, f"--harness={python}")
  (bench.folder / "out" / "edits" / "answers.jsonl").unlink()
  bench.run(lambda prompt, sample: "No.", f"--harness={python}")
  one, two = calls(bench)
  assert one != two
  assert resolved_of(bench) == {"greedy": 0}


def test_a_harness_that_fails_loses_no_patch(bench, stand_in):
  rows(bench)
  said = bench.refused(fixes, f"--harness={stand_in(fails=True)}")
  assert said.startswith("error: the harness ended with status 3 and without")
  assert said.endswith("one\ntwo\n")
  assert (bench.folder / "out" / "table.md").exists()
  assert bench.patches()["good"]
  bench.run(fixes, f"--harness={stand_in()}")
  assert resolved_of(bench) == {"greedy": pytest.approx(3 / 6)}


def test_what_the_harness_needs_is_asked_for_before_anything_is_sampled(
  bench, stand_in, monkeypatch
):
  rows(bench)
  said = bench.refused(fixes, f"--harness={stand_in(lacks=True)}")
  assert "needs the module swebench.harness.run_evaluation (No module n" in said
  said = bench.refused(fixes, "--harness=/no/python")
  assert "error: --harness=/no/python is no program; give the python" in said
  program(
    bench.folder / "programs" / "docker", "#!/bin/sh\necho No daemon; exit 1"
  )
  said = bench.refused(fixes, f"--harness={stand_in()}")
  assert "needs a running Docker (No daemon); install it, or leave --h" in said
  del bench.rows[:]
  bench.row("good")
  said = bench.refused(fixes, f"--harness={stand_in()}")
  assert (
    "has rows without image, eval_script, eval_type, log_parser, ve" in said
  )
  assert bench.prompts == []
  assert not (bench.folder / "out" / "edits").exists()


def test_without_the_option_the_command_is_printed(bench):
  rows(bench)
  said = bench.run(fixes, "--samples=2")
  out = bench.folder / "out"
  lines = (out / "harness.sh").read_text().splitlines()
  assert said.splitlines()[-1] == lines[0]
  commands = [shlex.split(line) for line in lines]
  assert [x[:2] for x in commands] == [["cd", str(out / "harness")]] * 4
  assert (out / "harness").is_dir()
  for name, words in zip(
    ("greedy", "sample_0", "sample_1", "majority"), commands, strict=True
  ):
    assert words[3:6] == ["python", "-m", "swebench.harness.run_evaluation"]
    given = dict(zip(words[6::2], words[7::2], strict=True))
    assert given["--dataset_name"] == str(bench.folder / "toy.jsonl")
    path = str(out / "predictions" / f"{name}.jsonl")
    assert given["--predictions_path"] == path
    assert given["--run_id"].startswith(f"{name}-")


def test_rows_that_the_harness_cannot_run_are_no_command(bench):
  bench.row("good")
  said = bench.run(fixes)
  assert "SWE-bench's harness cannot run the tests: " in said
  assert "run_evaluation" not in said


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"resolved_ids": 1}'])
def test_a_damaged_report_is_named(tmp_path, text):
  (tmp_path / "report.json").write_text(text)
  with pytest.raises(ValueError, match="is no report of SWE-bench's harness"):
    read_report(tmp_path / "report.json")


def harness_module(name):
  # It needs libraries that are at odds with ours, so it is rarely here.
  return pytest.importorskip(f"swebench.harness.{name}")


def test_swebench_reads_our_predictions(bench):
  utils = harness_module("utils")
  rows(bench)
  bench.run(fixes, "--samples=2")
  for path in (bench.folder / "out" / "predictions").iterdir():
    found = utils.get_predictions_from_file(str(path), "", "test")
    assert [x["instance_id"] for x in found] == [
      row["instance_id"] for row in bench.rows
    ]
    assert {x["model_name_or_path"] for x in found} == {str(bench.model)}
    assert {x["instance_id"]: x["model_patch"] for x in found} == (
      bench.patches(path.stem)
    )


def test_swebench_reads_the_rows_that_we_take(bench):
  utils = harness_module("utils")
  rows(bench)
  path = bench.write()
  suite, _ = reading.parse_suite(str(path))
  ours = reading.read_instances(suite, path)
  theirs = utils.load_swebench_dataset(str(path), "test")
  assert [x.id for x in ours] == [x["instance_id"] for x in theirs]
  assert reading.lacks_for_harness(path) == ""
  lists = {"FAIL_TO_PASS": "[]", "PASS_TO_PASS": "[]"}
  utils.make_test_spec(theirs[0] | lists)


def test_our_command_is_one_that_swebench_takes(bench, monkeypatch):
  # Its options are declared where it runs as a program.
  module = harness_module("run_evaluation")
  text = pathlib.Path(module.__file__).read_text()
  harness = Harness("python", "rows.jsonl", bench.folder)
  (bench.folder / "greedy.jsonl").write_text("")
  words = harness.command(bench.folder / "greedy.jsonl")
  for word in words:
    if word.startswith("--"):
      assert f'"{word}"' in text, word


def test_we_read_the_report_that_swebench_writes(bench, tmp_path, monkeypatch):
  reporting = harness_module("reporting")
  rows(bench)
  bench.run(fixes)
  monkeypatch.chdir(tmp_path)
  path = bench.folder / "out" / "predictions" / "greedy.jsonl"
  predictions = {
    x["instance_id"]: x for x in map(json.loads, path.read_text().splitlines())
  }
  model = str(bench.model).replace("/", "__")
  harness = Harness("python", "rows.jsonl", tmp_path / "harness")
  command = harness.command(path)
  run_id = command[command.index("--run_id") + 1]
  logs = reporting.RUN_EVALUATION_LOG_DIR / run_id / model
  for name in ("good", "good_too", "unresolved"):
    (logs / name).mkdir(parents=True)
    report = {name: {"resolved": name.startswith("good")}}
    (logs / name / "report.json").write_text(json.dumps(report))
  reporting.make_run_report(
    predictions, bench.rows, run_id, report_dir=str(harness.folder)
  )
  # It is where we look for it, so the harness is not run.
  found = harness.run(path, str(bench.model))
  assert found.resolved == {"good", "good_too"}
  # What has a patch and no log could not be run.
  assert found.errors == {"good_docs", "ill"}
