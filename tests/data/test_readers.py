# SPDX-License-Identifier: Apache-2.0
"""Good records are read, bad ones named, and splits share no problem."""

import collections
import dataclasses
import json
import re

import pytest

from srl_jax.data import records, schema
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.data.splits import shared_problems, split_by_problem
from srl_jax.trajectory import Step
from tests.support.trajectories import AGENT, TITLED, sums

GSM8K = {
  "question": "Ann has 3 bags of 4 nuts and eats 2. How many are left?",
  "answer": (
    "She has 3*4=<<3*4=12>>12 nuts.\n\nThen 12-2=$<<12-2=10>>10.0 are left."
    "\nThat is her answer.\n#### 10"
  ),
}
JSONL = {"id": "a", "problem": "1+1?", "steps": ["2"]}


def write(path, *records):
  """Writes records one per line; broken ones are given as raw bytes."""
  lines = [
    r if isinstance(r, bytes) else json.dumps(r).encode() for r in records
  ]
  path.write_bytes(b"\n".join(lines) + b"\n")
  return str(path)


def test_gsm8k_lines_are_steps_and_the_last_one_holds_the_answer(tmp_path):
  path = write(tmp_path / "g.jsonl", GSM8K)
  [trajectory] = load_trajectories(DataConfig("gsm8k", path)).trajectories
  assert trajectory.steps == (
    Step("She has 3*4=12 nuts."),
    Step("Then 12-2=$10.0 are left."),
    Step("That is her answer.\n#### 10"),
  )
  assert (trajectory.id, trajectory.domain) == ("g-1", "math")
  assert (trajectory.problem, trajectory.answer) == (GSM8K["question"], "10")


def test_gsm8k_marks_can_become_thoughts(tmp_path):
  path = write(tmp_path / "g.jsonl", GSM8K)
  config = DataConfig("gsm8k", path, calculator_thoughts=True)
  steps = load_trajectories(config).trajectories[0].steps
  assert steps[0].text == "She has 3*4=12 nuts."
  assert [s.thought for s in steps] == [
    "3*4=12",
    "12-2=10",
    "nothing to compute",
  ]


BROKEN_GSM8K = [
  ({"question": "q"}, "answer", "is missing (found: question)"),
  ({"answer": "1\n#### 1"}, "question", "is missing (found: answer)"),
  ({**GSM8K, "answer": 10}, "answer", "is 10 (a number); write it as a string"),
  ({**GSM8K, "answer": "no mark"}, "answer", "does not end in '#### <answer>'"),
  ({**GSM8K, "answer": "a\n####"}, "answer", "does not end in '#### <answer>'"),
  ({**GSM8K, "answer": "#### 3"}, "answer", "has no step before '####'"),
  ({**GSM8K, "question": " "}, "question", "is empty"),
  ([1], "(record)", "no object with question and answer"),
]


@pytest.mark.parametrize(("record", "field", "words"), BROKEN_GSM8K)
def test_broken_gsm8k_is_named_and_good_records_are_kept(
  tmp_path, record, field, words
):
  path = write(tmp_path / "g.jsonl", GSM8K, record, GSM8K)
  report = load_trajectories(DataConfig("gsm8k", path))
  assert [t.id for t in report.trajectories] == ["g-1", "g-3"]
  [reject] = report.rejects
  assert str(reject).startswith(f"{path}:2: field {field!r}: ")
  assert words in reject.reason
  with pytest.raises(ValueError, match=r"1 of 3 .* data.strict=False") as error:
    load_trajectories(DataConfig("gsm8k", path, strict=True))
  assert str(reject) in str(error.value)


