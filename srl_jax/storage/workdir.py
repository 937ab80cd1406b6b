# SPDX-License-Identifier: Apache-2.0
"""A run's working directory: its files, versions of its code, and its lock.

The lock lets one run, or evaluation, at a time into the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.metadata
import os
import pathlib
import platform
import socket
import zlib
from collections.abc import Iterator

from srl_jax import storage
from srl_jax.processes import failures
from srl_jax.storage.lease import Lease

_FILE = "run.lock"
# What the folder of a run has and no other.
VERSIONS = "versions.json"
# In it, what later attempts had in place of what the first one had.
LATER = "later"
# Commits of what came from the Hugging Face hub, by name.
COMMITS = "commits.json"
# Checksums of the user's own rewards and domain.
OWN_CODE = "own_code.json"
# A version does not tell two copies apart that were edited.
SOURCE = "source of srl_jax (crc32)"
# Packages on which verdicts about answers depend.
JUDGING = ("math-verify", "latex2sympy2-extended", "sympy", "levenshtein")


class RefusedError(ValueError):
  """A folder is another run's, which is left as it is."""


class HeldError(RefusedError, failures.PassingError):
  """Another run is working in the folder, and may end."""


def no_run(workdir: pathlib.Path) -> ValueError:
  """Returns the error for a folder that has no config.json."""
  return ValueError(
    f"there is no run in {workdir} (no config.json); give the --workdir of a "
    "run of srl_jax train"
  )


def model_folder(workdir: pathlib.Path) -> pathlib.Path:
  """Returns the folder of the model that a run has ended with.

  Raises:
    ValueError: the run is not finished.
  """
  model = workdir / "model"
  if not (model / "config.json").is_file():
    raise ValueError(
      f"the run in {workdir} is not finished (no model in it); write one of "
      f"its checkpoints by srl_jax export --workdir={workdir} "
      "--out=DIR and give DIR instead"
    )
  return model


@contextlib.contextmanager
def locked(workdir: pathlib.Path, option: str = "--workdir") -> Iterator[None]:
  """Keeps other runs out of a folder (process 0 does, for all processes).

  On a disk, the operating system drops the lock when the process ends, however
  it ends; the file stays and means nothing. In a bucket, the lock is a lease
  (lease.py).

  Args:
    workdir: the folder; it is made if it is missing.
    option: the option that names it, for messages.

  Raises:
    HeldError: another run holds the folder, and the message says which.
    RefusedError: an evaluation was given the folder of a run.
    ValueError: it cannot be made or written.
  """
  if option != "--workdir" and (workdir / VERSIONS).exists():
    raise RefusedError(
      f"{option}={workdir} is the folder of a run, whose results would be "
      f"overwritten; give another, such as {option}={workdir}_evaluated"
    )
  import jax  # Host packages import this file for its names alone.

  if jax.process_index() != 0:
    yield
    return
  owner = f"{os.getpid()} {socket.gethostname()}"
  if storage.is_remote(workdir):
    storage.check_keeps_runs(workdir)
    with Lease(workdir / _FILE, owner, lambda x: _refusal(workdir, option, x)):
      yield
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / _FILE, "a+")  # noqa: SIM115 (closed below)
  except OSError as error:
    raise ValueError(
      f"{option}={workdir} is no folder that can be written ({error.strerror}"
      "); name another"
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise _refusal(workdir, option, file.read()) from error
    except OSError as error:
      print(
        f"warning: {workdir} cannot be locked ({error}); nothing keeps a "
        "second run out of it",
        flush=True,
      )
    file.truncate(0)
    file.write(f"{owner}\n")
    file.flush()
    yield


def _refusal(workdir: pathlib.Path, option: str, owner: str) -> HeldError:
  process, _, host = owner.strip().partition(" ")
  return HeldError(
    f"another run is working in {workdir}: process {process} on {host}; "
    f"wait for its end, stop it there (kill {process}), or give this run "
    f"a {option} of its own"
  )


@functools.cache
def versions() -> dict[str, str]:
  """Returns the versions of the packages that a run's numbers depend on."""
  names = ("srl_jax", "jax", "jaxlib", "flax", "optax", "numpy", "grain")
  found = {"python": platform.python_version()}
  for name in names + JUDGING:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed"
  root, crc = pathlib.Path(__file__).parents[1], 0
  for file in sorted(root.rglob("*.py")):
    crc = zlib.crc32(bytes(file.relative_to(root)) + file.read_bytes(), crc)
  found[SOURCE] = f"{crc:08x}"
  return found
