# SPDX-License-Identifier: Apache-2.0
"""Writes prepared data so that its folder never holds a part of them.

What is under way lies in a folder of its own, `.unfinished-*` in the folder of
the data, which readers leave out. Its files move out of it when all of them are
written; what a killed command left goes when the next one writes there. Data
for a bucket are written on this machine and copied when complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Literal

from srl_jax import storage
from srl_jax.data import records, schema
from srl_jax.data.readers import LoadedData
from srl_jax.data.splits import SPLITS
from srl_jax.trajectory import Trajectory

Form = Literal["tfds", "jsonl"]
_TFDS = "expert_trajectories"  # As TFDS calls what tfds_builders writes.
_REJECTS = "rejects.jsonl"
_UNFINISHED = ".unfinished-"
# Moved last: without them a folder does not read as data to train on.
_LAST = {"tfds": "features.json", "jsonl": "train.jsonl"}


def check_free(folder: pathlib.Path, form: Form) -> None:
  """Refuses a folder whose files would be mixed with the new ones.

  Raises:
    ValueError: it is a file, or holds data or rejects already.
  """
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"--out={folder} is a file; give a folder")
  names = [_TFDS] if form == "tfds" else [f"{name}.jsonl" for name in SPLITS]
  for path in (folder / name for name in (*names, _REJECTS)):
    if path.exists():
      raise ValueError(f"{path} exists already; remove it or write elsewhere")


def write(
  loaded: LoadedData, folder: pathlib.Path, form: Form, description: str
) -> pathlib.Path:
  """Writes all splits, and the rejects as rejects.jsonl, or nothing.

  Args:
    loaded: what to write; empty splits are left out.
    folder: the folder to write to, on this machine or in a bucket.
    form: how trajectories are written.
    description: one line on what they were made from.

  Returns:
    The folder that holds the splits: with "tfds", one inside of the given one.

  Raises:
    ValueError: `check_free` refuses the folder, or another command is writing
      to it.
  """
  check_free(folder, form)
  written = folder
  with _unfinished(folder) as new:
    if loaded.rejects:
      records.write_rejects(loaded.rejects, new / _REJECTS)
    if form == "tfds":
      # Imported here: the import takes a second, which only this form needs.
      from srl_jax.data import tfds_builders

      inside = tfds_builders.write(loaded.splits, new, description)
      written = folder / inside.relative_to(new)
    else:
      for split, trajectories in loaded.splits.items():
        _write_lines(trajectories, new / f"{split}.jsonl")
    check_free(folder, form)  # Another command may have been faster.
    _move_out(new, folder, _LAST[form])
  return written


@contextlib.contextmanager
def _unfinished(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder of this machine, which is removed in the end."""
  inside = None
  with contextlib.ExitStack() as stack:
    if not storage.is_remote(folder):
      folder.mkdir(parents=True, exist_ok=True)
      inside = folder  # On the same disk, where moving is renaming.
      stack.callback(os.close, _lock(folder))
    new = tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=inside)
    yield pathlib.Path(stack.enter_context(new))


def _lock(folder: pathlib.Path) -> int:
  """Locks a folder, removes what killed commands left; returns the open lock.

  Raises:
    ValueError: another command holds it.
  """
  lock = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    os.close(lock)
    raise ValueError(
      f"another command is writing to {folder}; wait for its end, or write "
      "elsewhere"
    ) from error
  except OSError:
    return lock  # Some file systems of networks lock no folders.
  for left in folder.glob(f"{_UNFINISHED}*"):
    shutil.rmtree(left, ignore_errors=True)
  return lock


def _move_out(new: pathlib.Path, folder: pathlib.Path, last: str) -> None:
  if storage.is_remote(folder):
    storage.upload_folder(new, folder, last=last)
    return
  for path in sorted(new.iterdir(), key=lambda x: (x.name == last, x.name)):
    path.rename(folder / path.name)


def _write_lines(
  trajectories: Sequence[Trajectory], path: pathlib.Path
) -> None:
  if not trajectories:
    return
  with path.open("w", encoding="utf-8") as file:
    for trajectory in trajectories:
      file.write(json.dumps(schema.to_json(trajectory)) + "\n")
