# SPDX-License-Identifier: Apache-2.0
"""Reads trajectories from data files, sets bad records aside, makes splits.

A bad record becomes a Reject, which names file, line and field and says what to
do; with `strict` it is an error. Copies of a problem land in the same split.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from srl_jax import strict
from srl_jax.data import folders, gsm8k, s1k, schema, sources
from srl_jax.data.rows import Row
from srl_jax.domains import DOMAINS, find_domain, registers
from srl_jax.trajectory import RecordError, Trajectory

Format = Literal[
  "embedded", "embedded_student", "gsm8k", "s1k", "jsonl", "tfds"
]
SPLITS = ("train", "valid", "test", "pretrain")
# Formats that need no file, with their functions (sizes, seed) -> splits.
_MADE = {
  "embedded": registers.make_splits,
  "embedded_student": registers.make_student_splits,
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where the trajectories come from and how they are split.

  Attributes:
    format: "embedded" and "embedded_student" need no file. The latter is the
      data that the embedded student is pre-trained on, planted faults
      included; its "test" split holds hard problems of the "valid" split.
      "gsm8k" and "s1k" read these datasets, "jsonl" the form that schema.py
      documents: from a file of JSON lines, a JSON list, Parquet or Arrow,
      compressed or not, or from a folder of such files. "tfds" reads a folder
      that srl_jax.data.prepare wrote.
    path: path of the file or folder.
    domain: domain of all trajectories, as a name in srl_jax.domains.DOMAINS or
      as "package.module:NAME" for your own; "" takes each record's own.
    strict: whether a bad record is an error. Otherwise it is set aside.
    calculator_thoughts: whether the expressions in marks such as <<48/2=24>>
      become the thoughts of the steps (only for "gsm8k"). Steps without marks
      get "nothing to compute". The marks are left out of the text either way.
    train_size: number of trajectories to train on; 0 for all that the other
      splits leave.
    valid_size: number of trajectories held out to choose checkpoints and
      settings with.
    test_size: number of trajectories held out for the final number.
    pretrain_size: number of trajectories set aside for a warm start; "train"
      does not use them.
    seed: seed of the "embedded" formats; another seed makes other problems.
  """

  format: Format = "embedded"
  path: str = ""
  domain: str = ""
  strict: bool = False
  calculator_thoughts: bool = False
  train_size: int = 0
  valid_size: int = 0
  test_size: int = 0
  pretrain_size: int = 0
  seed: int = 0

  def __post_init__(self):
    sizes = dict.fromkeys([f"{x}_size" for x in SPLITS], "[0, )")
    strict.check_numbers(self, seed="[0, 4294967295]", **sizes)
    if self.format not in get_args(Format):
      raise ValueError(
        f"data.format={self.format!r} is unknown; choose one of"
        f" {', '.join(get_args(Format))}"
      )
    if self.format in _MADE and self.path:
      raise ValueError(
        f"data.path={self.path!r} is not read with data.format={self.format!r};"
        " set data.format to gsm8k, s1k, jsonl or tfds, or clear data.path"
      )
    if self.calculator_thoughts and self.format != "gsm8k":
      raise ValueError(
        f"data.calculator_thoughts is for data.format='gsm8k', not "
        f"{self.format!r}; set it to False"
      )

  def sizes(self) -> dict[str, int]:
    """Returns the size of each split: {"train": train_size, ...}."""
    return {name: getattr(self, f"{name}_size") for name in SPLITS}


Place = tuple[pathlib.Path, int]  # A file, and the number of a record there.


class Reject(NamedTuple):
  """A record that was set aside; str() gives the full message."""

  path: str
  line: int
  field: str
  reason: str
  record: str

  def __str__(self) -> str:
    return f"{self.path}:{self.line}: field {self.field!r}: {self.reason}"


class LoadReport(NamedTuple):
  """Trajectories by split, in the order of the file, and the bad records.

  `warnings` are lines to print about records that were changed.
  """

  splits: dict[str, list[Trajectory]]
  rejects: tuple[Reject, ...]
  warnings: tuple[str, ...] = ()

  @property
  def trajectories(self) -> list[Trajectory]:
    """All trajectories, split after split."""
    return [t for split in self.splits.values() for t in split]


def load_trajectories(config: DataConfig) -> LoadReport:
  """Loads the configured trajectories; every name in SPLITS is a key.

  Raises:
    ValueError: the file is missing or unusable, no record is good, the splits
      are larger than the data, there is no such domain, or config.strict is
      set and a record is bad.
  """
  if config.domain:
    find_domain(config.domain)
  return _with_domains(_load(config), config.domain)


