# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run agree on: its files, folder, config and data.

Each process reads from its own host and was started by a command of its own.
Where these differ, each would train its part of the model in another way, or
wait for ever for the others. All processes have to call each function together.
"""

from __future__ import annotations

import json
import pathlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from srl_jax import sharding
from srl_jax.storage import files

# NFS shows a new file up to a minute later.
_SEEN_AFTER_S = 90.0


def read_json(path: pathlib.Path) -> Any:
  """Returns what process 0 reads in a JSON file; None if there is no file.

  A disk that is shared may still show the others the file as it was before.
  """
  text = None
  if jax.process_index() == 0 and path.is_file():
    text = path.read_text()
  text = sharding.gather_objects(text)[0]
  return None if text is None else json.loads(text)


def check_shared(workdir: pathlib.Path) -> None:
  """Checks that all processes see what process 0 writes to a folder.

  Raises:
    ValueError: some do not; the message names them.
  """
  if jax.process_count() == 1:
    return
  file = workdir / "shared.txt"
  token = sharding.gather_objects(uuid.uuid4().hex)[0]
  files.write_text(file, token)
  end_s = time.monotonic() + _SEEN_AFTER_S
  while not (is_seen := _holds(file, token)) and time.monotonic() < end_s:
    time.sleep(1.0)
  blind = [
    str(process)
    for process, sees in enumerate(sharding.gather_objects(is_seen))
    if not sees
  ]
  if jax.process_index() == 0:
    file.unlink()
  if blind:
    raise ValueError(
      f"process {', '.join(blind)} of {jax.process_count()} does not see what "
      f"process 0 writes to --workdir={workdir}; give gs://BUCKET/FOLDER, or a "
      "folder on a disk that all hosts share"
    )


def _holds(file: pathlib.Path, text: str) -> bool:
  try:
    return file.read_text() == text
  except OSError:
    return False


def check_same(values: Mapping[str, Any]) -> None:
  """Checks that all processes have the same values, which are JSON.

  Raises:
    ValueError: they have not; the message names a process and what differs.
  """
  first, *others = sharding.gather_objects(values)
  for process, other in enumerate(others, start=1):
    if different := [
      f"{name} is {theirs!r} there and {ours!r} in process 0"
      for what in first
      for name, ours, theirs in differences(first[what], other[what], what)
    ]:
      raise ValueError(
        f"process {process} does not run what process 0 runs: "
        f"{'; '.join(different[:5])}; start the same command on every host, "
        "with the same files and the same version of srl_jax"
      )


def differences(
  old: Any, new: Any, path: str
) -> Iterator[tuple[str, Any, Any]]:
  """Yields (path, old value, new value) of what differs in nested dicts.

  Args:
    old: JSON.
    new: JSON.
    path: what both are called.
  """
  if isinstance(old, dict) and isinstance(new, dict):
    for name in sorted(old.keys() | new.keys()):
      yield from differences(old.get(name), new.get(name), f"{path}.{name}")
  elif old != new:
    yield path, old, new
