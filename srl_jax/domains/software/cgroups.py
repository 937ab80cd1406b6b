# SPDX-License-Identifier: Apache-2.0
"""Control groups: limits of memory and processes that the kernel keeps.

A group is made below the one that this process is in, or, where version 2
allows no children there, beside it. That takes root, or a group that an
administrator has delegated. Without either there is none, and sandboxes have
only the limits that their own processes set.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import re
import signal
import time

_NUMBERS = itertools.count()
# "srl_jax-PID-NUMBER": whose sandbox a group is for.
_PREFIX = "srl_jax-"
_FILES = {
  1: {"memory": "memory.limit_in_bytes", "pids": "pids.max"},
  2: {"memory": "memory.max", "pids": "pids.max"},
}
# Memory that is swapped out is memory, too. Version 1 has one limit for both.
_SWAP = {
  1: {"memory.memsw.limit_in_bytes": "{}"},
  2: {"memory.swap.max": "0"},
}


class Group:
  """The groups of one sandbox, one for each hierarchy."""

  def __init__(self, memory_bytes: int, processes: int) -> None:
    """Makes the groups; call `close` when their processes have ended.

    Raises:
      OSError: the groups cannot be made.
    """
    values = {"memory": memory_bytes, "pids": processes}
    self._folders: list[pathlib.Path] = []
    name = f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
    try:
      for parent, version, controllers in _parents():
        folder = parent / name
        folder.mkdir()
        self._folders.append(folder)
        for controller in controllers:
          (folder / _FILES[version][controller]).write_text(
            str(values[controller])
          )
        for file, value in _SWAP[version].items():
          # Not all kernels count it.
          with contextlib.suppress(FileNotFoundError, PermissionError):
            (folder / file).write_text(value.format(memory_bytes))
    except OSError:
      self.close()
      raise

  def add(self, pid: int) -> None:
    """Puts a process into the groups; its children will be in them, too."""
    for folder in self._folders:
      (folder / "cgroup.procs").write_text(str(pid))

  def memory_kills(self) -> int:
    """How many processes the kernel has killed because memory ran out."""
    text = "".join(
      _read(folder / name)
      for folder in self._folders
      for name in ("memory.oom_control", "memory.events")
    )
    return sum(map(int, re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE)))

  def close(self, patience_s: float = 2.0) -> None:
    """Kills what is left in the groups and removes them."""
    limit = time.monotonic() + patience_s
    for folder in self._folders:
      while not _removed(folder) and time.monotonic() < limit:
        _kill(folder)
        time.sleep(0.005)


@functools.cache
def available() -> bool:
  """Whether groups can be made; removes those that ended processes left."""
  sweep()
  try:
    Group(1 << 30, 16).close()
  except OSError:
    return False
  return bool(_parents())


def sweep() -> None:
  """Removes the groups of processes that are no more, with what is in them."""
  for parent, _, _ in _parents():
    for folder in parent.glob(f"{_PREFIX}*-*"):
      pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
      if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
        _kill(folder)
        _removed(folder)


@functools.cache
def _parents() -> tuple[tuple[pathlib.Path, int, tuple[str, ...]], ...]:
  """Where groups are made: (folder, version, controllers) per hierarchy.

  Empty unless memory and processes can both be limited.
  """
  own = {}
  for line in _read("/proc/self/cgroup").splitlines():
    _, names, path = line.split(":", 2)
    own |= dict.fromkeys(names.split(","), path)
  found = []
  for line in _read("/proc/self/mountinfo").splitlines():
    before, _, after = line.partition(" - ")
    root, mount = before.split()[3:5]
    kind, _, options = after.split()[:3]
    if kind == "cgroup":
      controllers = tuple(set(_FILES[1]) & set(options.split(",")))
      if controllers and controllers[0] in own:
        path = _below(mount, root, own[controllers[0]])
        found.append((path, 1, controllers))
    elif kind == "cgroup2" and "" in own:
      path = _below(mount, root, own[""])
      for folder in (path, path.parent):
        if {"memory", "pids"} <= set(
          _read(folder / "cgroup.subtree_control").split()
        ):
          found.append((folder, 2, ("memory", "pids")))
          break
  limited = {name for _, _, controllers in found for name in controllers}
  return tuple(found) if limited >= {"memory", "pids"} else ()


def _below(mount: str, root: str, path: str) -> pathlib.Path:
  """The folder of a group, in a mount that shows the hierarchy from root on."""
  return pathlib.Path(mount) / os.path.relpath(path, root)


def _read(path: str | pathlib.Path) -> str:
  try:
    return pathlib.Path(path).read_text(encoding="utf-8")
  except OSError:
    return ""


def _removed(folder: pathlib.Path) -> bool:
  try:
    folder.rmdir()
  except FileNotFoundError:
    return True
  except OSError:
    return False
  return True


def _kill(folder: pathlib.Path) -> None:
  for pid in _read(folder / "cgroup.procs").split():
    with contextlib.suppress(OSError):
      os.kill(int(pid), signal.SIGKILL)
