# SPDX-License-Identifier: Apache-2.0
"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import json
import os
from typing import Any

import jax

from srl_jax import storage


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a value as indented JSON; see `write_text`."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text in UTF-8; see `write_bytes`."""
  write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file so that it appears whole or not at all (process 0)."""
  if jax.process_index() != 0:
    return
  path = storage.path(path)
  if storage.is_remote(path):
    path.write_bytes(data)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(".tmp")
  temporary.write_bytes(data)
  os.replace(temporary, path)


def check_writable(path: str | os.PathLike, option: str) -> None:
  """Refuses, before any work, a path at which no file can be written.

  Its folder is made if it is missing. What is in a bucket is not checked.

  Args:
    path: the file.
    option: the option that names it, for messages.

  Raises:
    ValueError: the path is a folder, or its folder cannot be made or written.
  """
  path = storage.path(path)
  if storage.is_remote(path):
    return
  why = ""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    why = str(error.strerror)
  else:
    if path.is_dir():
      why = "it is a folder"
    elif not os.access(path.parent, os.W_OK):
      why = f"{path.parent} is not yours to write"
  if why:
    raise ValueError(
      f"{option}={path} is no file that can be written ({why}); name another"
    )
