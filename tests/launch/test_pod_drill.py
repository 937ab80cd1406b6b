# SPDX-License-Identifier: Apache-2.0
"""A whole pod: made, trained on, preempted, gone on, finished and deleted."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from srl_jax import storage
from srl_jax.metrics import read_rows
from srl_jax.testing import experiment

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings(
  "ignore::ResourceWarning", "ignore::DeprecationWarning"
)


@pytest.mark.slow
def test_a_run_outlives_the_preemption_of_its_pod(
  fake_cloud, bucket, tmp_path, monkeypatch
):
  # Two hosts with a device each. A run in a bucket waits for the lock of one
  # that was lost; this one gives it back when it is told to end.
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setenv("FAKE_GRACE_S", "60")
  monkeypatch.setenv("POLL_S", "1")
  data = storage.path(f"{bucket}/pod/data.jsonl")
  local = experiment.write_data(tmp_path / "data.jsonl")
  storage.upload(pathlib.Path(local), data)
  workdir = storage.path(f"{bucket}/pod/run")
  command = [
    *(sys.executable, "-m", "launch.pod", "--as=gcloud", "--go"),
    *("--type=v5p-16", "--zone=us-east5-a", "--name=drill"),
    f"--out={tmp_path}",
    "--config=srl_jax/testing/experiment.py:sft_srl",
    f"--config.data.path={data}",
    "--config.checkpoint.every_update_steps=1",
    f"--workdir={workdir}",
  ]
  with subprocess.Popen(
    command,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  ) as process:
    end_s = time.monotonic() + 600
    steps = workdir / "stages/1_srl/steps"
    while not list(steps.glob("2/commit_success*")):
      assert process.poll() is None, process.stdout.read()
      assert time.monotonic() < end_s
      time.sleep(0.5)
    subprocess.run(["gcloud", "preempt", "drill"], check=True)
    output, _ = process.communicate(timeout=900)
  assert process.returncode == 0, output
  rows = read_rows(workdir / "metrics.jsonl")
  # 16 update steps of sft and 6 of srl, each once.
  trained = [x for x in rows if "sft/tokens_trained" in x or "srl/loss" in x]
  assert [x["update_step"] for x in trained] == list(range(22))
  first = max(fake_cloud.glob("log-0-*")).read_text()
  assert "asked to stop; update step" in first, "saved before it was taken"
  assert (workdir / "results.json").exists()
  assert (workdir / "model/config.json").exists()
  assert "going on from the last checkpoint" in output
  assert not os.listdir(fake_cloud / "hosts")
  assert not list((fake_cloud / "resources").glob("*.json"))
