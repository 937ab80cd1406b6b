# SPDX-License-Identifier: Apache-2.0
"""A pod's script, from its creation to its end, on hosts that are processes."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch.pods import gcloud

ROOT = pathlib.Path(__file__).parents[2]

# Stands in for the package on a host: counts steps in a file that outlives it,
# saves on SIGTERM, and fails or is lost where it is told to.
RUN = """
import os, pathlib, signal, sys, time
assert sys.argv[1:3] == ["-m", "srl_jax.main"], sys.argv
assert pathlib.Path("experiments/registers.py").is_file()
flags = dict(x[2:].split("=", 1) for x in sys.argv[3:])
bucket = pathlib.Path(os.environ["FAKE_GCLOUD"], "bucket")
bucket.mkdir(exist_ok=True)
me = int(flags["process_id"])
(bucket / f"host-{me}").write_text(flags["num_processes"])
def end(*_):
  time.sleep(float(os.environ.get("FAKE_SAVE_S", "0")))
  (bucket / "saved").touch()
  sys.exit(143)
signal.signal(signal.SIGTERM, end)
saved = bucket / "steps"
first = len(saved.read_text().splitlines()) if saved.exists() else 0
print("note:", flags["config.note"], "from", first, flush=True)
got = [os.environ.get(name) for name in ("HF_TOKEN", "NOTE")]
got += [x.name for x in pathlib.Path("..").glob("*.env")]
(bucket / f"variables-{me}").write_text(repr(got))
if (code := pathlib.Path("srl_jax/code.txt")).exists():
  with (bucket / "code").open("a") as file:
    file.write(code.read_text())
if status := os.environ.get("FAKE_RUN"):
  sys.exit(int(status))
for step in range(first, int(os.environ.get("FAKE_STEPS", "12"))):
  time.sleep(0.1)
  if me == 0:
    with saved.open("a") as file:
      file.write(f"{step}\\n")
