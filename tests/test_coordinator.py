# SPDX-License-Identifier: Apache-2.0
"""Processes of one run: who may reach them, and how they end together."""

import pathlib
import socket
import subprocess
import sys
import time

import pytest

JOIN = """
import sys
from srl_jax.processes import joining
joining.join(sys.argv[1], 1, 0)
print("joined", flush=True)
sys.stdin.readline()
"""
FAILS = """
import sys, time
import jax
from srl_jax import main

def load_config(*_):
  if jax.process_index() == 0:
    time.sleep(600)
  raise {error}("only here")

main.config_lib.load = load_config
main.command()
"""
_LISTENS = "0A"
_NOWHERE_ELSE = {
  "0100007F",
  "00000000000000000000000001000000",
  "0000000000000000FFFF00000100007F",
}


def listening_addresses(port):
  """Addresses, as the kernel writes them, on which the port is open."""
  for name in ("tcp", "tcp6"):
    lines = pathlib.Path("/proc/net", name).read_text().splitlines()[1:]
    for local, _, state in (line.split()[1:4] for line in lines):
      address, _, number = local.partition(":")
      if state == _LISTENS and int(number, 16) == port:
        yield address


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_coordinator_of_a_local_run_listens_on_localhost_only():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  with subprocess.Popen(
    [sys.executable, "-c", JOIN, f"localhost:{port}"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      assert process.stdout.readline() == "joined\n"
      found = set(listening_addresses(port))
      assert found and found <= _NOWHERE_ELSE
    finally:
      process.kill()


@pytest.mark.parametrize("error", ["ValueError", "KeyError"])
def test_an_error_in_one_process_ends_all_soon(error):
  command = [sys.executable, "-m", "launch.local", "--processes=2", "--"]
  code = FAILS.format(error=error)
  with subprocess.Popen(
    [*command, sys.executable, "-c", code],
    stdout=subprocess.PIPE,
    text=True,
    cwd=pathlib.Path(__file__).parents[1],
  ) as process:
    said_s = None
    for line in process.stdout:
      if "only here" in line:
        said_s = time.monotonic()
    assert process.wait() == (2 if error == "ValueError" else 1)
  # Ten on a machine that is not busy; without it, five minutes in a barrier.
  assert time.monotonic() - said_s < 60


ENDS_LATER = """
import pathlib, sys, time
import jax
from srl_jax import main

workdir, *flags = sys.argv[1:]
model = pathlib.Path(workdir) / "model"

def train_and_evaluate(config, workdir):
  if jax.process_index() == 0:
    time.sleep(2)
    model.touch()

main.train_and_evaluate = train_and_evaluate
try:
  main.command(["main", "--config=registers", f"--workdir={workdir}", *flags])
finally:
  print("written:", model.exists(), flush=True)
"""


def test_no_process_ends_before_the_first(tmp_path):
  command = [sys.executable, "-m", "launch.local", "--processes=2", "--"]
  done = subprocess.run(
    [*command, sys.executable, "-c", ENDS_LATER, str(tmp_path)],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[1],
    timeout=100,
    check=False,
  )
  assert done.stdout.count("written: True") == 2, done.stdout + done.stderr


WAITS = """
import time
from srl_jax import main

def load_config(*_):
  print("joined", flush=True)
  time.sleep(600)

main.config_lib.load = load_config
main.command()
"""


def start(index, *flags):
  """Starts one of two processes that find each other and then wait."""
  return subprocess.Popen(
    [
      *(sys.executable, "-c", WAITS, "--num_processes=2"),
      *(f"--process_id={index}", *flags),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=pathlib.Path(__file__).parents[1],
  )


@pytest.fixture
def address():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return f"--coordinator_address=localhost:{probe.getsockname()[1]}"


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_others(address):
  first, second = (start(i, address, "--lost_host_s=10") for i in range(2))
  with first, second:
    try:
      for process in (first, second):
        while process.stdout.readline() != "joined\n":
          assert process.poll() is None
      second.kill()
      killed_s = time.monotonic()
      said, _ = first.communicate(timeout=100)
    finally:
      first.kill()
      second.kill()
  assert first.returncode
  assert "stopped sending heartbeats" in said
  # By default it would take 30.
  assert time.monotonic() - killed_s < 25


@pytest.mark.slow
def test_a_process_that_never_comes_is_waited_for_so_long(address):
  with start(0, address, "--join_s=5") as process:
    try:
      said, _ = process.communicate(timeout=100)
    finally:
      process.kill()
  assert process.returncode
  assert "DEADLINE_EXCEEDED" in said
