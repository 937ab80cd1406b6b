# SPDX-License-Identifier: Apache-2.0
"""A whole run: its folder, what it measures, and how it may be ended."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from srl_jax import run as run_lib
from srl_jax.checkpoint import CheckpointConfig, Checkpointer
from srl_jax.testing import experiment


def test_a_run_says_what_it_is_and_leaves_it_in_its_folder(runs, whole):
  saved = json.loads((whole.workdir / "config.json").read_text())
  expected = dataclasses.asdict(runs.config("sft_srl"))
  assert saved == json.loads(json.dumps(expected))
  results = json.loads((whole.workdir / "results.json").read_text())
  assert results == whole.results
  for of_moment in results.values():
    assert {"step exact, greedy", "turns accuracy, greedy"} <= of_moment.keys()
    for value, low, high in of_moment.values():
      assert low <= value <= high
  # It learnt the format: an empty model broke it always.
  assert results["before"]["step format_failure, greedy"][0] == 1
  assert results["after srl"]["step format_failure, greedy"][0] < 0.5


def test_a_run_keeps_what_the_model_wrote(runs, whole):
  for moment, results in whole.results.items():
    name = moment.replace(" ", "_") + ".jsonl"
    text = (whole.workdir / "solutions" / name).read_text()
    greedy = [
      solution
      for solution in map(json.loads, text.splitlines())
      if solution["mode"] == "turns" and not solution["temperature"]
    ]
    problems = [solution["problem"] for solution in greedy]
    assert len(set(problems)) == len(problems) > 1
    accuracy = sum(x["is_correct"] for x in greedy) / len(greedy)
    assert accuracy == results["turns accuracy, greedy"][0]
    assert all(solution["texts"] for solution in greedy)


def test_a_run_that_is_finished_only_shows_its_table(runs, whole, capsys):
  files = {
    name: (whole.workdir / name).read_bytes()
    for name in ("metrics.jsonl", "tokenizer.model", "model/model.safetensors")
  }
  again = runs.run(whole.workdir, "sft_srl")
  assert again.results == whole.results
  assert not again.compiled, "no step was taken"
  lines = capsys.readouterr().out.splitlines()
  bests = [
    Checkpointer(
      whole.workdir / "stages" / folder, CheckpointConfig(), read_only=True
    ).best()[0]
    for folder in ("0_sft", "1_srl")
  ]
  assert lines[1:3] == [
    f"sft: was finished before; its result is update step {bests[0]} of 16, "
    "the best validated",
    f"srl: was finished before; its result is update step {bests[1]} of 6, "
    "the best validated",
  ]
  assert re.split("  +", lines[3]) == [
    "held-out test set",
    "before",
    "after sft",
    "after srl",
  ]
  for name, before in files.items():
    assert (whole.workdir / name).read_bytes() == before


def test_a_folder_belongs_to_one_configuration(runs, whole):
  path = whole.workdir / "config.json"
  config = json.loads(path.read_text())
  del config["seed"]  # As of a version that had no such field: its default.
  path.write_text(json.dumps(config))
  with pytest.raises(ValueError) as caught:
    runs.run(whole.workdir, "sft_srl", seed=1, srl__passes=1)
  assert str(caught.value) == (
    f"{whole.workdir} holds a run of another configuration: config.seed was 0 "
    "and is 1; config.srl.passes was 2 and is 1; give this run a --workdir of "
    "its own, or the old configuration to go on with that one"
  )
  # What changes no number may change, such as what a smaller machine needs.
  smaller = {"srl__trunks_per_micro_batch": 2, "model__remat": "none"}
  runs.run(whole.workdir, "sft_srl", log_every=2, **smaller)


def test_what_is_measured_may_not_change_in_between(runs, tmp_path):
  runs.run(tmp_path, "sft", sft__update_steps=1)
  # How many rows are decoded together changes no number.
  again = {"sft__update_steps": 1, "evaluate__answers_per_batch": 4}
  runs.run(tmp_path, "sft", **again)
  with pytest.raises(ValueError, match=r"evaluate\.max_turns was 2 and is 3"):
    runs.run(tmp_path, "sft", sft__update_steps=1, evaluate__max_turns=3)
  data = pathlib.Path(runs.data)
  text = data.read_text()
  solutions = (tmp_path / "solutions" / "before.jsonl").read_text()
  held_out = json.loads(solutions.splitlines()[0])["problem"]
  records = [json.loads(line) for line in text.splitlines()]
  [changed] = [x for x in records if x["id"] == held_out]
  changed["steps"][0]["thought"] = "another"
  try:
    data.write_text("".join(json.dumps(x) + "\n" for x in records))
    with pytest.raises(ValueError, match="the test split changed since"):
      runs.run(tmp_path, "sft", sft__update_steps=1)
  finally:
    data.write_text(text)


def test_a_run_may_go_on_for_longer(runs, whole, tmp_path, capsys, monkeypatch):
  short = runs.run(tmp_path, "sft_srl", srl__update_steps=4)
  answers = tmp_path / "suites" / "after_srl" / "answers.jsonl"
  answers.parent.mkdir(parents=True)
  answers.write_text("of four update steps")
  measured = {"after srl": {"turns accuracy": [0.1, 0.0, 0.2]}}
  results = tmp_path / "results.json"
  results.write_text(json.dumps(short.results | measured))
  capsys.readouterr()
  # Nothing is taken back by a run that cannot begin.
  with monkeypatch.context() as patch, pytest.raises(EnoughError):
    patch.setattr(run_lib, "print_memory_plan", lambda _: enough())
    runs.run(tmp_path, "sft_srl")
  assert answers.exists() and "after srl" in json.loads(results.read_text())
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["srl"]["update_steps"] == 4
  found = runs.run(tmp_path, "sft_srl")
  said = capsys.readouterr().out
  assert "srl: was to take 4 update steps, and goes on to 6" in said
  rows = [row for row in found.rows() if row in whole.rows()]
  assert rows == whole.rows() and len(found.rows()) == len(rows) + 1  # After 4.
  assert found.results == whole.results
  assert found.results["after sft"] == short.results["after sft"]
  kept = tmp_path / "suites" / "after_srl_4_update_steps" / answers.name
  assert kept.read_text() == "of four update steps" and not answers.exists()
  assert (tmp_path / "model_4_update_steps" / "config.json").exists()
  with pytest.raises(ValueError, match=r"srl\.update_steps was 6 and is 5"):
    runs.run(tmp_path, "sft_srl", srl__update_steps=5)
  # Not the first stage, for the second went on from its end.
  with pytest.raises(ValueError, match=r"sft\.update_steps was 16 and is 17"):
    runs.run(tmp_path, "sft_srl", sft__update_steps=17)


def test_a_rate_that_falls_to_the_end_keeps_a_run_as_long_as_it_is(
  runs, tmp_path
):
  changes = {"sft__optim__schedule": "cosine"}
  runs.run(tmp_path, "sft", sft__update_steps=1, **changes)
  with pytest.raises(ValueError, match=r"_steps was 1 and is 2.* --config\.we"):
    runs.run(tmp_path, "sft", sft__update_steps=2, **changes)
  for _ in range(2):  # A run that only measures is found finished.
    runs.run(tmp_path / "measured", "sft", stages=())


class EnoughError(Exception):
  """The run got as far as the test wants it to."""


def enough():
  raise EnoughError


def test_a_first_attempt_that_fails_does_not_claim_the_folder(runs, tmp_path):
  texts = pathlib.Path(runs.data).read_text()
  other = tmp_path / "other.jsonl"
  other.write_text(texts.replace("####", "==> ####"))
  workdir = tmp_path / "run"
  wrong = {"data__path": str(other), "sft__trunks_per_batch": 4096}
  with pytest.raises(ValueError, match=r"batch=4096 trunks .* 48 are left"):
    runs.run(workdir, "sft", **wrong)
  tokenizer = (workdir / "tokenizer.model").read_bytes()
  (workdir / "suites" / "before").mkdir(parents=True)
  (workdir / "tokenizer").mkdir()
  with pytest.raises(EnoughError):
    runs.run(workdir, "sft", events={("sft", 0): enough}, data__test_size=0)
  # The tokenizer of the other data is gone, too, and so are answers.
  assert not (workdir / "suites").exists()
  assert not (workdir / "tokenizer").exists()
  assert (workdir / "tokenizer.model").read_bytes() != tokenizer


def test_what_is_wrong_with_the_last_stage_shows_before_anything_is_measured(
  runs, tmp_path
):
  with pytest.raises(ValueError, match="srl needs a context of"):
    runs.run(tmp_path, "sft_srl", srl__sampling__max_new_tokens=5000)
  assert not (tmp_path / "results.json").exists()
  assert not (tmp_path / "stages").exists()


def test_a_round_that_does_not_divide_over_the_mesh_is_refused(runs, tmp_path):
  config = runs.config("srl", srl__sampling__trunks_per_round=12)
  with pytest.raises(ValueError) as caught:
    run_lib.train_and_evaluate(config, tmp_path)
  assert str(caught.value) == (
    "c.srl.sampling.trunks_per_round=12 does not divide over 8 devices (mesh "
    "{'data': 8, 'fsdp': 1, 'tensor': 1}); make it a multiple of 8, or change "
    "c.mesh"
  )


def test_a_run_without_a_test_split_measures_nothing_and_says_so(
  runs, tmp_path, capsys
):
  runs.run(tmp_path, "sft", data__test_size=0, sft__update_steps=1)
  results = json.loads((tmp_path / "results.json").read_text())
  assert results == {"before": {}, "after sft": {}}
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].startswith("warning: there are no suites and no test split")
  assert not any("held-out" in line for line in lines)


def test_what_an_experiment_chose_is_said_first(runs, tmp_path, capsys):
  with pytest.raises(EnoughError):
    note = "tiny: for it is a test."
    runs.run(tmp_path, "sft", events={("sft", 0): enough}, note=note)
  assert capsys.readouterr().out.splitlines()[0] == note
  # It is no reason to refuse the folder.
  with pytest.raises(EnoughError):
    runs.run(tmp_path, "sft", events={("sft", 0): enough}, note="")


# Real processes from here on: the same command, ended and started again.


@dataclasses.dataclass
class Process:
  """A command that was started, and its workdir."""

  popen: subprocess.Popen
  workdir: pathlib.Path

  def wait_for_rows(self, count):
    """Waits until metrics.jsonl has so many rows."""
    path = self.workdir / "metrics.jsonl"
    deadline_s = time.monotonic() + 900
    while not path.exists() or path.read_text().count("\n") < count:
      assert self.popen.poll() is None, self.popen.communicate()
      assert time.monotonic() < deadline_s
      time.sleep(0.005)

  def end(self):
    """Waits for its end; returns status and output."""
    output, _ = self.popen.communicate(timeout=900)
    return self.popen.returncode, output


def start(runs, workdir, *python):
  """Starts the run of all these tests; `python` goes in front of -m."""
  command = runs.command(workdir, "sft_srl")
  if python:
    command = [command[0], *python, *command[3:]]
  popen = subprocess.Popen(
    command,
    env=runs.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  return Process(popen, workdir)


@pytest.fixture(scope="module")
def by_command(runs):
  """The folder of a run by the command line that nothing interrupts."""
  workdir = runs.folder / "by_command"
  status, output = start(runs, workdir).end()
  assert status == 0, output
  return workdir


def assert_same_numbers(workdir, by_command):
  assert experiment.metric_rows(workdir) == experiment.metric_rows(by_command)
  for name in ("results.json", "model/model.safetensors"):
    ours, theirs = (x / name for x in (workdir, by_command))
    assert ours.read_bytes() == theirs.read_bytes(), name


def go_on(runs, workdir, by_command):
  """Runs the same command again, to the end; returns what it says."""
  status, output = start(runs, workdir).end()
  assert status == 0, output
  assert_same_numbers(workdir, by_command)
  return output


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(runs, by_command, tmp_path):
  process = start(runs, tmp_path)
  # 16 steps and 2 validations of sft, before and after it; some of srl.
  process.wait_for_rows(16 + 2 + 2 + 3)
  process.popen.send_signal(signal.SIGTERM)
  status, output = process.end()
  assert status == 143
  last = output.splitlines()[-1]
  assert last.startswith("srl: asked to stop; update step ")
  assert last.endswith("Run the same command again to go on from there.")
  step = int(last.split("step ")[1].split()[0])
  output = go_on(runs, tmp_path, by_command)
  assert f"srl: resuming after update step {step} of 6" in output


@pytest.mark.slow
def test_sigterm_outside_of_training_ends_at_once(runs, by_command, tmp_path):
  process = start(runs, tmp_path)
  while "srl_jax: tiny" not in process.popen.stdout.readline():
    assert process.popen.poll() is None
  process.popen.send_signal(signal.SIGTERM)
  status, output = process.end()
  assert status == 143
  assert output.splitlines()[-1].startswith("asked to stop while nothing was")
  go_on(runs, tmp_path, by_command)


def test_killed_during_a_step_the_same_command_goes_on(
  runs, by_command, tmp_path
):
  process = start(runs, tmp_path)
  # A checkpoint is due every 2 steps: 8 is saved for sure when row 12 is
  # written, and what comes after is lost.
  process.wait_for_rows(12)
  process.popen.kill()
  assert process.end()[0] == -signal.SIGKILL
  output = go_on(runs, tmp_path, by_command)
  assert "sft: resuming after update step " in output


DIES_WRITING = """
import os, signal, sys
from srl_jax import main
from srl_jax.checkpoint import pool, sums