"""


def commands(cloud):
  lines = (cloud / "commands.jsonl").read_text().splitlines()
  return [json.loads(x) for x in lines]


@pytest.fixture
def cloud(fake_cloud, tmp_path, monkeypatch):
  """A cloud whose hosts run a stand-in for the package."""
  run = tmp_path / "run.py"
  run.write_text(RUN)
  python = tmp_path / "tools/host_python"
  # Without site-packages, which would take half of the time.
  python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {run} "$@"\n')
  python.chmod(0o755)
  monkeypatch.setenv("FAKE_PYTHON", str(python))
  return fake_cloud


@pytest.fixture
def script(cloud, make):
  """The script of a pod."""
  file = cloud.parent / "pod.sh"
  file.write_text(gcloud.write(make(), "pod.sh"))
  return file


def start(file, *verb, cwd=ROOT):
  return subprocess.Popen(
    ["bash", str(file), *verb],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=cwd,
  )


def end(process):
  output, _ = process.communicate(timeout=60)
  return process.returncode, output


def wait_for(file, lines=1):
  end_s = time.monotonic() + 60
  while not file.exists() or len(file.read_text().splitlines()) < lines:
    assert time.monotonic() < end_s, f"{file} did not come"
    time.sleep(0.05)


@pytest.mark.parametrize(
  "grace_s",
  # Time to save and end with a status, or none at all.
  ["20", pytest.param("0", marks=pytest.mark.slow)],
)
def test_a_pod_is_made_runs_is_preempted_goes_on_and_is_deleted(
  cloud, script, grace_s, monkeypatch
):
  monkeypatch.setenv("FAKE_GRACE_S", grace_s)
  process = start(script)
  wait_for(cloud / "bucket/steps", 3)
  subprocess.run(["gcloud", "preempt", "srl-test"], check=True)
  status, output = end(process)
  assert status == 0, output
  steps = (cloud / "bucket/steps").read_text().splitlines()
  assert steps == [str(x) for x in range(12)], "each step once"
  assert not script.with_name("srl-test.tgz").exists()
  # Two pods, of two hosts each, and nothing is left of them.
  verbs = [words[3] for words in commands(cloud) if words[0] == "compute"]
  assert verbs.count("create") == 2 and verbs[-1] == "delete"
  assert (cloud / "bucket/host-1").read_text() == "2"
  assert not list((cloud / "hosts").iterdir())
  assert "going on from the last checkpoint" in output
  asked = [x for x in commands(cloud) if x[3:4] == ["create"]]
  assert asked[0] == asked[1]
  flags = dict(re.findall(r"--([\w-]+)=(\S+)", " ".join(asked[0])))
  assert flags == {
    "node-id": "srl-test",
    "accelerator-type": "v5p-128",
    "runtime-version": "v2-alpha-tpuv5",
    "zone": "us-east5-a",
  }
  assert "--spot" in asked[0]
  # Quotes in an override came through two shells.
  [log] = cloud.glob("log-0-*")
  assert "note: it's on from 0" in log.read_text()


def test_the_run_gets_its_variables_and_a_missing_secret_is_said(
  cloud, make, monkeypatch
):
  variables = {"HF_TOKEN": None, "NOTE": "it's on"}
  file = cloud.parent / "pod.sh"
  file.write_text(gcloud.write(make(environment=variables), "pod.sh"))
  monkeypatch.delenv("HF_TOKEN", raising=False)
  status, output = end(start(file))
  assert status == 2 and "type: export HF_TOKEN=VALUE" in output
  assert not cloud.exists()
  monkeypatch.setenv("HF_TOKEN", "a 'quoted' value")
  status, output = end(start(file))
  assert status == 0, output
  got = repr(["a 'quoted' value", "it's on"])
  for host in range(2):
    assert (cloud / f"bucket/variables-{host}").read_text() == got
  # gcloud keeps a log of its command lines.
  assert "quoted" not in (cloud / "commands.jsonl").read_text()


@pytest.mark.parametrize(("failure", "starts"), [("1", 4), ("2", 1)])
def test_what_may_pass_is_tried_again_and_then_the_pod_stays(
  failure, starts, cloud, script, monkeypatch
):
  monkeypatch.setenv("FAKE_RUN", failure)
  monkeypatch.setenv("STOPPED_S", "0")
  status, output = end(start(script))
  assert status == int(failure)
  assert output.count("starting the run") == starts
  assert "note: it's on from 0" in output, "the end of the log"
  said = f"ended with status {failure}. If the pod is there, it costs money"
  assert said in output
  assert [x[3] for x in commands(cloud)].count("create") == 1
  # The same script deletes it.
  assert end(start(script, "delete"))[0] == 0
  assert not list((cloud / "resources").glob("*.json"))


@pytest.mark.parametrize(
  "lost", ["one question", pytest.param("", marks=pytest.mark.slow)]
)
def test_a_script_that_was_killed_takes_up_the_run_where_it_is(
  lost, cloud, script, monkeypatch
):
  process = start(script)
  wait_for(cloud / "bucket/steps", 2)
  process.kill()
  process.communicate()
  # A run whose host does not answer once is not started over.
  monkeypatch.setenv("FAKE_LOST", lost)
  status, output = end(start(script))
  assert status == 0, output
  steps = (cloud / "bucket/steps").read_text().splitlines()
  assert steps == [str(x) for x in range(12)]
  assert "installing" not in output and "asking for" not in output


def test_a_host_that_was_out_of_reach_is_started_too(
  cloud, script, monkeypatch
):
  monkeypatch.setenv("FAKE_UNREACHED", "1")
  status, output = end(start(script))
  assert status == 0, output
  assert len([*(cloud / "bucket").glob("host-*")]) == 2


def test_a_script_of_the_same_name_leaves_another_run_alone(
  cloud, script, make
):
  other = cloud.parent / "other.sh"
  pod = make(workdir="gs://bucket/other")
  other.write_text(gcloud.write(pod, "other.sh"))
  process = start(script)
  wait_for(cloud / "bucket/steps", 2)
  status, output = end(start(other))
  assert status == 2 and "another run is running on srl-test" in output
  status, output = end(process)
  assert status == 0, output


def test_a_run_that_is_stopped_by_hand_saves_and_is_not_started_again(
  cloud, script, monkeypatch
):
  monkeypatch.setenv("FAKE_SAVE_S", "1")
  monkeypatch.setenv("FAKE_STEPS", "600")
  process = start(script)
  wait_for(cloud / "bucket/steps", 2)
  status, output = end(start(script, "stop"))
  assert status == 0 and "the run: stopped 143" in output
  assert (cloud / "bucket/saved").exists(), "`stop` waits"
  # As docs/cloud.md has it.
  assert end(start(script, "delete"))[0] == 0
  status, output = end(process)
  assert status in (1, 143), output  # It may see the pod go first.
  assert output.count("asking for") == 1 and "going on" not in output


def test_a_pod_that_somebody_deletes_is_not_made_anew(
  cloud, script, monkeypatch
):
  monkeypatch.setenv("FAKE_STEPS", "600")
  process = start(script)
  wait_for(cloud / "bucket/steps", 2)
  end(start(script, "delete"))
  status, output = end(process)
  assert status == 1 and "the pod was deleted" in output
  assert output.count("asking for") == 1


def test_a_host_that_restarts_and_stops_the_run_starts_it_again(
  cloud, script, monkeypatch
):
  monkeypatch.setenv("STOPPED_S", "1")
  monkeypatch.setenv("FAKE_STEPS", "24")
  process = start(script)
  wait_for(cloud / "bucket/steps", 2)
  for file in cloud.glob("hosts/srl-test/*/srl-test/pid"):
    os.killpg(int(file.read_text()), signal.SIGTERM)
  status, output = end(process)
  assert status == 0, output
  assert "the run ended with status 143" in output
  assert [x[3] for x in commands(cloud)].count("create") == 1
  steps = (cloud / "bucket/steps").read_text().splitlines()
  assert steps == [str(x) for x in range(24)]


@pytest.mark.parametrize(
  "failing",
  # Hosts that boot do not answer for minutes.
  ["describe 2", "create 1", "--worker=all 3"],
)
def test_what_fails_a_few_times_is_tried_again(
  failing, cloud, script, monkeypatch
):
  monkeypatch.setenv("FAKE_FAILS", failing)
  status, output = end(start(script))
  assert status == 0, output
  word, times = failing.split()
  assert output.count(f"{word}: network is unreachable") == int(times)
  assert output.count("starting the run") == 1


def test_a_run_that_is_started_again_keeps_its_code_and_its_logs(
  cloud, script, tmp_path, monkeypatch
):
  monkeypatch.setenv("FAKE_RUN", "1")
  monkeypatch.setenv("STOPPED_S", "1")
  checkout = tmp_path / "checkout"
  for name in gcloud.PACKED:
    (checkout / name).parent.mkdir(exist_ok=True)
    if name in ("srl_jax", "launch"):
      (checkout / name).mkdir()
    elif (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, checkout / name)
    else:
      shutil.copy(ROOT / name, checkout / name)
  code = checkout / "srl_jax/code.txt"
  code.write_text("as it was\n")
  process = start(script, cwd=checkout)
  wait_for(cloud / "bucket/code")
  code.write_text("half edi\n")
  wait_for(cloud / "bucket/code", 4)
  process.kill()
  process.communicate()
  assert (cloud / "bucket/code").read_text() == "as it was\n" * 4
  logs = (cloud / "hosts/srl-test/1/srl-test").glob("log*")
  notes = ["note: it's on" in x.read_text() for x in logs]
  assert notes == [True, True]
  pack = script.with_name("srl-test.tgz")
  pack.unlink()
  monkeypatch.setenv("FAKE_RUN", "2")
  _, output = end(start(script, cwd=checkout))
  assert "half edi" in (cloud / "bucket/code").read_text()
  assert f"with other code, remove {pack} first" in output


def test_what_gcloud_refuses_is_shown_and_ends_the_script(
  cloud, script, monkeypatch
):
  monkeypatch.setenv("FAKE_GCLOUD_FAILS", "PERMISSION_DENIED: log in first")
  monkeypatch.setenv("ASKS", "3")
  status, output = end(start(script))
  assert status == 1
  assert output.count("PERMISSION_DENIED: log in first") == 3
