# SPDX-License-Identifier: Apache-2.0
"""Files of users and runs: on this machine, or in a bucket on gs://.

paths.py, whose functions are the package's, takes every path that a user types.
files.py writes files that appear whole or not at all, mirror.py keeps growing
files in a bucket, workdir.py and lease.py let one run at a time into a folder,
and textfile.py reads lines of text.
"""

from srl_jax.storage.paths import (
  SMALL_FILES,
  absolute,
  cache_folder,
  check_keeps_runs,
  checksums,
  delete,
  is_remote,
  list_files,
  local_copy,
  move,
  open_to_read,
  path,
  read_generation,
  read_object,
  read_range,
  remove,
  replace,
  size,
  upload,
  upload_folder,
  written,
)

__all__ = [
  "SMALL_FILES",
  "absolute",
  "cache_folder",
  "check_keeps_runs",
  "checksums",
  "delete",
  "is_remote",
  "list_files",
  "local_copy",
  "move",
  "open_to_read",
  "path",
  "read_generation",
  "read_object",
  "read_range",
  "remove",
  "replace",
  "size",
  "upload",
  "upload_folder",
  "written",
]
