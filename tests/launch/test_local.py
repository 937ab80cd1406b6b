# SPDX-License-Identifier: Apache-2.0
"""The local launcher: the flags of each process, and how a launch ends."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PROLOGUE = """
import os, signal, subprocess, sys, time
flags = dict(flag.removeprefix("--").split("=") for flag in sys.argv[1:])
me = int(flags["process_id"])
"""


def start(script, processes=2):
  launcher = [sys.executable, "-m", "launch.local", f"--processes={processes}"]
  command = [sys.executable, "-c", PROLOGUE + textwrap.dedent(script)]
  return subprocess.Popen(
    [*launcher, "--", *command],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def launch(script, processes=2):
  with start(script, processes) as launcher:
    output, _ = launcher.communicate(timeout=60)
  return launcher.returncode, output.splitlines()


def wait_for(launcher, line):
  while (got := launcher.stdout.readline().rstrip("\n")) != line:
    assert launcher.poll() is None, f"ended before {line!r}; last: {got!r}"


def is_alive(pid):
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False


def test_every_process_learns_its_place_and_the_same_coordinator():
  status, lines = launch(
    "print(flags['num_processes'], me, flags['coordinator_address'])", 3
  )
  assert status == 0
  found = [re.fullmatch(r"\[(\d)\] 3 (\d) (localhost:\d+)", x) for x in lines]
  assert sorted((m[1], m[2]) for m in found) == [
    ("0",) * 2,
    ("1",) * 2,
    ("2",) * 2,
  ]
  assert len({m[3] for m in found}) == 1


def test_both_streams_are_prefixed_and_lines_come_at_once(monkeypatch):
  monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
  # With buffering, the launcher would hold the line until the end.
  with start("print('out'); time.sleep(600)", 1) as launcher:
    wait_for(launcher, "[0] out")
    launcher.terminate()
  _, lines = launch("print('err', file=sys.stderr)", 1)
  assert lines == ["[0] err"]


def test_one_that_fails_ends_the_others_and_its_status_is_passed_on(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("READY", str(tmp_path / "ready"))
  status, lines = launch(
    """
    def asked(*_):
      print("asked to end")
      sys.exit(3)
    signal.signal(signal.SIGTERM, asked)
    if me == 0:
      open(os.environ["READY"], "w").close()
      time.sleep(600)
    while not os.path.exists(os.environ["READY"]):
      time.sleep(0.01)
    sys.exit(7)
    """
  )
  assert status == 7
  assert lines[:2] == [
    "[launch] process 1 ended with status 7",
    "[launch] ending the others",
  ]
  assert sorted(lines[2:]) == ["[0] asked to end"]


def test_one_that_is_killed_counts_as_128_and_the_signal():
  status, lines = launch(
    "os.kill(os.getpid(), signal.SIGKILL) if me == 0 else time.sleep(600)"
  )
  assert status == 128 + 9
  assert lines[0] == "[launch] process 0 ended with status 137"


def test_one_that_ends_well_lets_the_others_go_on():
  status, lines = launch("time.sleep(me); print('done')")
  assert (status, lines) == (0, ["[0] done", "[1] done"])


SAVES_ON_SIGTERM = """
def save(*_):
  print("saved")
  sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready")
time.sleep(600)
"""


def test_sigterm_is_passed_on_so_that_the_processes_can_save():
  with start(SAVES_ON_SIGTERM) as launcher:
    for _ in range(2):
      assert launcher.stdout.readline().endswith("ready\n")
    launcher.send_signal(signal.SIGTERM)
    rest = launcher.communicate(timeout=60)[0].splitlines()
  assert launcher.returncode == 0
  assert sorted(rest)[:2] == ["[0] saved", "[1] saved"]


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid)
time.sleep(600)
"""


def test_a_second_signal_ends_everything_that_was_started_at_once():
  with start(STUBBORN, 1) as launcher:
    child = int(launcher.stdout.readline().split()[-1])
    launcher.send_signal(signal.SIGTERM)
    wait_for(launcher, "[launch] passing SIGTERM on; once more ends at once")
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
  assert launcher.returncode == 128 + 9
  deadline_s = time.monotonic() + 60
  while is_alive(child) and time.monotonic() < deadline_s:
    time.sleep(0.05)
  assert not is_alive(child)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--processes=0", "--", "true"], "--processes is 0; use 1 or more"),
    (["--processes=2"], "no command; write it last"),
    (
      ["--processes=1", "--", "no-such-command"],
      "cannot start no-such-command",
    ),
  ],
)
def test_wrong_arguments_end_in_one_clear_message(arguments, message):
  done = subprocess.run(
    [sys.executable, "-m", "launch.local", *arguments],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 2
  assert message in done.stderr
  assert "Traceback" not in done.stderr


DISTRIBUTED = """
import jax, numpy as np
jax.distributed.initialize(
  flags["coordinator_address"], int(flags["num_processes"]), me
)
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from srl_jax import checkpoint, metrics

directory = os.environ["DIRECTORY"]
with metrics.MetricWriter(directory) as writer:
  writer.write(0, {"process": me})
mesh = jax.make_mesh((jax.device_count(),), ("data",))
sharding = NamedSharding(mesh, P("data"))
w = jax.make_array_from_callback((8,), sharding, lambda i: np.arange(8.0)[i])
template = {"w": jax.ShapeDtypeStruct((8,), w.dtype, sharding=sharding)}
config = checkpoint.CheckpointConfig()
with checkpoint.Checkpointer(directory, config) as saver:
  for step in (1, 2):
    saver.save(step, {"w": w * step}, {"p": np.full(2, step)}, {"s": step})
    saver.save_best(step, {"w": w * step}, float(step))
with checkpoint.Checkpointer(directory, config) as saver:
  state, pool, meta = saver.restore(saver.latest_step(), template)
  best = saver.restore_best(template)
  for tree in (state, best):
    for shard in tree["w"].addressable_shards:
      np.testing.assert_array_equal(shard.data, 2 * np.arange(8.0)[shard.index])
  print("pool", pool["p"].tolist(), meta, saver.best())
"""


def test_two_processes_share_metrics_and_checkpoints(tmp_path):
  environment = {"DIRECTORY": str(tmp_path), "XLA_FLAGS": ""}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in environment.items():
      patch.setenv(name, value)
    status, lines = launch(DISTRIBUTED)
  assert status == 0, "\n".join(lines)
  said = {line for line in lines if re.match(r"\[\d\] pool", line)}
  assert said == {
    "[0] pool [2, 2] {'s': 2} (2, 2.0)",
    "[1] pool [2, 2] {'s': 2} (2, 2.0)",
  }
  # Only process 0 writes metrics.
  assert (tmp_path / "metrics.csv").read_text().split() == [
    "update_step,process",
    "0,0.0",
  ]
  assert os.listdir(tmp_path / "steps" / "2" / "pool")
