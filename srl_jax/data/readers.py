# SPDX-License-Identifier: Apache-2.0
"""Reads trajectories from data files, sets bad records aside, makes splits.

A bad record becomes a Reject, which names file, line and field and says what to
do; with `strict` it is an error. Copies of a problem land in the same split.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from srl_jax import storage, strict
from srl_jax.data import agents, checks, folders, gsm8k, s1k, schema
from srl_jax.data.joining import join_steps
from srl_jax.data.records import Place, Reject, read_file
from srl_jax.data.selection import ResolvedFilter, check_used, select
from srl_jax.data.splits import SPLITS, by_hash, deal_missing, shared_problems
from srl_jax.domains import DOMAINS, Domain, find_domain, lookup, registers
from srl_jax.domains.drawn import draw_splits
from srl_jax.trajectory import Trajectory

Format = Literal[
  "registers",
  "registers_student",
  "lookup",
  "lookup_student",
  "drawn",
  "gsm8k",
  "s1k",
  "jsonl",
  "agents",
  "tfds",
]
# Formats that need no file, with their functions (sizes, seed) -> splits.
_MADE = {
  "registers": registers.make_splits,
  "registers_student": registers.make_student_splits,
  "lookup": lookup.make_splits,
  "lookup_student": lookup.make_student_splits,
}
_ON_THE_HUB = {"gsm8k": "openai/gsm8k", "s1k": "simplescaling/s1K-1.1"}
_WITHOUT_FILE = (*_MADE, "drawn")
_CHOICES = ("resolved_only", "per_task", "target_tools")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where the trajectories come from and how they are split.

  Attributes:
    format: "registers" (small programs) and "lookup" (repositories of look-up
      tables) need no file. "registers_student" and "lookup_student" are the
      data that their students are pre-trained on, planted faults included;
      the "test" split holds problems of the kind that is to be hard for the
      student of registers, and easy ones for that of tables. "drawn" lets
      the domain draw them, if it has a function for it, as "sql" has.
      "gsm8k" and "s1k" read these datasets, "jsonl" the form that schema.py
      documents: from a file of JSON lines, a JSON list, Parquet or Arrow,
      compressed or not, or from a folder of such files. "agents" reads what
      software agents left, in the shapes of srl_jax.data.agents, from such
      files, from a .traj file, or from a folder of these. "tfds" reads a folder
      that srl_jax.data.prepare wrote.
    path: path of the file or folder.
    domain: domain of all trajectories, as a name in srl_jax.domains.DOMAINS or
      as "package.module:NAME" for your own; "" takes each record's own.
    strict: whether a bad record is an error. Otherwise it is set aside.
    calculator_thoughts: whether the expressions in marks such as <<48/2=24>>
      become the thoughts of the steps (only for "gsm8k"). Steps without marks
      get "nothing to compute". The marks are left out of the text either way.
    reasoning_thoughts: whether what DeepSeek-R1 thought before it wrote a
      solution is the thought before the first step (only for "s1k"). It is
      about the whole solution: for SFT with c.sft.trunks.task="solve".
    resolved_only: whether only trajectories are taken that succeed, as their
      metadata say under "resolved", by "true" or "false": of agents, those
      whose tests pass in the end; of "s1k", those that were graded right.
    per_task: most trajectories of one task, which the metadata name under
      "task"; more are drawn from by `seed`. 0 takes all.
    target_tools: the tools whose actions are learnt, separated by commas;
      other actions are only shown. "str_replace_editor:create" names one
      command of the editor. "" for all.
    steps_per_action: consecutive steps of the expert that make one action, so
      what a model writes in one go and one reward judges; 0 for the whole
      solution (the paper's ablation of how dense rewards are). Not for steps
      that an environment answers, nor for data that are prepared already.
    train_size: number of trajectories to train on; 0 for all that the other
      splits leave. The other sizes are for splits that the data lack, and are
      taken from their split "train".
    valid_size: number of trajectories held out to choose checkpoints and
      settings with.
    test_size: number of trajectories held out for the final number.
    pretrain_size: number of trajectories set aside for a warm start; "train"
      does not use them.
    seed: seed of the formats that need no file, where another seed makes
      other problems, and of `per_task`.
  """

  format: Format = "registers"
  path: str = ""
  domain: str = ""
  strict: bool = False
  calculator_thoughts: bool = False
  reasoning_thoughts: bool = False
  resolved_only: bool = False
  per_task: int = 0
  target_tools: str = ""
  steps_per_action: int = 1
  train_size: int = 0
  valid_size: int = 0
  test_size: int = 0
  pretrain_size: int = 0
  seed: int = 0

  def __post_init__(self):
    sizes = dict.fromkeys([f"{x}_size" for x in SPLITS], "[0, )")
    strict.check_literals(self)
    strict.check_numbers(
      self,
      seed="[0, 4294967295]",
      per_task="[0, )",
      steps_per_action="[0, )",
      **sizes,
    )
    if self.format in _WITHOUT_FILE and self.path:
      raise ValueError(
        f"data.path={self.path!r} is not read with data.format={self.format!r};"
        " set data.format to gsm8k, s1k, jsonl, agents or tfds, or clear"
        " data.path"
      )
    chosen = [x for x in _CHOICES if getattr(self, x)]
    if self.format in _WITHOUT_FILE and chosen:
      raise ValueError(
        f"data.{chosen[0]} chooses among the trajectories of a file, and"
        f" data.format={self.format!r} makes its own; leave it out"
      )
    if self.steps_per_action != 1 and self.format == "tfds":
      raise ValueError(
        f"data.steps_per_action={self.steps_per_action}, but prepared data have"
        " their actions already; set it to 1, or prepare the data again with it"
      )
    for name, of in (
      ("calculator_thoughts", "gsm8k"),
      ("reasoning_thoughts", "s1k"),
    ):
      if getattr(self, name) and self.format != of:
        raise ValueError(
          f"data.{name} is for data.format={of!r}, not {self.format!r}; set it "
          "to False"
        )
    if self.reasoning_thoughts and self.steps_per_action != 1:
      raise ValueError(
        "data.reasoning_thoughts has a thought before the first step only, and "
        f"data.steps_per_action={self.steps_per_action} joins steps whose "
        "thoughts are all known; set one of them back"
      )

  @property
  def needs_path(self) -> bool:
    """Whether data come from a path, or are made on demand."""
    return self.format not in _WITHOUT_FILE

  def sizes(self) -> dict[str, int]:
    """Returns the size of each split: {"train": train_size, ...}."""
    return {name: getattr(self, f"{name}_size") for name in SPLITS}


