# SPDX-License-Identifier: Apache-2.0
"""Two processes on CPU give the numbers of one; so do eight devices."""

import csv
import json
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from srl_jax.testing import experiment

ROOT = pathlib.Path(__file__).parents[1]

# Sums over a batch are taken in another order, which changes the last bits of
# float32; some twenty steps at this learning rate make 1e-5 of that. Another
# split of the data, or a gradient that is not summed over both processes,
# changes the first digits.
TOLERANCE = 1e-3


def launch(runs, workdir, preset, *arguments, devices=1, processes=2):
  """Starts a run as so many processes with so many devices each."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "launch.local"),
      *(f"--processes={processes}", "--"),
      *runs.command(workdir, preset),
      *arguments,
    ],
    cwd=ROOT,
    env=runs.environment() | {"XLA_FLAGS": flags},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def end(process):
  output, _ = process.communicate(timeout=900)
  # What the C++ of collectives says on both processes is not ours.
  ours = [x for x in output.splitlines() if "[Gloo]" not in x]
  return process.returncode, ours


@pytest.fixture(scope="module")
def two(runs):
  """The folder and the output of a run of two processes."""
  workdir = runs.folder / "two"
  status, lines = end(launch(runs, workdir, "sft_srl"))
  assert status == 0, "\n".join(lines)
  return workdir, lines


def assert_close(ours, theirs):
  assert len(ours) == len(theirs)
  for row, other in zip(ours, theirs, strict=True):
    assert row.keys() == other.keys()
    for name in row:
      np.testing.assert_allclose(
        np.array(row[name], float),
        np.array(other[name], float),
        rtol=TOLERANCE,
        atol=TOLERANCE,
        err_msg=f"{name} at step {row['update_step']}",
      )


def rows_of(workdir):
  """Metrics without those that depend on the size of micro-batches."""
  ends = ("/micro_batches", "/positions_used")
  return [
    {k: v for k, v in row.items() if not k.endswith(ends)}
    for row in experiment.metric_rows(workdir)
  ]


def assert_same_run(ours, theirs):
  """Compares metrics, results and final parameters of two workdirs."""
  assert_close(rows_of(ours), rows_of(theirs))
  results, others = (
    json.loads((x / "results.json").read_text()) for x in (ours, theirs)
  )
  assert results.keys() == others.keys()
  for moment, measured in results.items():
    assert measured.keys() == others[moment].keys()
    for metric, estimate in measured.items():
      np.testing.assert_allclose(
        estimate, others[moment][metric], atol=TOLERANCE, err_msg=metric
      )
  weights, other = (
    load_file(x / "model/model.safetensors") for x in (ours, theirs)
  )
  assert weights.keys() == other.keys()
  for name, value in weights.items():
    np.testing.assert_allclose(value, other[name], atol=TOLERANCE, err_msg=name)


def test_two_processes_give_the_numbers_of_one(whole, two):
  workdir, _ = two
  assert_same_run(workdir, whole.workdir)
  # The tokenizer was trained by one and read by both.
  tokenizers = [
    (x / "tokenizer.model").read_bytes() for x in (workdir, whole.workdir)
  ]
  assert tokenizers[0] == tokenizers[1]


@pytest.mark.parametrize(
  ("processes", "fsdp", "reward"),
  [(2, 1, "host"), pytest.param(4, 2, "device", marks=pytest.mark.slow)],
)
def test_an_axis_that_does_not_split_batches_may_span_processes(
  runs, whole, tmp_path, processes, fsdp, reward
):
  """As on TPU hosts of four chips with tensor=4, where two share their rows."""
  run = launch(
    runs,
    tmp_path,
    "sft_srl",
    *("--config.mesh.data=1", f"--config.mesh.fsdp={fsdp}"),
    *("--config.mesh.tensor=2", f"--config.device_reward.on={reward}"),
    # Its one head of keys and its 281 tokens do not divide.
    *(
      f"--config.{rules}.{axis}=None"
      for rules in ("rules", "rollout_rules")
      for axis in ("kv_heads", "vocab")
    ),
    processes=processes,
  )
  status, lines = end(run)
  assert status == 0, "\n".join(lines)
  assert_same_run(tmp_path, whole.workdir)


def test_two_processes_write_nothing_twice(two):
  workdir, lines = two
  with open(workdir / "metrics.csv", newline="") as file:
    steps = [int(row["update_step"]) for row in csv.DictReader(file)]
  # 16 steps of sft and 2 validations, 6 and 6 of srl; before and after them.
  assert len(steps) == 16 + 2 + 6 + 6 + 3
  assert len(list((workdir / "tensorboard").iterdir())) == 1
  for line in lines:
    assert line.startswith("[0] "), f"said by another than process 0: {line}"
  assert "(2 process(es))" in lines[0]
  said = [
    x for x in lines if re.match(r"\[0\] (sft|srl) +\d+/\d+  loss|rew", x)
  ]
  assert len(set(said)) == len(said)
  # Both hold the same pool.
  pools = workdir / "stages" / "1_srl" / "steps" / "6" / "pool"
  assert len(list(pools.glob("*.npz"))) == 1


@pytest.mark.slow
def test_sigterm_stops_both_processes_together(runs, two, tmp_path):
  workdir, _ = two
  process = launch(runs, tmp_path, "sft_srl")
  lines = []
  while not (lines and "srl 2/6" in lines[-1]):
    lines.append(process.stdout.readline())
    assert process.poll() is None, "".join(lines)
  process.send_signal(signal.SIGTERM)
  status, lines = end(process)
  assert status == 143
  stopped = [x for x in lines if "asked to stop; update step" in x]
  assert [x[:4] for x in sorted(stopped)] == ["[0] ", "[1] "]
  status, lines = end(launch(runs, tmp_path, "sft_srl"))
  assert status == 0, "\n".join(lines)
  # The same two processes: not a bit may differ.
  assert experiment.metric_rows(tmp_path) == experiment.metric_rows(workdir)
  weights = [
    (x / "model/model.safetensors").read_bytes() for x in (tmp_path, workdir)
  ]
  assert weights[0] == weights[1]


@pytest.mark.slow
def test_processes_need_not_agree_on_rewards(runs, tmp_path):
  """They save the best parameters together, or not at all."""
  reward = f"{experiment.__name__}:{experiment.uneven.__name__}"
  changes = (
    f"--config.srl.reward.function={reward}",
    "--config.srl.validate_every=1",
    "--config.reward_workers.count=0",
  )
  status, lines = end(launch(runs, tmp_path, "sft_srl", *changes))
  assert status == 0, "\n".join(lines)


def test_an_error_ends_both_processes_with_its_message(runs, tmp_path):
  wrong = "--config.srl.sampling.trunks_per_round=3"
  status, lines = end(launch(runs, tmp_path, "srl", wrong))
  assert status == 2
  said = [x for x in lines if "c.srl.sampling.trunks_per_round=3 does n" in x]
  assert said
  assert not any("Traceback" in x for x in lines)


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(runs, whole, tmp_path):
  from srl_jax import run as run_lib

  config = runs.config(
    "sft_srl",
    srl__trunks_per_micro_batch=8,
    mesh__data=2,
    mesh__fsdp=4,
  )
  run_lib.train_and_evaluate(config, tmp_path)
  assert_close(rows_of(tmp_path), rows_of(whole.workdir))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [4, 8])
def test_more_processes_give_the_numbers_of_one(
  runs, whole, tmp_path, processes
):
  # A trunk of each micro-batch for each process.
  flags = [
    f"--config.{stage}.trunks_per_micro_batch=8" for stage in ("sft", "srl")
  ]
  run = launch(runs, tmp_path, "sft_srl", *flags, processes=processes)
  status, lines = end(run)
  assert status == 0, "\n".join(lines)
  assert_same_run(tmp_path, whole.workdir)


@pytest.mark.slow
def test_rounds_that_share_slots_are_the_same_on_two_processes(runs, tmp_path):
  sampling = {"rows": 4, "slots": 4, "trunks_per_round": 4}
  changes = {f"srl__sampling__{name}": x for name, x in sampling.items()}
  one = runs.run(tmp_path / "one", "sft_srl", **changes)
  flags = [f"--config.srl.sampling.{name}={x}" for name, x in sampling.items()]
  status, lines = end(launch(runs, tmp_path / "two", "sft_srl", *flags))
  assert status == 0, "\n".join(lines)
  assert_same_run(tmp_path / "two", one.workdir)


@pytest.mark.slow
def test_outcomes_of_episodes_are_the_same_on_two_processes(
  runs, whole, tmp_path
):
  changes = {
    "weights": str(whole.workdir / "model"),
    "tokenizer.path": str(whole.workdir / "tokenizer.model"),
    "tokenizer.train_vocab_size": 0,
  }
  in_process = {name.replace(".", "__"): x for name, x in changes.items()}
  one = runs.run(tmp_path / "one", "episodes", **in_process)
  flags = [f"--config.{name}={x}" for name, x in changes.items()]
  status, lines = end(launch(runs, tmp_path / "two", "episodes", *flags))
  assert status == 0, "\n".join(lines)
  assert_same_run(tmp_path / "two", one.workdir)
  updates = [x for x in one.rows() if x.get("episodes/skipped_updates") == 0]
  assert updates, "nothing was trained on"
