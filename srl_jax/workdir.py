# SPDX-License-Identifier: Apache-2.0
"""The lock of a working directory: one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

import jax

_FILE = "run.lock"


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a folder (process 0 does, for all processes).

  The operating system drops the lock when the process ends, however it ends;
  the file stays and means nothing.

  Raises:
    ValueError: another run holds the folder; the message says which.
  """
  if jax.process_index() != 0:
    yield
    return
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / _FILE, "a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      process, _, host = file.read().strip().partition(" ")
      raise ValueError(
        f"another run is working in {workdir}: process {process} on {host}; "
        f"wait for its end, stop it there (kill {process}), or give this run "
        "a --workdir of its own"
      ) from error
    except OSError as error:
      print(
        f"warning: {workdir} cannot be locked ({error}); nothing keeps a "
        "second run out of it",
        flush=True,
      )
    file.truncate(0)
    file.write(f"{os.getpid()} {socket.gethostname()}\n")
    file.flush()
    yield
