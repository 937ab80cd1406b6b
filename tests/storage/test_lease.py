# SPDX-License-Identifier: Apache-2.0
"""Tests of the lock of a working directory in a bucket."""

import os
import queue
import socket
import subprocess
import sys
import threading
import time

import pytest

from srl_jax import storage
from srl_jax.storage import lease
from srl_jax.storage.workdir import locked

# Sockets of the client are closed at the end.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_a_second_run_is_refused_while_the_first_renews_its_lock(
  folder, monkeypatch
):
  monkeypatch.setattr(lease, "_RENEWED_EVERY_S", 0.05)
  with locked(folder):
    with (
      pytest.raises(ValueError, match="another run is working in gs://"),
      locked(folder),
    ):
      pass
    # It is written again and again, not only once.
    generations, end_s = set(), time.monotonic() + 10
    while len(generations) < 4 and time.monotonic() < end_s:
      generations.add(storage.read_generation(folder / "run.lock")[1])
      time.sleep(0.05)
    assert len(generations) == 4
  with locked(folder):  # It was given back.
    pass


def test_a_run_whose_lock_was_taken_over_ends(folder, monkeypatch):
  codes = queue.SimpleQueue()
  monkeypatch.setattr(lease, "_RENEWED_EVERY_S", 0.05)
  monkeypatch.setattr(lease.os, "_exit", codes.put)
  with locked(folder):
    (folder / "run.lock").write_text("9 other\nnew\nelsewhere")
    assert codes.get(timeout=10) == 1


def test_a_lock_that_is_given_back_meanwhile_is_taken(folder, monkeypatch):
  monkeypatch.setattr(lease, "_DEAD_AFTER_S", 30.0)
  dead_lock(folder, "another machine")
  gone = threading.Timer(1.5, (folder / "run.lock").unlink)
  gone.start()
  with locked(folder):
    assert str(os.getpid()) in (folder / "run.lock").read_text()
  gone.join()


def dead_lock(folder, machine):
  dead = subprocess.Popen([sys.executable, "-c", ""])
  dead.wait()
  lines = f"{dead.pid} {socket.gethostname()}", "id", machine
  (folder / "run.lock").write_text("\n".join(lines))


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_at_once(folder):
  dead_lock(folder, lease._machine())
  start_s = time.monotonic()
  with locked(folder):
    assert str(os.getpid()) in (folder / "run.lock").read_text()
  assert time.monotonic() - start_s < lease._DEAD_AFTER_S / 2
  assert not list(folder.glob("run.lock*"))


def other_container(folder):
  """The same machine, where another process may have the number."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(lease.os, "readlink", lambda _: "pid:[1]")
    machine = lease._machine()
  dead_lock(folder, machine)


@pytest.mark.parametrize(
  "lock",
  [
    lambda folder: dead_lock(folder, "another machine"),
    other_container,
    # A folder that was copied from a disk.
    lambda folder: (folder / "run.lock").write_text("123 here\n"),
    lambda folder: (folder / "run.lock").write_text(""),
  ],
  ids=["another machine", "another container", "from a disk", "empty"],
)
def test_any_other_lock_is_taken_when_nobody_renews_it(
  folder, monkeypatch, lock
):
  monkeypatch.setattr(lease, "_DEAD_AFTER_S", 1.5)
  lock(folder)
  start_s = time.monotonic()
  with locked(folder):
    assert time.monotonic() - start_s > 1.5


def test_one_of_several_takes_a_dead_lock_over(folder, monkeypatch):
  monkeypatch.setattr(lease, "_RENEWED_EVERY_S", 0.05)
  dead_lock(folder, lease._machine())
  held, refused, are_done = [], [], threading.Event()

  def take():
    try:
      # Process 1 lives, so the others watch the lock of the one that has it.
      with lease.Lease(folder / "run.lock", "1 here", ValueError):
        held.append(1)
        are_done.wait(30)
    except ValueError:
      refused.append(1)
    if len(refused) == 3:
      are_done.set()

  threads = [threading.Thread(target=take) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(held) == 1 and len(refused) == 3
  assert not list(folder.glob("run.lock*"))


def test_who_finds_a_dead_lock_taken_over_meanwhile_is_refused(
  folder, monkeypatch
):
  dead_lock(folder, lease._machine())
  replace = storage.replace

  def replace_late(path, text, generation):
    path.write_text("9 other\nnew\nelsewhere")  # Another was faster.
    return replace(path, text, generation)

  monkeypatch.setattr(storage, "replace", replace_late)
  with (
    pytest.raises(ValueError, match="process 9 on other"),
    locked(folder),
  ):
    pass
  assert (folder / "run.lock").read_text().startswith("9 other")


def test_a_request_that_is_repeated_finds_its_own_lock(folder, monkeypatch):
  replace = storage.replace

  def replace_twice(*arguments):
    # The answer to the first was lost.
    assert replace(*arguments)
    return replace(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(storage, "replace", replace_twice)
    with locked(folder):
      pass
  assert not (folder / "run.lock").exists()