BROKEN_LINES = [
  (b'{"id": "b", "problem": "1+1?"', "(line)", "is not JSON (Expecting"),
  (b'{"id": "b\xff"}', "(line)", "is not UTF-8 at byte 9"),
  (b'"text"', "(record)", "is a string; an object with id, domain"),
  (JSONL, "id", "'a' is taken by line 1; give every record its own"),
  ({**JSONL, "id": "b", "steps": []}, "steps", "at least one step"),
  ({**JSONL, "id": "b", "stpes": []}, "stpes", "did you mean 'steps'?"),
]


@pytest.mark.parametrize(("line", "field", "words"), BROKEN_LINES)
def test_broken_jsonl_is_named_and_good_records_are_kept(
  tmp_path, line, field, words
):
  path = write(tmp_path / "d.jsonl", JSONL, b"", line, {**JSONL, "id": "z"})
  report = load_trajectories(DataConfig("jsonl", path))
  assert [t.id for t in report.trajectories] == ["a", "z"]
  [reject] = report.rejects
  assert str(reject).startswith(f"{path}:3: field {field!r}: ")
  assert words in reject.reason


def test_rejects_file_holds_the_reason_and_the_record(tmp_path):
  path = write(tmp_path / "d.jsonl", JSONL, b'{"id": "\xff"', {"id": "b"})
  report = load_trajectories(DataConfig("jsonl", path))
  records.write_rejects(report.rejects, tmp_path / "rejects.jsonl")
  lines = (tmp_path / "rejects.jsonl").read_text("utf-8").splitlines()
  first, second = map(json.loads, lines)
  assert first["record"] == '{"id": "\ufffd"'
  assert second == {
    "path": path,
    "line": 3,
    "field": "steps",
    "reason": "is missing (found: id); add it",
    "record": '{"id": "b"}',
  }


def test_a_large_file_in_another_format_fits_into_memory(tmp_path, monkeypatch):
  # As lines of JSON, it is not read a second time and as a whole.
  monkeypatch.setattr(records.sources, "document_rows", None)
  path = tmp_path / "d.jsonl"
  write(path, *[{"conversations": []}] * 1002)
  _, rejects = records.read_file(path, schema.from_json)
  assert len(rejects) == 1002
  assert [bool(r.record) for r in rejects[998:]] == [True, True, False, False]


def test_windows_files_are_read_as_others(tmp_path):
  path = tmp_path / "d.jsonl"
  path.write_bytes(b"\xef\xbb\xbf" + json.dumps(JSONL).encode() + b"\r\n\r\n")
  report = load_trajectories(DataConfig("jsonl", str(path)))
  assert [t.id for t in report.trajectories] == ["a"] and not report.rejects


def test_parquet_is_read_as_jsonl_is(tmp_path):
  import pyarrow
  import pyarrow.parquet

  table = pyarrow.Table.from_pylist([GSM8K, {**GSM8K, "answer": "none"}])
  pyarrow.parquet.write_table(table, tmp_path / "g.parquet")
  parquet = load_trajectories(DataConfig("gsm8k", str(tmp_path / "g.parquet")))
  path = write(tmp_path / "g.jsonl", GSM8K)
  assert parquet.splits == load_trajectories(DataConfig("gsm8k", path)).splits
  assert [(r.line, r.field) for r in parquet.rejects] == [(2, "answer")]


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (None, "does not exist; data.format='jsonl' needs the path"),
    (b"", "holds no records"),
    (b"\n \n", "holds no records"),
    (b"[1,\n2]\n", "2 of 2 records .* or choose the data.format"),
  ],
)
def test_a_file_without_a_good_record_is_an_error(tmp_path, content, words):
  path = tmp_path / "d.jsonl"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ValueError, match=words):
    load_trajectories(DataConfig("jsonl", str(path)))