class LoadedData(NamedTuple):
  """Trajectories by split, and the bad records.

  Those to train on are in the order of the file, and those held out in an order
  of which the first so many are a sample of all (`splits.by_hash`).
  `warnings` are lines to print about records that were changed, and `left_out`
  has the ids of good trajectories that were not chosen, by the reason.
  """

  splits: dict[str, list[Trajectory]]
  rejects: tuple[Reject, ...]
  warnings: tuple[str, ...] = ()
  left_out: Mapping[str, tuple[str, ...]] = types.MappingProxyType({})

  @property
  def trajectories(self) -> list[Trajectory]:
    """All trajectories, split after split."""
    return [t for split in self.splits.values() for t in split]


def load_trajectories(config: DataConfig) -> LoadedData:
  """Loads the configured trajectories; every name in SPLITS is a key.

  Raises:
    ValueError: the file is missing or unusable, no record is good, the splits
      are larger than the data, there is no such domain, config.strict is set
      and a record is bad, or an environment answers steps that are to be one.
  """
  if config.domain:
    find_domain(config.domain)
  loaded = _with_domains(_load(config), config.domain)
  joined = {
    name: [join_steps(x, config.steps_per_action) for x in split]
    for name, split in loaded.splits.items()
  }
  lines = checks.missing_observations(loaded.trajectories)
  return loaded._replace(splits=joined, warnings=(*loaded.warnings, *lines))


def _load(config: DataConfig) -> LoadedData:
  sizes = config.sizes()
  if config.format in _WITHOUT_FILE:
    if not any(sizes.values()):
      raise ValueError(
        f"data.format={config.format!r} is made on demand; set data.train_size "
        "(and valid_size, test_size) to how many trajectories you want"
      )
    if config.format == "drawn":
      return LoadedData(draw_splits(_drawing(config), sizes, config.seed), ())
    return LoadedData(_MADE[config.format](sizes, config.seed), ())
  path = storage.path(config.path).expanduser()
  if not config.path or not path.exists():
    fetch = (
      f"; type: hf download {_ON_THE_HUB[config.format]} --repo-type dataset "
      f"--local-dir {config.path or 'data'}"
      if config.format in _ON_THE_HUB
      else ""
    )
    raise ValueError(
      f"data.path={config.path!r} does not exist; data.format="
      f"{config.format!r} needs the path of its file or folder{fetch}"
    )
  rejects, warnings, outcomes = [], (), ResolvedFilter()
  if config.format == "tfds":
    splits = _read_tfds(path)
  else:
    parts, warnings = _parts(path, config.format)
    splits, rejects = _read_parts(parts, config, outcomes)
  splits, left_out = _chosen(splits, config, outcomes)
  own = {name or "train": split for name, split in splits.items()}
  splits = deal_missing(own, sizes, path)
  warnings = (*warnings, *shared_problems(splits))
  every = {name: splits.get(name, []) for name in SPLITS}
  every |= {name: by_hash(every[name]) for name in ("valid", "test")}
  return LoadedData(every, tuple(rejects), warnings, left_out)


