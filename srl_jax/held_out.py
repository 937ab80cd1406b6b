# SPDX-License-Identifier: Apache-2.0
"""The held-out problems of a run, as they are kept in its workdir.

`show` and the report read them from there, because the data may be gone or
have changed.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence

from srl_jax.data import schema
from srl_jax.storage import files
from srl_jax.trajectory import Trajectory


def write(
  splits: Mapping[str, Sequence[Trajectory]], workdir: pathlib.Path
) -> None:
  """Writes the trajectories of the held-out splits, by their names."""
  for split, data in splits.items():
    lines = [json.dumps(schema.to_json(x)) + "\n" for x in data]
    files.write_text(_path(workdir, split), "".join(lines))


def read(workdir: pathlib.Path) -> dict[str, list[Trajectory]]:
  """Returns the trajectories of the splits that a workdir has."""
  found = {}
  for split in ("valid", "test"):
    path = _path(workdir, split)
    if path.is_file():
      lines = path.read_text(encoding="utf-8").splitlines()
      found[split] = [schema.from_json(json.loads(line)) for line in lines]
  return found


def _path(workdir: pathlib.Path, split: str) -> pathlib.Path:
  return workdir / "held_out" / f"{split}.jsonl"