def _load(config: DataConfig) -> LoadReport:
  sizes = config.sizes()
  if config.format in _MADE:
    if not any(sizes.values()):
      raise ValueError(
        "embedded data are made on demand; set data.train_size (and"
        " valid_size, test_size) to how many trajectories you want"
      )
    return LoadReport(_MADE[config.format](sizes, config.seed), ())
  path = pathlib.Path(config.path).expanduser()
  if not config.path or not path.exists():
    raise ValueError(
      f"data.path={config.path!r} does not exist; data.format="
      f"{config.format!r} needs the path of its file or folder"
    )
  if config.format == "tfds":
    _check_own_splits(path, sizes)
    return _load_tfds(path)
  parts, warnings = [folders.Part(path, "", path.stem)], ()
  if path.is_dir():
    parts, warnings = folders.parts_of(path)
  splits, rejects = _read_parts(parts, config)
  if splits.keys() <= {"", "train"}:
    [trajectories] = splits.values()
    splits = split_by_problem(trajectories, sizes)
  else:
    _check_own_splits(path, sizes)
  every = {name: splits.get(name, []) for name in SPLITS}
  return LoadReport(every, tuple(rejects), warnings)


def _check_own_splits(path: pathlib.Path, sizes: Mapping[str, int]) -> None:
  if any(sizes.values()):
    raise ValueError(
      f"{path} is prepared data with splits of its own; leave data.*_size"
      f" at 0 (got {sizes}) or prepare it again with other sizes"
    )


def _read_parts(
  parts: Sequence[folders.Part], config: DataConfig
) -> tuple[dict[str, list[Trajectory]], list[Reject]]:
  """Returns the trajectories by split, and the rejects of all files."""
  splits: dict[str, list[Trajectory]] = {}
  every_reject: list[Reject] = []
  for split in dict.fromkeys(part.split for part in parts):
    of_split = [part for part in parts if part.split == split]
    splits[split] = []
    rejects: list[Reject] = []
    place_of: dict[str, Place] = {}
    for part in of_split:
      found, refused = read_file(
        part.path, _parser(config), prefix=part.prefix, place_of=place_of
      )
      splits[split] += found
      rejects += refused
    # A shard may be empty, but not all of them.
    path = of_split[0].path if len(of_split) == 1 else config.path
    _check_rejects(splits[split], rejects, path, config.strict)
    every_reject += rejects
  return splits, every_reject


def _with_domains(loaded: LoadReport, domain: str) -> LoadReport:
  """Gives every trajectory a domain that exists.

  A domain that a record names is only looked up in DOMAINS. Importing it would
  let a data file run any code.
  """
  unknown: collections.Counter[str] = collections.Counter()

  def of_known_domain(trajectory):
    name = domain or trajectory.domain
    if not domain and name not in DOMAINS:
      unknown[name] += 1
      name = "general"
    return dataclasses.replace(trajectory, domain=name)

  splits = {
    split: [of_known_domain(trajectory) for trajectory in trajectories]
    for split, trajectories in loaded.splits.items()
  }
  warnings = loaded.warnings
  if unknown:
    names = ", ".join(f"{name!r} ({n})" for name, n in unknown.most_common(5))
    warnings += (
      f"{unknown.total()} records name domains that do not exist, which are "
      f"taken for 'general': {names}; write one of {', '.join(DOMAINS)} there, "
      "or set c.data.domain to the domain of all of them",
    )
  return LoadReport(splits, loaded.rejects, warnings)


def read_file(
  path: pathlib.Path,
  parse: Callable[[Any, str], Trajectory],
  *,
  prefix: str = "",
  place_of: dict[str, Place] | None = None,
) -> tuple[list[Trajectory], list[Reject]]:
  """Reads a file of JSON text, Parquet or Arrow record by record.

  Args:
    path: path of the file; sources.py says what it may hold.
    parse: a function (record, default id) -> trajectory that raises RecordError
      for a bad record.
    prefix: how default ids begin; the file's name by default.
    place_of: where the ids are that are taken already; those of the file are
      added to it.

  Returns:
    The trajectories and the rejects, both in the order of the file.

  Raises:
    ValueError: the file is damaged, or of a kind that cannot be read.
  """
  prefix, place_of = prefix or path.stem, {} if place_of is None else place_of
  read = functools.partial(_read, path, parse, prefix, place_of)
  trajectories, rejects = read(sources.rows(path))
  if rejects and not trajectories:
    # No line is a record; the text may be JSON as a whole.
    whole = sources.document_rows(path)
    again = read(whole) if whole else ([], [])
    if again[0]:
      return again
  return trajectories, rejects


