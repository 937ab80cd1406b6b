# SPDX-License-Identifier: Apache-2.0
"""Folders are read as other libraries write them; the rest is named."""

import gzip
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from srl_jax.data.readers import DataConfig, load_trajectories
from tests.support import agents


def records(start, count):
  return [
    {"problem": f"problem {n}", "steps": ["s"]}
    for n in range(start, start + count)
  ]


def write(path, rows):
  """Writes records in the form that the name of the file says."""
  path.parent.mkdir(parents=True, exist_ok=True)
  schema = pa.schema({"problem": pa.string(), "steps": pa.list_(pa.string())})
  if path.suffix == ".parquet":
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema), path)
  elif path.suffix == ".feather":
    pa.feather.write_feather(pa.Table.from_pylist(rows, schema), path)
  elif path.suffix == ".arrow":
    with pa.ipc.new_stream(str(path), schema) as writer:
      writer.write_table(pa.Table.from_pylist(rows, schema))
  else:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def write_all(folder, names):
  """Writes two records to each file, numbered through."""
  for number, name in enumerate(names):
    write(folder / name, records(2 * number, 2))


def load(folder, **sizes):
  return load_trajectories(DataConfig("jsonl", str(folder), **sizes))


def numbers(report):
  """The problems' numbers by split; in order where they are trained on."""
  found = {
    split: [int(t.problem.split()[1]) for t in trajectories]
    for split, trajectories in report.splits.items()
    if trajectories
  }
  held_out = found.keys() & {"valid", "test"}
  return found | {split: sorted(found[split]) for split in held_out}


NAMED = {
  "hub": (
    "data/test-00000-of-00001.parquet",
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
  ),
  "converted by the hub": (
    "default/test/0000.parquet",
    "default/train/0000.parquet",
    "default/train/0001.parquet",
  ),
  "saved to disk": (
    "test/data-00000-of-00001.arrow",
    "train/data-00000-of-00002.arrow",
    "train/data-00001-of-00002.arrow",
  ),
  "Feather": ("test.feather", "train-1.feather", "train-2.feather"),
  "partitions": (
    "split=test/part-0.parquet",
    "split=train/part-0.parquet",
    "split=train/part-1.parquet",
  ),
  "words that say the same": (
    "my_testing.jsonl",
    "my_training_2.jsonl",
    "my_training_10.jsonl",
  ),
  "compressed": ("test.jsonl.gz", "train-1.jsonl.gz", "train-2.jsonl.gz"),
}


@pytest.mark.parametrize("names", NAMED.values(), ids=NAMED.keys())
def test_names_of_files_and_folders_say_the_splits(tmp_path, names):
  write_all(tmp_path, names)
  report = load(tmp_path)
  assert numbers(report) == {"test": [0, 1], "train": [2, 3, 4, 5]}
  assert len({t.id for t in report.trajectories}) == 6
  dealt = load(tmp_path, valid_size=1, train_size=2).splits
  assert [len(dealt[x]) for x in ("train", "valid", "test")] == [2, 1, 2]
  words = r"'test' of its own, .* data.test_size=1 .* set data.test_size=0"
  with pytest.raises(ValueError, match=words):
    load(tmp_path, test_size=1)


def test_a_dataset_saved_to_disk_is_read_without_its_caches(tmp_path):
  write(tmp_path / "data-00000-of-00001.arrow", records(0, 3))
  write(tmp_path / "cache-0123.arrow", records(3, 3))
  write(tmp_path / "left.arrow", records(6, 3))
  state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
  (tmp_path / "state.json").write_text(json.dumps(state))
  (tmp_path / "dataset_info.json").write_text("{}")
  assert numbers(load(tmp_path)) == {"train": [0, 1, 2]}
  state["_indices_data_files"] = [{"filename": "indices.arrow"}]
  (tmp_path / "state.json").write_text(json.dumps(state))
  with pytest.raises(ValueError, match="flatten_indices"):
    load(tmp_path)


def test_shards_without_splits_are_one_file_in_parts(tmp_path):
  write_all(tmp_path, [f"part-{n:05}-4f1c.snappy.parquet" for n in range(3)])
  write(tmp_path / "part-00003-4f1c.snappy.parquet", [])
  for beside in (
    "_SUCCESS",
    "_metadata",
    ".part-00000.parquet.crc",
    "README.md",
  ):
    (tmp_path / beside).write_bytes(b"x")
  assert numbers(load(tmp_path)) == {"train": [0, 1, 2, 3, 4, 5]}
  sizes = {k: len(v) for k, v in numbers(load(tmp_path, test_size=2)).items()}
  assert sizes == {"train": 4, "test": 2}


def test_folders_that_differ_in_numbers_belong_together(tmp_path):
  write_all(tmp_path, ["2023-12/a.jsonl", "2024-01/b.jsonl"])
  assert numbers(load(tmp_path)) == {"train": [0, 1, 2, 3]}


def test_a_folder_of_train_only_can_be_split(tmp_path):
  write(tmp_path / "train.parquet", records(0, 6))
  assert numbers(load(tmp_path)) == {"train": [0, 1, 2, 3, 4, 5]}
  assert len(numbers(load(tmp_path, valid_size=2))["valid"]) == 2


def test_a_folder_without_train_cannot_be_split(tmp_path):
  write(tmp_path / "test.jsonl", records(0, 6))
  assert numbers(load(tmp_path)) == {"test": [0, 1, 2, 3, 4, 5]}
  words = r"no split 'train' to take others from; set data.valid_size=0"
  with pytest.raises(ValueError, match=words):
    load(tmp_path, valid_size=2)


