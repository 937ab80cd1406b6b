# SPDX-License-Identifier: Apache-2.0
"""Reads trajectories from data files, sets bad records aside, makes splits.

A bad record becomes a Reject, which names file, line and field and says what to
do; with `strict` it is an error. Copies of a problem land in the same split.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from srl_jax import strict
from srl_jax.data import s1k, schema
from srl_jax.domains import DOMAINS, find_domain, registers
from srl_jax.optional import needed_for
from srl_jax.trajectory import RecordError, Step, Trajectory

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
      "gsm8k" and "s1k" read files of these datasets (.jsonl or .parquet).
      "jsonl" reads the form that schema.py documents, from one file or from a
      folder with one file per split. "tfds" reads a folder that
      srl_jax.data.prepare wrote.
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
  if config.format == "tfds" or path.is_dir():
    if any(sizes.values()):
      raise ValueError(
        f"{path} is prepared data with splits of its own; leave data.*_size"
        f" at 0 (got {sizes}) or prepare it again with other sizes"
      )
    return _load_prepared(path, config)
  trajectories, rejects = read_file(path, _parser(config))
  _check_rejects(trajectories, rejects, path, config.strict)
  return LoadReport(split_by_problem(trajectories, sizes), tuple(rejects))


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
  path: pathlib.Path, parse: Callable[[Any, str], Trajectory]
) -> tuple[list[Trajectory], list[Reject]]:
  """Reads a .jsonl or .parquet file record by record.

  Args:
    path: path of the file.
    parse: a function (record, default id) -> trajectory that raises RecordError
      for a bad record.

  Returns:
    The trajectories and the rejects, both in the order of the file.
  """
  trajectories: list[Trajectory] = []
  rejects: list[Reject] = []
  line_of: dict[str, int] = {}
  rows = _parquet_rows if path.suffix == ".parquet" else _json_rows
  for line, raw, decode in rows(path):
    try:
      trajectory = parse(decode(raw), f"{path.stem}-{line}")
      if trajectory.id in line_of:
        raise RecordError(
          "id",
          f"{trajectory.id!r} is taken by line {line_of[trajectory.id]}; give"
          " every record its own",
        )
    except RecordError as error:
      text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
      reject = (str(path), line, error.field, error.problem, str(text).strip())
      rejects.append(Reject(*reject))
      continue
    line_of[trajectory.id] = line
    trajectories.append(trajectory)
  return trajectories, rejects


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


_MARK = re.compile(r"<<([^<>]*)>>")


def parse_gsm8k(
  record: Any, default_id: str, *, thoughts: bool = False
) -> Trajectory:
  """Builds a trajectory from a GSM8K record {"question": .., "answer": ..}.

  Each line of the solution is a step. The line "#### 72" needs no thought, so
  it ends the last step instead of being one. A model trained step by step then
  says when it is done.

  Raises:
    RecordError: the record does not have that form.
  """
  if not isinstance(record, dict):
    raise RecordError("(record)", "is no object with question and answer")
  text = schema.get(record, "answer", str, required=True)
  solution, mark, answer = text.rpartition("####")
  answer = answer.strip()
  if not mark or not answer:
    raise RecordError("answer", "does not end in '#### <answer>'; add it")
  lines = [line.strip() for line in solution.split("\n") if line.strip()]
  if not lines:
    raise RecordError("answer", "has no step before '####'; write one per line")
  steps = []
  for line in lines:
    thought = "; ".join(_MARK.findall(line)) or "nothing to compute"
    steps.append(
      Step(_MARK.sub("", line), thought=thought if thoughts else None)
    )
  steps[-1] = dataclasses.replace(
    steps[-1], text=f"{steps[-1].text}\n#### {answer}"
  )
  return Trajectory(
    id=schema.get(record, "id", str) or default_id,
    domain="math",
    problem=schema.get(record, "question", str, required=True),
    steps=tuple(steps),
    answer=answer,
  )


def _parser(config: DataConfig) -> Callable[[Any, str], Trajectory]:
  if config.format == "gsm8k":
    return lambda record, default_id: parse_gsm8k(
      record, default_id, thoughts=config.calculator_thoughts
    )
  return {"s1k": s1k.parse, "jsonl": schema.from_json}[config.format]


def _load_prepared(path: pathlib.Path, config: DataConfig) -> LoadReport:
  if config.format == "tfds":
    # Imported here: the import takes a second, which only this format needs.
    from srl_jax.data import tfds_builders

    return LoadReport(
      {name: [] for name in SPLITS} | tfds_builders.read(path), ()
    )
  splits: dict[str, list[Trajectory]] = {name: [] for name in SPLITS}
  rejects: list[Reject] = []
  files = [path / f"{name}.jsonl" for name in SPLITS]
  if not any(file.exists() for file in files):
    raise ValueError(
      f"{path} holds none of {', '.join(f.name for f in files)}; give a file"
    )
  for name, file in zip(SPLITS, files, strict=True):
    if file.exists():
      splits[name], refused = read_file(file, _parser(config))
      _check_rejects(splits[name], refused, file, config.strict)
      rejects += refused
  return LoadReport(splits, tuple(rejects))


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


def _json_rows(path: pathlib.Path) -> Iterator[tuple[int, bytes, Callable]]:
  with open(path, "rb") as file:
    for line, raw in enumerate(file, 1):
      if raw.strip():
        yield line, raw, _decode_json


def _decode_json(raw: bytes) -> Any:
  try:
    return json.loads(raw)
  except UnicodeDecodeError as error:
    raise RecordError(
      "(line)", f"is not UTF-8 at byte {error.start}; save the file as UTF-8"
    ) from None
  except ValueError as error:
    raise RecordError(
      "(line)", f"is not JSON ({error}); write one JSON object per line"
    ) from None


def _parquet_rows(path: pathlib.Path) -> Iterator[tuple[int, dict, Callable]]:
  # Imported on use: slow, and other formats do not need it.
  with needed_for("Parquet files", "pyarrow"):
    import pyarrow.parquet

  table = pyarrow.parquet.read_table(path)
  for row, record in enumerate(table.to_pylist(), 1):
    yield row, record, lambda record: record