def _drawing(config: DataConfig) -> Domain:
  """The configured domain, which draws its own problems.

  Raises:
    ValueError: no domain is named, or it draws none.
  """
  can = ", ".join(repr(name) for name, x in DOMAINS.items() if x.draw)
  if not config.domain or find_domain(config.domain).draw is None:
    raise ValueError(
      f"data.domain={config.domain!r} draws no problems, and "
      f"data.format='drawn' asks for some; set data.domain to {can}, or to "
      'your own domain with a function draw, as "package.module:NAME"'
    )
  return find_domain(config.domain)


def _parts(
  path: pathlib.Path, form: Format
) -> tuple[list[folders.Part], tuple[str, ...]]:
  """Returns the files to read, and warnings about others."""
  if not path.is_dir():
    return [folders.Part(path, "", path.stem)], ()
  if form == "agents":
    files, warnings = folders.single_files_of(path)
    if files:
      return files, warnings
  return folders.parts_of(path)


def _chosen(
  splits: Mapping[str, list[Trajectory]],
  config: DataConfig,
  outcomes: ResolvedFilter,
) -> tuple[dict[str, list[Trajectory]], dict[str, tuple[str, ...]]]:
  """Returns what is chosen of the splits, and reason -> ids of the others."""
  left_out = {reason: tuple(ids) for reason, ids in outcomes.left_out.items()}
  chosen = {}
  used: collections.Counter[str] = collections.Counter()
  for name, trajectories in splits.items():
    chosen[name], others, of_split = select(trajectories, config)
    used.update(of_split)
    for reason, ids in others.items():
      left_out[reason] = left_out.get(reason, ()) + ids
  if config.target_tools and used:
    check_used(config.target_tools, used)
  if left_out and not any(chosen.values()):
    reasons = "; ".join(f"{r}: {len(ids):,}" for r, ids in left_out.items())
    raise ValueError(
      f"no trajectory of {config.path} is left ({reasons}); set"
      " data.resolved_only=False, or change data.target_tools"
    )
  return chosen, left_out


def _read_parts(
  parts: Sequence[folders.Part], config: DataConfig, outcomes: ResolvedFilter
) -> tuple[dict[str, list[Trajectory]], list[Reject]]:
  """Returns the trajectories by split, and the rejects of all files.

  With config.resolved_only, `outcomes` takes the names of what is not resolved.
  """
  more = {"keep": outcomes} if config.resolved_only else {}
  splits: dict[str, list[Trajectory]] = {}
  every_reject: list[Reject] = []
  for split in dict.fromkeys(part.split for part in parts):
    of_split = [part for part in parts if part.split == split]
    splits[split] = []
    rejects: list[Reject] = []
    place_of: dict[str, Place] = {}
    for part in of_split:
      found, refused = read_file(
        part.path,
        _parser(config),
        prefix=part.prefix,
        place_of=place_of,
        **more,
      )
      splits[split] += found
      rejects += refused
    # A shard may be empty, but not all of them.
    path = of_split[0].path if len(of_split) == 1 else config.path
    _check_rejects(place_of, rejects, path, config.strict)
    every_reject += rejects
  return splits, every_reject


def _with_domains(loaded: LoadedData, domain: str) -> LoadedData:
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
  return loaded._replace(splits=splits, warnings=warnings)


def _parser(config: DataConfig) -> Callable[[Any, str], Trajectory]:
  if config.format == "gsm8k":
    return functools.partial(gsm8k.parse, thoughts=config.calculator_thoughts)
  if config.format == "s1k":
    return functools.partial(s1k.parse, reasoning=config.reasoning_thoughts)
  return {
    "jsonl": schema.from_json,
    "agents": agents.parse,
  }[config.format]


def _read_tfds(path: pathlib.Path) -> dict[str, list[Trajectory]]:
  # Imported here: the import takes a second, which only this format needs.
  from srl_jax.data import tfds_builders

  return tfds_builders.read(path)


def _check_rejects(good, rejects, path, strict: bool) -> None:
  """Raises ValueError if none is good, or if strict and one is rejected."""
  if good and not (strict and rejects):
    return
  if not rejects:
    raise ValueError(f"{path} holds no records; one JSON object per line")
  shown = "\n  ".join(map(str, rejects[:5]))
  more = f"\n  and {len(rejects) - 5} more" if len(rejects) > 5 else ""
  cure = "leave them out with data.strict=False"
  if not good:
    cure = "choose the data.format that the file has"
  raise ValueError(
    f"{len(rejects)} of {len(rejects) + len(good)} records of {path}"
    f" cannot be used; repair them, or {cure}:\n  {shown}{more}"
  )
