# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run agree on: its files, folder, config and data.

Each process reads from its own host and was started by its own command. If
these differed, the processes would train parts of different models, or wait
for each other for ever. All processes must call each function together.
"""

from __future__ import annotations

import itertools
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
# The watchdog ends what hangs.
_FOR_EVER_MS = 10**9
_VOTES = itertools.count()


def read_json(path: pathlib.Path) -> Any:
  """Returns what process 0 reads in a JSON file; None if there is no file.

  A disk that is shared may still show the others the file as it was before.
  """
  text = None
  if jax.process_index() == 0 and path.is_file():
    text = path.read_text()
  text = sharding.gather_objects(text)[0]
  return None if text is None else json.loads(text)


def has_results(workdir: pathlib.Path) -> bool:
  """Whether the run in `workdir` has measured anything."""
  return read_json(workdir / "results.json") is not None


def any_process(says: bool) -> bool:
  """Whether any process says so.

  It waits for the other processes, but not for what runs on the devices, as a
  collective would.
  """
  if jax.process_count() == 1:
    return says
  # JAX has no public way to talk to the coordinator of its processes.
  from jax._src import distributed

  client = distributed.global_state.client
  folder = f"srl_jax/votes/{next(_VOTES)}"
  if says:
    client.key_value_set(f"{folder}/{jax.process_index()}", "yes")
  client.wait_at_barrier("srl_jax/votes", _FOR_EVER_MS)
  return bool(client.key_value_dir_get(folder))


def wait_for_all() -> None:
  """Waits until all processes are here, for as long as it takes."""
  any_process(False)


def check_shared(workdir: pathlib.Path) -> None:
  """Checks that all processes see what process 0 writes to a folder.

  Raises:
    ValueError: some do not; the message names them.
  """
  if jax.process_count() == 1:
    return
  file = workdir / "shared.txt"
  token = uuid.uuid4().hex
  # First, because NFS also remembers that a file is missing.
  files.write_text(file, token)
  token = sharding.gather_objects(token)[0]
  end_s = time.monotonic() + _SEEN_AFTER_S
  while not (is_seen := _holds(file, token)) and time.monotonic() < end_s:
    time.sleep(0.2)
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