@pytest.mark.parametrize(
  ("config", "words"),
  [
    (
      {"format": "gsm8k", "valid_size": -1},
      "valid_size=-1; set it to 0 or",
    ),
    ({"path": "x.jsonl"}, "set data.format to gsm8k"),
    ({"format": "s1k", "calculator_thoughts": True}, "set it to False"),
    ({"format": "gsm8k", "reasoning_thoughts": True}, "set it to False"),
    (
      {"format": "s1k", "reasoning_thoughts": True, "steps_per_action": 0},
      "set one of them back",
    ),
  ],
)
def test_impossible_config_is_refused(config, words):
  with pytest.raises(ValueError, match=words):
    DataConfig(**config)


def test_splits_have_their_sizes_and_share_no_problem():
  data = [sums(1, f"s{i}") for i in range(50)]
  sizes = {"valid": 5, "test": 7, "pretrain": 11, "train": 0}
  splits = split_by_problem(data, sizes)
  assert {k: len(v) for k, v in splits.items()} == {**sizes, "train": 27}
  problems = [t.problem for split in splits.values() for t in split]
  assert len(set(problems)) == 50
  for split in splits.values():
    assert split == [t for t in data if t in split]  # In the input's order.


def test_copies_of_a_problem_stay_together_whatever_their_spelling():
  data = [sums(1, f"s{i}") for i in range(20)]
  data += [
    dataclasses.replace(t, id=t.id + "'", problem=f" {t.problem.upper()}\n")
    for t in data
  ]
  splits = split_by_problem(data, {"valid": 5, "test": 6})
  for split in splits.values():
    ids = {t.id.rstrip("'") for t in split}
    assert {t.id for t in split} == ids | {i + "'" for i in ids}
  assert len(splits["valid"]) == 6  # 3 problems: 5 would separate two copies.


def test_a_split_does_not_change_when_other_data_are_reordered():
  data = [sums(1, f"s{i}") for i in range(30)]
  sizes = {"test": 10, "train": 5}
  one = split_by_problem(data, sizes)
  two = split_by_problem(data[::-1], sizes)
  for name in one:
    assert {t.id for t in one[name]} == {t.id for t in two[name]}
  # A hash that changed with the interpreter would move the test set.
  assert [t.id for t in one["test"]][:4] == ["s3", "s4", "s9", "s10"]


@pytest.mark.parametrize("has_splits", [False, True])
def test_the_first_held_out_problems_are_of_all_sources(tmp_path, has_splits):
  # A folder may give one after the other, or easy problems first.
  rows = [
    JSONL | {"id": f"{source}{i}", "problem": f"{source} {i}"}
    for source in ("easy", "hard")
    for i in range(100)
  ]
  sizes = {"valid_size": 64, "test_size": 64}
  if has_splits:
    write(tmp_path / "train.jsonl", JSONL)
    write(tmp_path / "valid.jsonl", *rows)
    write(tmp_path / "test.jsonl", *rows)
    sizes = {}
  else:
    write(tmp_path / "all.jsonl", *rows)
  splits = load_trajectories(DataConfig("jsonl", str(tmp_path), **sizes)).splits
  for split in ("valid", "test"):
    hard = sum(t.id.startswith("hard") for t in splits[split][:32])
    assert 10 <= hard <= 22


@pytest.mark.parametrize(
  ("sizes", "cure"),
  [
    ({"valid": 4}, "set data.valid_size to 2 or less"),
    ({"train": 0, "valid": 3}, "set data.valid_size to 2 or less"),
    ({"valid": 2, "train": 2}, "set data.valid_size to 1 or less"),
    ({"train": 9}, "set data.train_size to 3 or less"),
    ({"valid": 2, "test": 9}, "set data.test_size to 0"),
    (
      {"valid": 5, "test": 9},
      "lower data.test_size and data.valid_size, to no more than 2 together",
    ),
  ],
)
def test_splits_larger_than_the_data_are_refused_with_what_to_set(sizes, cure):
  data = [sums(1, f"s{i}") for i in range(3)]
  with pytest.raises(ValueError, match=r"3 trajectories .* too few") as caught:
    split_by_problem(data, sizes)
  assert str(caught.value).endswith(f"; {cure}")


