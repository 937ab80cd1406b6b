# SPDX-License-Identifier: Apache-2.0
"""A local folder whose files go up to a bucket as they grow.

For files that are appended to, which a bucket cannot do: metrics, event files,
journals. If a process is killed, a remote file lacks what was added since the
last copy. A folder on a disk is written to directly; it lacks at most what its
writer held in memory.
"""

from __future__ import annotations

import pathlib
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable

from srl_jax import storage

# Between two copies, in seconds, and how much longer than a copy that is.
_EVERY_S = 30.0
_TIMES_A_COPY = 10
_OPEN: weakref.WeakSet[Mirror] = weakref.WeakSet()


def copy_all() -> None:
  """Flushes and copies what changed everywhere, as before a checkpoint."""
  for mirror in list(_OPEN):
    mirror.copy()


class Mirror:
  """A place to append to files of a folder; call `close` at the end.

  Attributes:
    folder: where to write: the folder itself, or a local one in its place.
  """

  def __init__(
    self, folder: pathlib.Path, flush: Callable[[], None] = lambda: None
  ):
    """Starts to copy now and then, if the folder is remote.

    Args:
      folder: the folder; it is made if it is missing.
      flush: called before each copy, by any thread, and by `copy_all` also if
        the folder is not remote.
    """
    self._to, self._flush = folder, flush
    self._thread = None
    _OPEN.add(self)
    if not storage.is_remote(folder):
      folder.mkdir(parents=True, exist_ok=True)
      self.folder = folder
      return
    self.folder = pathlib.Path(tempfile.mkdtemp(prefix="srl_jax_"))
    self._copied: dict[pathlib.Path, tuple[int, int]] = {}
    self._lock = threading.Lock()
    self._is_closing = threading.Event()
    self._thread = threading.Thread(target=self._copy_often, daemon=True)
    self._thread.start()

  def copy(self) -> None:
    """Copies what changed since the last time; returns when it is there."""
    if self._thread is None:
      self._flush()
      return
    with self._lock:
      self._flush()
      for file in storage.list_files(self.folder):
        state = file.stat()
        state = state.st_size, state.st_mtime_ns
        if self._copied.get(file) != state:
          storage.upload(file, self._to / file.relative_to(self.folder))
          self._copied[file] = state

  def close(self) -> None:
    """Copies the rest and removes the local folder."""
    _OPEN.discard(self)
    if self._thread is None:
      return
    self._is_closing.set()
    self._thread.join()
    self.copy()
    self._thread = None
    shutil.rmtree(self.folder, ignore_errors=True)

  def _copy_often(self) -> None:
    wait_s = _EVERY_S
    while not self._is_closing.wait(wait_s):
      start_s = time.monotonic()
      try:
        self.copy()
      except Exception as error:  # The next copy has all of it again.
        print(f"warning: {self._to} could not be written: {error}", flush=True)
      wait_s = max(_EVERY_S, _TIMES_A_COPY * (time.monotonic() - start_s))
