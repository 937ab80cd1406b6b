# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder hold records, and of which split.

Folders that other libraries write are taken as they are:

  train.jsonl, valid.jsonl                       one file per split
  data/train-00000-of-00002.parquet, ...         as on the Hugging Face hub
  train/data-00000-of-00001.arrow, test/...      datasets' save_to_disk
  part-00000-....parquet, _SUCCESS               Spark, without splits

A name between other signs than letters names the split: the file's, else that
of the nearest folder. Files whose names begin with "." or "_" are left out, as
those libraries do. Files are not opened here, but for state.json.

Agents leave a folder with a file for each trajectory (`single_files_of`):
SWE-agent's are NAME/NAME.traj, mini-swe-agent's NAME/NAME.traj.json and
Harbor's NAME/agent/trajectory.json. Of these only folders such as train or
test_2 name a split, for words also stand in names of tasks.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from srl_jax import storage

SPLIT_OF_WORD = {
  "train": "train",
  "training": "train",
  "valid": "valid",
  "validation": "valid",
  "val": "valid",
  "dev": "valid",
  "test": "test",
  "testing": "test",
  "pretrain": "pretrain",
}
# How the name of a file of records ends.
FORM = re.compile(
  r"\.(jsonl|ndjson|json|parquet|arrow|feather)(\.(?:gz|bz2|xz|zstd?|lz4))?$",
  re.I,
)
# What the libraries write beside the records, and srl_jax.data.prepare.
_BESIDE = re.compile(
  r"rejects\.jsonl|(?:state|dataset_info|dataset_infos|dataset_dict|features"
  r"|metadata|config|package(?:-lock)?)\.json|cache-.*\.arrow",
  re.I,
)
_SINGLE = re.compile(r".*\.traj(?:\.json)?|trajectory\.json")
_PARTITION = re.compile(r"([^=]+)=(.*)")


class Part(NamedTuple):
  """A file of records; split is "" if nothing names it."""

  path: pathlib.Path
  split: str
  prefix: str  # Default ids of its records begin so.


class _Found(NamedTuple):
  part: Part
  form: str  # The endings of its name.
  series: str  # What files that belong together have in common.


def parts_of(folder: pathlib.Path) -> tuple[list[Part], tuple[str, ...]]:
  """Returns the files of records in a folder, and warnings about the others.

  The files are in the order of their names.

  Raises:
    ValueError: there are none, or it is not clear which belong together.
  """
  files = [
    file
    for file in sorted(storage.list_files(folder), key=_order)
    if FORM.search(file.name) and _is_data(file, folder)
  ]
  if not files:
    raise ValueError(_no_files(folder))
  found = [_found(file, folder) for file in _without_caches(files)]
  parts, warnings = _of_splits([f.part for f in found], folder)
  found = [f for f in found if f.part.split or not warnings]
  for split in dict.fromkeys(f.part.split for f in found):
    same = [f for f in found if f.part.split == split]
    for one in same[1:]:
      if (one.form, one.series) != (same[0].form, same[0].series):
        raise ValueError(
          f"{folder} holds several sets of data"
          f"{f' for the split {split}' if split else ''}:"
          f" {_names([same[0].part.path, one.part.path], folder)}; give the"
          " folder or file of the one you mean, or move the other away"
        )
  return parts, warnings


def single_files_of(
  folder: pathlib.Path,
) -> tuple[list[Part], tuple[str, ...]]:
  """Returns the files of single trajectories, and warnings about the others.

  They are in the order of their names; none if there are no such files.
  """
  data = [
    file
    for file in sorted(storage.list_files(folder), key=_order)
    if _is_data(file, folder)
  ]
  files = [file for file in data if _SINGLE.fullmatch(file.name)]
  beside = [
    file
    for file in data
    if FORM.search(file.name) and not _SINGLE.fullmatch(file.name)
  ]
  parts, warnings = _of_splits(
    [
      Part(file, _split_around(file, folder), _single_name(file, folder))
      for file in files
    ],
    folder,
  )
  if parts and beside:
    warnings += (
      f"not read, because {folder} holds single trajectories such as"
      f" {files[0].name}: {_names(beside, folder)}; to read them, give the file"
      " or a folder of their own",
    )
  return parts, warnings


def _split_around(file: pathlib.Path, folder: pathlib.Path) -> str:
  """The split of a single trajectory, after the nearest folder such as train.

  Names that say something else too do not count: they are of tasks, such as
  pytest-dev__pytest-5227.
  """
  for name in reversed(file.relative_to(folder).parts[:-1]):
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    if len(words) == 1 and words[0] in SPLIT_OF_WORD:
      return SPLIT_OF_WORD[words[0]]
  return ""


