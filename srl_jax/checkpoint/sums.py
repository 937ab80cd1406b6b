# SPDX-License-Identifier: Apache-2.0
"""The item `checksums` of a checkpoint: what its other files must hold.

It is written last, before the checkpoint gets its final name, so that every
complete checkpoint has it. A disk, a copy or a file system that changes a bit
of an array would else train on with other numbers and say nothing. Checkpoints
of versions without this item are read unchecked; Orbax's list of the items
tells them from those that have lost it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import functools
import json
import zlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from srl_jax import storage
from srl_jax.processes import failures

NAME = "checksums"
# How file systems say that they cannot give back what was written; macOS lacks
# one of them.
_LOST = {errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)}
_FILE = "files.json"
_CHUNK_BYTES = 2**24
# zlib and reading release the interpreter lock.
_THREADS = 8


class DamagedError(ValueError):
  """Files of a checkpoint are not what was written."""


class SumsHandler(ocp.AsyncCheckpointHandler):
  """Writes size and crc32 of all files of the other items.

  `wait` is called before them, so that a checkpoint is not complete before it
  returns.
  """

  def __init__(self, wait: Callable[[], None] = lambda: None):
    self._wait = wait

  async def async_save(self, directory, args):
    del directory, args
    return []

  def save(self, directory, args):
    del directory, args

  def finalize(self, directory):
    """Called in the background after the other items, as it is named last."""
    if jax.process_index() == 0:
      self._wait()
      (directory / _FILE).write_text(json.dumps(_sums(directory.parent)))

  def restore(self, directory, args):
    raise NotImplementedError("checksums are compared, not restored")


@ocp.args.register_with_handler(SumsHandler, for_save=True)
@dataclasses.dataclass
class SumsSave(ocp.args.CheckpointArgs):
  """Asks for checksums of the other items."""


@ocp.args.register_with_handler(SumsHandler, for_restore=True)
@dataclasses.dataclass
class SumsRestore(ocp.args.CheckpointArgs):
  """Orbax wants both kinds of arguments."""


def check(directory: epath.Path) -> None:
  """Compares a checkpoint with its checksums, on all processes together.

  Process 0 reads all files once; the others hear what it found.

  Raises:
    DamagedError: a file is missing or differs; the message names it.
    Exception: a bucket, a network or a shared disk does not answer, or access
      is refused, which says nothing of the files.
  """
  damage = _damage(directory) if jax.process_index() == 0 else ""
  if jax.process_count() > 1:
    is_damaged = multihost_utils.broadcast_one_to_all(np.array(bool(damage)))
    if is_damaged:
      damage = damage or "see what process 0 says"
  if damage:
    raise DamagedError(f"{directory} is damaged: {damage}")


def _damage(directory: epath.Path) -> str:
  """Returns what is wrong with the files of a checkpoint, or ""."""
  try:
    if not (directory / NAME / _FILE).exists() and not _has_sums(directory):
      _warn_unchecked(directory.parent.parent)
      return ""
    wanted = json.loads((directory / NAME / _FILE).read_text())
    found = _sums(directory)
    # Orbax writes this file, which holds no numbers, after the checksums.
    _has_sums(directory)
  except (FileNotFoundError, NotADirectoryError) as error:
    # A bucket names no file but in the text.
    return f"there is no {error.filename or error}"
  except (OSError, ValueError, TypeError, KeyError) as error:
    if not _is_of_the_files(error):
      raise
    return f"it cannot be read ({error})"
  names = [
    name
    for name in sorted(wanted.keys() | found.keys())
    if wanted.get(name) != found.get(name)
  ]
  if not names:
    return ""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return f"{', '.join(names[:3])}{more} changed since it was written"


def _is_of_the_files(error: Exception) -> bool:
  """Whether an error is of what files hold, and not of the way to them."""
  if isinstance(error, OSError):
    return error.errno in _LOST
  return not failures.is_of_storage(error)


def _has_sums(directory: epath.Path) -> bool:
  """Whether checksums were among the items when a checkpoint was written."""
  text = (directory / "_CHECKPOINT_METADATA").read_text()
  return NAME in json.loads(text)["item_handlers"]


@functools.cache  # Once for all checkpoints of a stage.
def _warn_unchecked(stage: epath.Path) -> None:
  print(
    f"warning: {stage} has checkpoints of a version of srl_jax that wrote no "
    "checksums, so nobody can say whether they are damaged; they are used as "
    "they are",
    flush=True,
  )


def _sums(directory: epath.Path) -> dict[str, list[int]]:
  """Returns size and crc32 of all files of the items but this one.

  A bucket has a crc32c of each object. It is compared instead, since reading
  would transfer the whole checkpoint.
  """
  if storage.is_remote(directory):
    return {
      name: found
      for name, found in storage.checksums(directory).items()
      if "/" in name and not name.startswith(NAME)
    }
  paths = [
    path
    for item in directory.iterdir()
    if item.is_dir() and not item.name.startswith(NAME)
    for path in _files(item)
  ]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
    sums = threads.map(_sum, paths)
    return {
      path.relative_to(directory).as_posix(): found
      for path, found in zip(paths, sums, strict=True)
    }


def _files(directory: epath.Path) -> Iterator[epath.Path]:
  for path in directory.iterdir():
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _sum(path: epath.Path) -> list[int]:
  size = crc = 0
  with path.open("rb") as file:
    while chunk := file.read(_CHUNK_BYTES):
      size += len(chunk)
      crc = zlib.crc32(chunk, crc)
  return [size, crc]