def test_an_id_is_taken_in_all_shards_of_a_split(tmp_path):
  for name in ("train-1", "train-2", "test"):
    write(tmp_path / f"{name}.jsonl", [{"id": "a", **records(0, 1)[0]}])
  write(tmp_path / "train-2.jsonl", [{"id": "a", **records(0, 1)[0]}])
  report = load(tmp_path)
  assert numbers(report) == {"train": [0], "test": [0]}
  [reject] = report.rejects
  assert f"taken by line 1 of {tmp_path / 'train-1.jsonl'}" in reject.reason


def test_what_prepare_and_others_leave_is_no_data(tmp_path):
  write_all(tmp_path, ["train.jsonl", "valid.jsonl"])
  (tmp_path / "rejects.jsonl").write_text('{"path": "x"}')
  (tmp_path / "dataset_infos.json").write_text("{}")
  report = load(tmp_path)
  assert numbers(report) == {"train": [0, 1], "valid": [2, 3]}
  assert not report.rejects and not report.warnings


def test_files_beside_those_of_splits_are_named(tmp_path):
  write_all(tmp_path, ["train.jsonl", "test.jsonl"])
  (tmp_path / "notes.json").write_text("no records")
  report = load(tmp_path)
  assert numbers(report) == {"train": [0, 1], "test": [2, 3]}
  [warning] = report.warnings
  assert warning.startswith("not read, because") and "notes.json" in warning


@pytest.mark.parametrize(
  ("names", "words"),
  [
    (
      ["train.jsonl", "train.parquet"],
      "several sets of data for the split tra",
    ),
    (
      ["train.jsonl", "train.jsonl.gz"],
      "several sets of data for the split tr",
    ),
    (["a/train.jsonl", "b/train.jsonl"], "a/train.jsonl, b/train.jsonl; give"),
    (["train_sft.jsonl", "train_rl.jsonl"], "several sets of data for the spl"),
    (["a.jsonl", "b.parquet"], "several sets of data: a.jsonl, b.parquet"),
    (["sft/0.jsonl", "rl/0.jsonl"], "several sets of data: rl/0.jsonl, sft/0"),
    (["train_test.jsonl"], "says train and test; rename it"),
    (["year=2024/part-0.parquet"], "in a partition of 'year'"),
    (["notes.txt"], "holds none of train.jsonl, .* give a file or another"),
    (["1.0.0/features.json"], "holds a TFDS dataset; set data.format=tfds"),
    (
      ["a/a.traj"],
      "trajectories of agents such as a.traj; set data.format=",
    ),
  ],
)
def test_folders_that_leave_open_what_to_read_are_refused(
  tmp_path, names, words
):
  write_all(tmp_path, names)
  with pytest.raises(ValueError, match=words):
    load(tmp_path)


def test_every_run_of_agents_in_a_folder_is_read(tmp_path):
  for name in (
    "run1/a__b-1/a__b-1.traj",
    "run1/a__b-2/a__b-2.traj.json",
    "run2/a__b-1/agent/trajectory.json",
    "lone.traj",
    ".cache/old.traj",
  ):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Over several lines, as all of this software writes it.
    path.write_text(json.dumps(agents.traj(), indent=2), "utf-8")
  (tmp_path / "run1" / "preds.json").write_text("{}", "utf-8")
  (tmp_path / "run1" / "broken.traj").write_text('{\n  "history": [', "utf-8")
  report = load_trajectories(DataConfig("agents", str(tmp_path)))
  assert [t.id for t in report.trajectories] == [
    f"{agents.TASK}@{name}-1"
    for name in ("lone", "run1-a__b-1", "run1-a__b-2", "run2-a__b-1-agent")
  ]
  [reject] = report.rejects
  assert str(reject).startswith(f"{tmp_path / 'run1' / 'broken.traj'}:1: ")
  assert "is not JSON" in reject.reason
  one = tmp_path / "run1/a__b-1/a__b-1.traj"
  [alone] = load_trajectories(DataConfig("agents", str(one))).trajectories
  assert alone.steps == report.trajectories[0].steps


def write_runs(folder, names):
  """Writes the same run of an agent under several names."""
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(agents.traj()), "utf-8")


def test_runs_of_agents_in_folders_of_splits_are_of_these(tmp_path):
  # The names of tasks are no names of splits.
  names = ["train/a/a.traj", "train/pytest-dev__pytest-1/agent/trajectory.json"]
  write_runs(tmp_path, [*names, "test/pytest-dev__pytest-2/train.traj"])
  write_runs(tmp_path, ["d/d.traj"])
  report = load_trajectories(DataConfig("agents", str(tmp_path)))
  sizes = {k: len(v) for k, v in report.splits.items() if v}
  assert sizes == {"train": 2, "test": 1}
  [warning] = [x for x in report.warnings if "not read" in x]
  assert warning.endswith("d/d.traj")


def test_files_beside_runs_of_agents_are_named(tmp_path):
  write_runs(tmp_path, ["a/a.traj"])
  write(tmp_path / "old.jsonl", records(0, 2))
  (tmp_path / "preds.json").write_text("{}", "utf-8")
  report = load_trajectories(DataConfig("agents", str(tmp_path)))
  assert len(report.trajectories) == 1
  [warning] = report.warnings
  assert "old.jsonl, preds.json" in warning and "a.traj" in warning
