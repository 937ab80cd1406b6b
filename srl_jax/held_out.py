# SPDX-License-Identifier: Apache-2.0
"""The held-out problems of a run, as they are kept in its workdir.

`show` and the report read them from there, because the data may be gone or
have changed. Checksums tell a run that is resumed whether they have.
"""

from __future__ import annotations

import json
import pathlib
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from srl_jax import agreement
from srl_jax.data import schema
from srl_jax.domains.suite import Problem
from srl_jax.storage import files
from srl_jax.storage.workdir import VERSIONS, RefusedError
from srl_jax.trajectory import Trajectory

# Of the data of a run, and of the problems of its suites.
CHECKSUMS = "held_out.json"
_HELD_OUT = ("valid", "test")


def check(
  splits: Mapping[str, Sequence[Trajectory]],
  problems: Sequence[Problem],
  workdir: pathlib.Path,
  moved: Collection[str] = (),
) -> None:
  """Refuses other problems than those of the moments measured before.

  The stream of batches does the same for the data that are trained on. Writes
  the checksums, and the problems that are held out.

  Args:
    splits: all data, by the names of the splits.
    problems: those of the suites.
    workdir: folder of the run.
    moved: fields of the inputs that were named otherwise before; of data, those
      that are trained on must be the same, too.

  Raises:
    RefusedError: they are others; the message names the split or the suite.
  """
  now = _checksums(splits, problems)
  path = workdir / CHECKSUMS
  before = agreement.read_json(path)
  if before and agreement.has_results(workdir):
    for name in splits if "data.path" in moved else _HELD_OUT:
      _compare(f"the {name} split", before.get(name), now[name], workdir)
    suites = before.get("suites", {})
    for name, of_suite in now["suites"].items():
      _compare(f"the suite {name}", suites.get(name), of_suite, workdir)
  files.write_json(path, now)
  write({name: splits[name] for name in _HELD_OUT}, workdir)


def _checksums(
  splits: Mapping[str, Sequence[Trajectory]], problems: Sequence[Problem]
) -> dict[str, Any]:
  by_suite: dict[str, list[Problem]] = {}
  for problem in problems:
    by_suite.setdefault(problem.suite, []).append(problem)
  found: dict[str, Any] = {
    name: {"trajectories": len(data), "crc32": crc32(data)}
    for name, data in splits.items()
  }
  found["suites"] = {
    name: {"problems": len(of_suite), "crc32": crc32(of_suite)}
    for name, of_suite in by_suite.items()
  }
  return found


def _compare(
  what: str,
  before: Mapping[str, int] | None,
  now: Mapping[str, int],
  workdir: pathlib.Path,
) -> None:
  if before not in (None, now):
    unit = next(iter(now))
    raise RefusedError(
      f"{what} changed since {workdir} was begun (it had {before[unit]} {unit},"
      f" now {now[unit]}), so its numbers could not be compared; restore the "
      "data (or, if they are the same, the version of srl_jax that began it: "
      f"see {workdir / VERSIONS}), or give this run a --workdir of its own"
    )


def crc32(records: Iterable[Any]) -> int:
  """Returns a checksum of records, in their order."""
  crc = 0
  for record in records:
    crc = zlib.crc32(repr(record).encode(), crc)
  return crc


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
  for split in _HELD_OUT:
    path = _path(workdir, split)
    if path.is_file():
      lines = path.read_text(encoding="utf-8").splitlines()
      found[split] = [schema.from_written(json.loads(line)) for line in lines]
  return found


def _path(workdir: pathlib.Path, split: str) -> pathlib.Path:
  return workdir / "held_out" / f"{split}.jsonl"
