# SPDX-License-Identifier: Apache-2.0
"""One run at a time works in a folder."""

import os
import socket
import subprocess
import sys

import pytest

from srl_jax.storage.workdir import locked

HOLDER = """
import pathlib, sys
from srl_jax.storage.workdir import locked
with locked(pathlib.Path(sys.argv[1])):
  print("locked", flush=True)
  sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path):
  command = [sys.executable, "-c", HOLDER, str(tmp_path)]
  pipe = subprocess.PIPE
  with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(ValueError) as caught, locked(tmp_path):
      pass
    assert str(caught.value) == (
      f"another run is working in {tmp_path}: process {holder.pid} on "
      f"{socket.gethostname()}; wait for its end, stop it there (kill "
      f"{holder.pid}), or give this run a --workdir of its own"
    )
    holder.kill()  # no chance to clean up
  with locked(tmp_path):
    text = (tmp_path / "run.lock").read_text()
    assert text.split() == [str(os.getpid()), socket.gethostname()]


def test_a_second_run_changes_nothing_in_the_folder_of_the_first(
  runs, tmp_path
):
  runs.run(tmp_path, "sft", sft__update_steps=2)
  before = {
    path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
  }
  with locked(tmp_path), pytest.raises(ValueError, match="another run"):
    runs.run(tmp_path, "sft", sft__update_steps=2)
  # The lock names the holder; the rest is as it was.
  for path, data in before.items():
    assert path.read_bytes() == data, path