def test_the_size_to_set_counts_copies_of_a_problem():
  data = [sums(1, f"s{i % 3}") for i in range(30)]  # 3 problems, 10 of each.
  with pytest.raises(ValueError, match="valid_size to 20 or less"):
    split_by_problem(data, {"valid": 25})
  assert len(split_by_problem(data, {"valid": 20})["train"]) == 10


def test_a_folder_of_jsonl_keeps_its_splits(tmp_path):
  for split, trajectory in (("train", TITLED), ("test", AGENT)):
    write(tmp_path / f"{split}.jsonl", schema.to_json(trajectory))
  report = load_trajectories(DataConfig("jsonl", str(tmp_path)))
  assert report.splits == {
    "train": [TITLED],
    "valid": [],
    "test": [AGENT],
    "pretrain": [],
  }


def test_copies_and_other_wordings_of_a_task_land_in_one_split():
  def one(number, problem, **metadata):
    return dataclasses.replace(
      sums(1), id=str(number), problem=problem, metadata=metadata
    )

  # The issue of each task is told in two ways, and one of them without its id.
  data = [
    one(3 * k + i, f"issue {k}{'!' * (i == 1)}", **task)
    for k in range(20)
    for i, task in enumerate(({"task": f"t{k}"}, {"task": f"t{k}"}, {}))
  ]
  splits = split_by_problem(data, {"valid": 15, "test": 15})
  assert not list(shared_problems(splits))
  for split in splits.values():
    of_task = collections.Counter(int(t.id) // 3 for t in split)
    assert set(of_task.values()) <= {3}
  assert [len(splits[x]) for x in ("train", "valid", "test")] == [30, 15, 15]
  # Texts without a common task may be of one problem, by a chain of others.
  chains = [
    one(6 * k + i, f"{text} {k}", task=f"{task} {k}")
    for k in range(20)
    for i, (text, task) in enumerate(("a1", "b1", "b2", "c2", "c3", "d3"))
  ]
  for split in split_by_problem(chains, {"valid": 30, "test": 30}).values():
    of_chain = collections.Counter(int(t.id) // 6 for t in split)
    assert set(of_chain.values()) <= {6}
  # What is known of the tasks of other splits counts too.
  splits = {"train": [data[0]], "valid": [data[2]], "test": [data[1]]}
  assert len(list(shared_problems(splits))) == 3


def test_splits_of_ones_own_that_share_problems_are_told(tmp_path):
  def warned(**splits):
    folder = tmp_path / "-".join(splits)
    folder.mkdir()
    for split, problems in splits.items():
      records = [
        JSONL | {"id": f"{split}{i}", "problem": problem}
        for i, problem in enumerate(problems)
      ]
      write(folder / f"{split}.jsonl", *records)
    return load_trajectories(DataConfig("jsonl", str(folder))).warnings

  [line] = warned(train=["1+1?", "1+2 ?"], test=["of 3?", "1+2  ?", "of 4?"])
  assert "1 of 3 problems of the split 'test' are in 'train' too" in line
  assert "'train1' of 'train' is 'test1' of 'test'" in line
  assert not warned(train=["1?"], pretrain=["1?"], test=["2?"])


def test_an_empty_folder_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=re.escape("none of train.jsonl")):
    load_trajectories(DataConfig("jsonl", str(tmp_path)))


def test_register_data_come_in_the_sizes_asked_for():
  report = load_trajectories(DataConfig(train_size=3, test_size=2, seed=1))
  assert {k: len(v) for k, v in report.splits.items()} == {
    "train": 3,
    "valid": 0,
    "test": 2,
    "pretrain": 0,
  }
  other = load_trajectories(DataConfig(train_size=3, test_size=2, seed=2))
  assert report.trajectories != other.trajectories
  with pytest.raises(ValueError, match=r"set data.train_size"):
    load_trajectories(DataConfig())