def die():
  os.kill(os.getpid(), signal.SIGKILL)

what, times = sys.argv.pop(1).split("=")
left = int(times)
if what == "pool":
  # A file of the checkpoint is half written.
  async def async_save(self, directory, args):
    global left
    left -= 1
    path = directory / pool.FILE
    async def write():
      path.write_bytes(args.data if left else args.data[:100])
      if not left:
        die()
    return [
      pool.ocp_future.CommitFutureAwaitingContractedSignals(
        write(), name="pool_save"
      )
    ]
  pool.PoolHandler.async_save = async_save
else:
  sums_of = sums._sums
  def dying(directory):  # All files are written, under no name yet.
    global left
    left -= "best" in directory.parts
    if not left:
      die()
    return sums_of(directory)
  sums._sums = dying
main.command()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("what", "stage", "slot", "resumes"),
  [
    # The 5th checkpoint is that of step 10.
    ("pool=5", "0_sft", "steps", "sft: resuming after update step 8 of 16"),
    # 8 checkpoints of sft, then the second of srl.
    ("pool=10", "1_srl", "steps", "srl: resuming after update step 2 of 6"),
    # The second best of sft is that of its end, whose checkpoint must not be
    # complete before. Whether that of step 14 was by then is open.
    ("best=2", "0_sft", "best", r"sft: resuming after update step 1[24] of 16"),
  ],
)
def test_killed_while_it_writes_a_checkpoint_the_same_command_goes_on(
  runs, by_command, tmp_path, what, stage, slot, resumes
):
  process = start(runs, tmp_path, "-c", DIES_WRITING, what)
  status, output = process.end()
  assert status == -signal.SIGKILL, output
  left = os.listdir(tmp_path / "stages" / stage / slot)
  assert any("orbax-checkpoint-tmp" in name for name in left), left
  output = go_on(runs, tmp_path, by_command)
  assert re.search(resumes, output)
