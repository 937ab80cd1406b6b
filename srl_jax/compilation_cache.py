# SPDX-License-Identifier: Apache-2.0
"""Where compiled programs are kept, so that the next run need not compile.

JAX keeps them only in a folder that is named; our commands name one. The key of
an entry is made of the program, the options, the versions of JAX and its
compiler, and the kind and features of the devices. So another machine with the
same home never runs code for this one, and a resumed run gets the very programs
that it was started with.
"""

from __future__ import annotations

import os
import pathlib
import sys

import filelock
import jax

from srl_jax import storage

_SETTINGS = {
  # Beyond it, JAX drops the entries that were unused for longest.
  "jax_compilation_cache_max_size": 2**30,
  # JAX's default is a second, and a start compiles many programs in less.
  "jax_persistent_cache_min_compile_time_secs": 0.1,
}
# JAX's own lock of a cache with a size limit, and its two files per entry.
_LOCK = ".lockfile"
_ENTRY = "-cache"
_LAST_USE = "-atime"


def use_default(workdir: pathlib.Path | None = None) -> None:
  """Uses our folder, unless the environment names another or wants none.

  JAX_COMPILATION_CACHE_DIR names one; if it is empty, nothing is kept. With
  several processes, process 0 writes and all read. Call this after they have
  joined.

  Args:
    workdir: of the run. If it is in a bucket, programs are kept in it: the
      hosts of a pod have no disk in common, and the next pod has new ones.
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  if workdir is not None and storage.is_remote(workdir):
    jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation"))
    return
  try:
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
  except (OSError, RuntimeError, filelock.Timeout) as error:
    if jax.process_index() == 0:
      print(
        f"warning: compiled programs are not kept for the next run ({error}); "
        "set JAX_COMPILATION_CACHE_DIR to a folder that can be written, or to "
        "nothing",
        file=sys.stderr,
        flush=True,
      )
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  for name, value in _SETTINGS.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)


def default_folder() -> pathlib.Path:
  """Returns the folder of compiled programs in the user's cache folder."""
  return storage.cache_folder() / "compilation"


def _remove_unfinished(folder: pathlib.Path) -> None:
  """Removes entries that a killed process left without their second file.

  JAX would neither use nor replace them, and fail to write any other.
  """
  with filelock.FileLock(folder / _LOCK, timeout=10):
    for entry in folder.glob(f"*{_ENTRY}"):
      name = entry.name.removesuffix(_ENTRY)
      if not entry.with_name(name + _LAST_USE).exists():
        entry.unlink()