def _read(
  path: pathlib.Path,
  parse: Callable[[Any, str], Trajectory],
  prefix: str,
  place_of: dict[str, Place],
  rows: Iterable[Row],
) -> tuple[list[Trajectory], list[Reject]]:
  trajectories: list[Trajectory] = []
  rejects: list[Reject] = []
  for row in rows:
    try:
      trajectory = parse(row.decode(row.raw), f"{prefix}-{row.number}")
      if trajectory.id in place_of:
        taken = f"{trajectory.id!r} is taken by"
        where = _shown(place_of[trajectory.id], path)
        raise RecordError("id", f"{taken} {where}; give every record its own")
    except RecordError as error:
      rejects.append(_reject(path, row, error))
      continue
    place_of[trajectory.id] = path, row.number
    trajectories.append(trajectory)
  return trajectories, rejects


def _shown(place: Place, here: pathlib.Path) -> str:
  path, line = place
  return f"line {line}" + (f" of {path}" if path != here else "")


def _reject(path: pathlib.Path, row: Row, error: RecordError) -> Reject:
  raw = row.raw
  text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
  # A record may name what no terminal can show, at any length.
  field, reason = _printable(error.field), _printable(error.problem)
  return Reject(str(path), row.number, field, reason, text.strip())


def _printable(text: str) -> str:
  if len(text) > 1000:
    text = f"{text[:500]} [...] {text[-400:]}"
  return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_rejects(rejects: Iterable[Reject], path: str | pathlib.Path) -> None:
  """Writes rejects as JSON lines of path, line, field, reason and record."""
  with open(path, "w", encoding="utf-8") as file:
    for reject in rejects:
      file.write(json.dumps(reject._asdict()) + "\n")


def split_by_problem(
  trajectories: Sequence[Trajectory], sizes: Mapping[str, int]
) -> dict[str, list[Trajectory]]:
  """Splits trajectories by a hash of the problem, ignoring case and spacing.

  Problems are dealt in the order of their hashes: first to "test", then to
  "valid", "pretrain" and "train", each until it has its size. With size 0,
  "train" gets the rest. All trajectories of a problem go to one split, so a
  split may be a little larger than asked. Splits keep the order of the input.

  Raises:
    ValueError: there are too few trajectories for these sizes.
  """
  groups: dict[bytes, list[int]] = {}
  for index, trajectory in enumerate(trajectories):
    text = " ".join(trajectory.problem.casefold().split())
    key = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
    groups.setdefault(key, []).append(index)
  queue = iter(sorted(groups))
  chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
  for name in ("test", "valid", "pretrain", "train"):
    size = sizes.get(name, 0)
    if name == "train" and not size:
      for key in queue:
        chosen[name] += groups[key]
    while len(chosen[name]) < size and (key := next(queue, None)) is not None:
      chosen[name] += groups[key]
    wanted = max(size, name == "train")  # Something must be left to train on.
    if len(chosen[name]) < wanted:
      raise ValueError(
        f"{len(trajectories)} trajectories ({len(groups)} different problems)"
        f" are too few for the splits {dict(sizes)}; lower data.{name}_size or"
        " another size"
      )
  return {
    name: [trajectories[index] for index in sorted(indices)]
    for name, indices in chosen.items()
  }


def _parser(config: DataConfig) -> Callable[[Any, str], Trajectory]:
  if config.format == "gsm8k":
    return functools.partial(gsm8k.parse, thoughts=config.calculator_thoughts)
  return {"s1k": s1k.parse, "jsonl": schema.from_json}[config.format]


def _load_tfds(path: pathlib.Path) -> LoadReport:
  # Imported here: the import takes a second, which only this format needs.
  from srl_jax.data import tfds_builders

  splits = {name: [] for name in SPLITS} | tfds_builders.read(path)
  return LoadReport(splits, ())


def _check_rejects(trajectories, rejects, path, strict: bool) -> None:
  """Raises ValueError if nothing is left, or if strict and one is rejected."""
  if trajectories and not (strict and rejects):
    return
  if not rejects:
    raise ValueError(f"{path} holds no records; one JSON object per line")
  shown = "\n  ".join(map(str, rejects[:5]))
  more = f"\n  and {len(rejects) - 5} more" if len(rejects) > 5 else ""
  cure = "leave them out with data.strict=False"
  if not trajectories:
    cure = "choose the data.format that the file has"
  raise ValueError(
    f"{len(rejects)} of {len(rejects) + len(trajectories)} records of {path}"
    f" cannot be used; repair them, or {cure}:\n  {shown}{more}"
  )
