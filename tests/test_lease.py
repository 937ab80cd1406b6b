# SPDX-License-Identifier: Apache-2.0
"""Tests of the lock of a working directory in a bucket."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from srl_jax import lease, storage
from srl_jax.workdir import locked

# Sockets of the client are closed at the end.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def folder(bucket, request):
  return storage.path(f"{bucket}/{request.node.name}")


def test_a_second_run_is_refused_while_the_first_renews_its_lock(
  folder, monkeypatch
):
  monkeypatch.setattr(lease, "_RENEWED_EVERY_S", 0.05)
  with (
    locked(folder),
    pytest.raises(ValueError, match="another run is working in gs://"),
    locked(folder),
  ):
    pass
  with locked(folder):  # It was given back.
    pass


def dead_lock(folder, machine):
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  lines = f"{dead.pid} {socket.gethostname()}", "id", "3", machine
  (folder / "run.lock").write_text("\n".join(lines))


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_at_once(folder):
  dead_lock(folder, lease._machine())
  start_s = time.monotonic()
  with locked(folder):
    assert str(os.getpid()) in (folder / "run.lock").read_text()
  assert time.monotonic() - start_s < lease._DEAD_AFTER_S / 2
  assert not list(folder.glob("run.lock*"))


def test_the_lock_of_another_machine_is_taken_when_nobody_renews_it(
  folder, monkeypatch
):
  monkeypatch.setattr(lease, "_DEAD_AFTER_S", 1.5)
  dead_lock(folder, "another machine")
  start_s = time.monotonic()
  with locked(folder):
    assert time.monotonic() - start_s > 1.5


def test_one_of_several_takes_a_dead_lock_over(folder):
  dead_lock(folder, lease._machine())
  held, refused, done = [], [], threading.Event()

  def take():
    try:
      with lease.Lease(folder / "run.lock", "1 here", ValueError):
        held.append(1)
        done.wait(20)
    except ValueError:
      refused.append(1)

  monitor = [threading.Thread(target=take) for _ in range(4)]
  for thread in monitor:
    thread.start()
  end_s = time.monotonic() + 20
  while len(held) + len(refused) < 4 and time.monotonic() < end_s:
    # A loser may be waiting to see whether the winner lives.
    if len(held) == 1:
      break
    time.sleep(0.05)
  time.sleep(0.5)
  assert len(held) == 1
  done.set()
