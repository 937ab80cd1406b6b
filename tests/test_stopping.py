# SPDX-License-Identifier: Apache-2.0
"""Signals end a process at once, or let it save."""

import signal
import subprocess
import sys
import time

import pytest

# Minutes in C, as in a compilation: a handler in Python would not run.
BUSY = """
import hashlib
from srl_jax import stopping
stopping.listen()
print("started", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
SAVES = """
import sys, time
from srl_jax import stopping
stopping.listen()
with stopping.saving() as is_asked:
  print("started", flush=True)
  while not is_asked():
    time.sleep(0.01)
  print("saved", flush=True)
  if sys.argv[1] == "raise":
    sys.exit(stopping.status())
"""


@pytest.fixture
def start():
  started = []

  def call(code, *arguments):
    process = subprocess.Popen(
      [sys.executable, "-c", code, *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    started.append(process)
    assert process.stdout.readline() == "started\n"
    return process

  yield call
  for process in started:
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_ends_what_cannot_be_saved_at_once(start, number, status):
  process = start(BUSY)
  begin_s = time.monotonic()
  process.send_signal(number)
  output, _ = process.communicate(timeout=30)
  assert time.monotonic() - begin_s < 10
  assert process.returncode == status
  assert output.startswith("asked to stop while nothing was trained")
  assert output.count("\n") == 1, "no traceback"


@pytest.mark.parametrize("end", ["raise", "return"])
@pytest.mark.parametrize(
  ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_lets_training_save(start, number, status, end):
  process = start(SAVES, end)
  process.send_signal(number)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == status
  assert output.splitlines()[0].startswith("asked to stop: saving after this")
  assert "saved" in output.splitlines()
