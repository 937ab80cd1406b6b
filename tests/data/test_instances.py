# SPDX-License-Identifier: Apache-2.0
"""Rows of SWE-bench are read, and other rows do not pass for them."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from srl_jax.data import instances
from srl_jax.domains.software.swebench import VERIFIED, Instance

ROW = {
  "repo": "acme/parts",
  "instance_id": "acme__parts-1",
  "base_commit": "a" * 40,
  "patch": "diff --git a/x b/x\n",
  "test_patch": "",
  "problem_statement": "It fails.\r\n",
  "hints_text": "",
  "version": "1.0",
  "FAIL_TO_PASS": '["t"]',
  "PASS_TO_PASS": "[]",
  "difficulty": "<15 min fix",
}


def write(path, rows):
  if path.suffix == ".parquet":
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  elif path.suffix == ".json":
    path.write_text(json.dumps(rows))
  else:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def read(path, rows):
  suite, _ = instances.parse_suite(str(path))
  return instances.read_instances(suite, write(path, rows), pytest.fail)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_every_format_gives_the_same_instances(tmp_path, name):
  rows = [ROW, ROW | {"instance_id": "acme__parts-2", "patch": None}]
  one, two = read(tmp_path / name, rows)
  assert one == Instance(
    id="acme__parts-1",
    text="It fails.\r\n",
    answer="diff --git a/x b/x\n",
    level="<15 min fix",
    subject="acme/parts",
    suite="a",
    base_commit="a" * 40,
  )
  assert (two.id, two.answer) == ("acme__parts-2", "")


@pytest.mark.parametrize(
  ("row", "said"),
  [
    ({"problem": "?", "answer": "1"}, r"in the field 'instance_id' \(it has p"),
    (ROW | {"repo": ""}, "no text in the field 'repo'"),
    (ROW | {"base_commit": None}, "no text in the field 'base_commit'"),
    (ROW | {"problem_statement": " \n"}, "in the field 'problem_statement'"),
    (ROW | {"patch": ["a"]}, "no text in the field 'patch'"),
    (ROW | {"repo": "swesmith/acme__parts.1"}, "of SWE-smith makes its bug"),
  ],
)
def test_a_row_of_something_else_is_named(tmp_path, row, said):
  rows = [ROW | {"instance_id": "first"}, row]
  with pytest.raises(ValueError, match=f"a.jsonl, record 2: .*{said}"):
    read(tmp_path / "a.jsonl", rows)


def test_two_instances_of_one_name_are_refused(tmp_path):
  with pytest.raises(ValueError, match="'acme__parts-1' is taken by record 1"):
    read(tmp_path / "a.jsonl", [ROW, ROW])


def test_a_suite_that_is_not_whole_is_said(tmp_path):
  said = []
  path = write(tmp_path / "a.jsonl", [ROW])
  instances.read_instances(VERIFIED, path, said.append)
  assert "holds 1 problems" in said[0] and "has 500" in said[0]


def test_a_suite_is_a_name_or_a_file():
  assert instances.parse_suite("swebench_verified") == (VERIFIED, "")
  assert instances.parse_suite("swebench_verified=x") == (VERIFIED, "x")
  suite, path = instances.parse_suite("own/rows.parquet")
  assert (suite.name, suite.size, suite.repository) == ("rows", 0, "")
  assert (suite.domain, path) == ("software", "own/rows.parquet")
  for text in ("swebench_verifed", "math500", "x=y"):
    with pytest.raises(ValueError, match=f"'{text}' is no suite of software"):
      instances.parse_suite(text)
  with pytest.raises(ValueError, match="'swebench_verified=' gives no path"):
    instances.parse_suite("swebench_verified=")
  with pytest.raises(ValueError, match="did you mean swebench_verified"):
    instances.parse_suite("swebench_verifed")


def test_lists_of_files_are_read(tmp_path):
  path = write(
    tmp_path / "a.jsonl",
    [
      {"instance_id": "i", "found_files": ["a.py", "b.py"]},
      {"instance_id": "j", "found_files": []},
      {"instance_id": "k", "found_files": [["c.py"], ["d.py"]], "more": 1},
    ],
  )
  found = {"i": ("a.py", "b.py"), "j": (), "k": ("c.py",)}
  assert instances.read_found_files(path) == found


@pytest.mark.parametrize(
  "row",
  [
    {"instance_id": "i"},
    {"instance_id": 1, "found_files": []},
    {"instance_id": "i", "found_files": "a.py"},
    {"instance_id": "i", "found_files": [1]},
    ["i"],
  ],
)
def test_what_is_no_list_of_files_is_named(tmp_path, row):
  path = write(tmp_path / "a.jsonl", [row])
  with pytest.raises(ValueError, match="record 1: no text in inst"):
    instances.read_found_files(path)


def test_what_the_harness_lacks_is_known(tmp_path):
  row = ROW | dict.fromkeys(("image", "eval_script", "eval_type", "log_parser"))
  path = write(tmp_path / "a.parquet", [row])
  assert instances.lacks_for_harness(path) == ""
  del row["image"]
  path = write(tmp_path / "a.jsonl", [row])
  assert "has rows without image" in instances.lacks_for_harness(path)
  path = path.rename(tmp_path / "a.jsonl.gz")
  assert "is no .json, .jsonl or" in instances.lacks_for_harness(path)