def _of_splits(
  parts: list[Part], folder: pathlib.Path
) -> tuple[list[Part], tuple[str, ...]]:
  """Leaves out, with a warning, what is of no split where other files are."""
  unnamed = [part.path for part in parts if not part.split]
  if not 0 < len(unnamed) < len(parts):
    return parts, ()
  warning = (
    f"not read, because the names of other files in {folder} say train,"
    f" valid, test or pretrain: {_names(unnamed, folder)}"
  )
  return [part for part in parts if part.split], (warning,)


def _single_name(file: pathlib.Path, folder: pathlib.Path) -> str:
  """The folders down to a file, and its name unless that repeats the last."""
  *names, last = file.relative_to(folder).parts
  stem = last.partition(".traj")[0]
  if stem == "trajectory.json" or (names and stem == names[-1]):
    stem = ""
  return "-".join(filter(None, (*names, stem))) or folder.name


def _order(path: pathlib.Path) -> list[tuple[int, str]]:
  """Sorts shard 2 before shard 10."""
  return [
    (int(text) if text.isascii() and text.isdecimal() else -1, text)
    for text in re.split(r"(\d{1,18})", str(path))
  ]


def _is_data(file: pathlib.Path, folder: pathlib.Path) -> bool:
  inside = file.relative_to(folder).parts
  return not (
    any(name.startswith((".", "_")) for name in inside)
    or _BESIDE.fullmatch(file.name)
  )


def _without_caches(files: list[pathlib.Path]) -> list[pathlib.Path]:
  """Leaves out Arrow files that a state.json beside them does not name.

  Raises:
    ValueError: the state.json is of a version that reorders the rows.
  """
  named: dict[pathlib.Path, set[str] | None] = {}
  for folder in {file.parent for file in files}:
    try:
      state = json.loads((folder / "state.json").read_text("utf-8"))
      named[folder] = {entry["filename"] for entry in state["_data_files"]}
    except (OSError, ValueError, TypeError, KeyError):
      continue
    if state.get("_indices_data_files"):
      raise ValueError(
        f"{folder} was saved by an old version of datasets, with an order of"
        " rows of its own; type: datasets.load_from_disk(path).flatten_indices"
        "().to_json('data.jsonl')"
      )
  return [f for f in files if (n := named.get(f.parent)) is None or f.name in n]


def _found(file: pathlib.Path, folder: pathlib.Path) -> _Found:
  inside = file.relative_to(folder).parts
  form = "".join(filter(None, FORM.search(file.name).groups())).lower()
  stem = file.name[: -len(form) - 1]
  names = [*inside[:-1], stem]
  for name in inside[:-1]:
    match = _PARTITION.fullmatch(name)
    if match and match[1] != "split":
      raise ValueError(
        f"{file} lies in a partition of {match[1]!r}, and its records lack"
        " that field; write the data again without partitions"
      )
  prefix = "-".join(names)
  split, length = "", len(names) - 1  # Of the path to what names the split.
  for at in reversed(range(len(names))):
    splits = _splits_in(names[at])
    if len(splits) > 1:
      raise ValueError(
        f"{names[at]!r} in the name of {file} says {' and '.join(splits)};"
        " rename it after one of them"
      )
    if splits:
      split, length = splits[0], at + 1
      break
  series = re.sub(r"\d+", "#", "/".join(names[:length]))
  return _Found(Part(file, split, prefix), form, series)


def _splits_in(name: str) -> list[str]:
  """Returns the splits that a name says: "my_train-00001" says train."""
  words = re.split(r"[^a-z]+", name.lower())
  found = [SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD]
  return list(dict.fromkeys(found))


def _names(files: Iterable[pathlib.Path], folder: pathlib.Path) -> str:
  names = [str(file.relative_to(folder)) for file in files]
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return ", ".join(names[:3]) + more


def _no_files(folder: pathlib.Path) -> str:
  if any(file.name == "features.json" for file in storage.list_files(folder)):
    return (
      f"{folder} holds a TFDS dataset; set data.format=tfds to read it (the"
      " command srl_jax.data.prepare writes such folders)"
    )
  singles, _ = single_files_of(folder)
  if singles:
    return (
      f"{folder} holds trajectories of agents such as {singles[0].path.name};"
      " set data.format=agents to read them"
    )
  return (
    f"{folder} holds none of train.jsonl, valid.jsonl, test.jsonl or"
    " pretrain.jsonl, nor other files of .jsonl, .json, .parquet, .arrow or"
    " .feather; give a file or another folder"
  )
