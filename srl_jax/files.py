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
