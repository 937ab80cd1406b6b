# SPDX-License-Identifier: Apache-2.0
"""Prompts of a file, by the numbers of their lines."""

from __future__ import annotations

import json
import pathlib

from srl_jax import storage
from srl_jax.chat.answers import Prompt
from srl_jax.storage import textfile


def read_prompts(path: str | pathlib.Path) -> dict[int, Prompt]:
  """Reads a file of prompts: a line each, or JSONL.

  Returns:
    The prompts by the numbers of their lines, from 0 as in what --json prints.

  Raises:
    ValueError: there is no such file or no prompt in it, or a line is wrong;
      the message names it.
  """
  path = storage.path(path)
  try:
    lines = textfile.read_lines(path)
  except OSError as error:
    raise ValueError(f"--prompts={path} cannot be read: {error}") from error
  read = _of_record if path.suffix in (".jsonl", ".json") else str
  prompts = {}
  for number, line in enumerate(lines):
    if not line.strip():
      continue
    try:
      prompts[number] = read(line)
    except ValueError as error:
      raise ValueError(f"{path}, line {number + 1}: {error}") from error
  if not prompts:
    raise ValueError(f"--prompts={path} holds no prompt")
  return prompts


def _of_record(line: str) -> Prompt:
  record = json.loads(line)
  if not isinstance(record, dict):
    raise ValueError("is no JSON object")
  for name in ("problem", "prompt", "messages"):
    value = record.get(name)
    if isinstance(value, str) and value.strip() and name != "messages":
      return value
    if name == "messages" and value and isinstance(value, list):
      if all(
        isinstance(m, dict)
        and isinstance(m.get("role"), str)
        and isinstance(m.get("content"), str)
        for m in value
      ):
        return tuple(value)
      raise ValueError("messages must be objects with the texts role, content")
  raise ValueError(
    f"has none of problem, prompt, messages; it has {', '.join(record)}"
  )
