# SPDX-License-Identifier: Apache-2.0
"""A tiny random model as a whole Hugging Face folder: weights and tokenizer."""

from __future__ import annotations

import json
import pathlib
import tempfile

from tests.support import checkpoints, families


def write(
  folder: pathlib.Path,
  family: str = "qwen2",
  tokenizer: str = "qwen2_5",
  **changes,
) -> pathlib.Path:
  """Writes the folder; returns it.

  Args:
    folder: folder to create.
    family: a key of families.CONFIGS.
    tokenizer: a key of checkpoints.FAMILIES.
    **changes: entries of tokenizer_config.json; None removes an entry.
  """
  with tempfile.TemporaryDirectory() as beside:
    files = checkpoints.write(pathlib.Path(beside), tokenizer, **changes)
    about_tokens = json.loads((files / "config.json").read_text())
    families.write(folder, family, **about_tokens)
    for path in files.iterdir():
      if path.name != "config.json":
        (folder / path.name).write_bytes(path.read_bytes())
  return folder
