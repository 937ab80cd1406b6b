# SPDX-License-Identifier: Apache-2.0
"""Files of tasks are read as SWE-bench and SWE-smith publish them."""

import json
import re

import pyarrow.parquet
import pytest

from srl_jax.domains.software.launchers import SandboxConfig
from srl_jax.domains.software.tasks import read_tasks

RECORD = {
  "instance_id": "toy-1",
  "repo": "owner/toy",
  "base_commit": "abc",
  "problem_statement": "It is broken.",
  "FAIL_TO_PASS": '["tests/test_a.py::test_b[x y]"]',
  "PASS_TO_PASS": ["tests/test_a.py::TestC::test_d"],
  "version": "1.0",
}


@pytest.fixture
def write(tmp_path):
  (tmp_path / "owner__toy").mkdir()

  def of(*records):
    path = tmp_path / "tasks.jsonl"
    texts = [x if isinstance(x, str) else json.dumps(x) for x in records]
    path.write_text("\n".join(texts) + "\n\n")
    return path

  return of


def test_an_instance_of_swe_bench_has_its_tests_in_a_patch(write, tmp_path):
  record = RECORD | {"patch": "the solution", "test_patch": "the tests"}
  [task] = read_tasks(write(record)).values()
  assert task.repository == str(tmp_path / "owner__toy")
  assert task.fail_to_pass == ("tests/test_a.py::test_b[x y]",)
  assert task.pass_to_pass == ("tests/test_a.py::TestC::test_d",)
  assert (task.test_patch, task.bug_patch) == ("the tests", "")
  assert task.test_paths == ("tests/test_a.py",)
  assert task.hidden_paths == ()


def test_an_instance_of_swe_smith_has_the_bug_in_a_patch(write):
  record = RECORD | {"patch": "the bug", "image_name": "x"}
  [task] = read_tasks(write(record)).values()
  assert (task.test_patch, task.bug_patch) == ("", "the bug")
  # Its tests are the repository's own, and the agent must not see them.
  assert task.hidden_paths == ("tests/test_a.py",)


def test_a_task_may_name_its_image_and_its_python(write):
  python = "/opt/testbed/bin/python"
  [task] = read_tasks(
    write(RECORD | {"image_name": "a/b.c:1", "python": python})
  ).values()
  container = SandboxConfig(kind="docker", image="other", python="/p")
  own = task.sandbox(container)
  assert (own.image, own.python) == ("a/b.c:1", python)
  # bubblewrap has no image.
  assert task.sandbox(SandboxConfig()) == SandboxConfig(python=python)
  [plain] = read_tasks(write(RECORD)).values()
  assert plain.sandbox(container) == container


def test_a_task_is_a_trajectory_without_an_expert(write):
  [task] = read_tasks(write(RECORD)).values()
  trajectory = task.trajectory("software")
  assert (trajectory.id, trajectory.problem) == ("toy-1", "It is broken.")
  assert trajectory.metadata == {"task": "toy-1"}


def test_repositories_can_lie_elsewhere(write, tmp_path):
  (tmp_path / "elsewhere/owner__toy").mkdir(parents=True)
  [task] = read_tasks(write(RECORD), tmp_path / "elsewhere").values()
  assert task.repository == str(tmp_path / "elsewhere/owner__toy")


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"FAIL_TO_PASS": []}, "'FAIL_TO_PASS': is empty: nothing would tell"),
    ({"FAIL_TO_PASS": None}, "'FAIL_TO_PASS': is empty"),
    ({"FAIL_TO_PASS": "["}, "is no JSON text"),
    ({"FAIL_TO_PASS": ["test_x (a.B)"]}, "write a test as pytest does"),
    ({"PASS_TO_PASS": [1]}, "write a list of texts"),
    ({"FAIL_TO_PASS": ["../a.py::test_b"]}, "stays in it"),
    ({"test_files": {"/etc/passwd": ""}}, "stays in it"),
    ({"test_files": {"a/../../b.py": ""}}, "stays in it"),
    ({"FAIL_TO_PASS": ["./a.py::test_b"]}, "pytest reports 'a.py'; write that"),
    ({"test_files": {"a//b.py": ""}}, "pytest reports 'a/b.py'; write that"),
    ({"problem_statement": "\ud83d"}, "'problem_statement': has half a"),
    ({"FAIL_TO_PASS": ["a.py::b[\ud83d]"]}, "'FAIL_TO_PASS': has half a"),
    ({"test_files": {"a.py": "\ud83d"}}, "'test_files': has half a surrogate"),
    ({"test_files": {"\ud83d.py": ""}}, "'test_files': has half a surrogate"),
    ({"test_files": {"a.py": 1}}, "no object of texts"),
    ({"repo": "owner/other"}, "there is no /"),
    ({"repo": None}, "'repo': is None; write a text"),
    ({"problem_statement": " "}, "'problem_statement'"),
    ({"instance_id": 7}, "'instance_id': is 7"),
    ({"image_name": "--volume=/:/host"}, "no name of an image"),
    ({"python": "3.9"}, "write an absolute path"),
  ],
)
def test_a_record_that_is_no_task_is_named(write, changes, said):
  with pytest.raises(ValueError, match=r"tasks\.jsonl:1: .*") as caught:
    read_tasks(write(RECORD | changes))
  assert said in str(caught.value)


@pytest.mark.parametrize(
  ("lines", "said"),
  [
    (("[]",), "write an object"),
    (("{",), "jsonl:1: "),
    ((), "holds no task"),
  ],
)
def test_a_file_that_cannot_be_used_is_refused(write, lines, said):
  with pytest.raises(ValueError, match=said):
    read_tasks(write(*lines))


def test_records_that_are_no_tasks_are_left_out_and_counted(write, caplog):
  django = {"FAIL_TO_PASS": ["test_x (a.B)"]}
  records = [django, {}, {}, django | {"instance_id": "b"}, {"repo": "a/b"}]
  path = write(*(RECORD | x for x in records), "{")
  assert list(read_tasks(path)) == ["toy-1"]
  start = "of 6 records of .*tasks.jsonl are left out, the first: .*jsonl"
  for message, said in zip(
    caplog.messages,
    (
      rf"2 {start}:1: .* write a test as pytest does",
      rf"1 {start}:3: .*'toy-1' was there before",
      rf"1 {start}:5: .* there is no /",
      rf"1 {start}:6: ",
    ),
    strict=True,
  ):
    assert re.match(said, message)


def test_parquet_is_read_as_well(write, tmp_path):
  path = write().with_suffix(".parquet")
  table = pyarrow.Table.from_pylist([RECORD | {"PASS_TO_PASS": None}])
  pyarrow.parquet.write_table(table, path)
  [task] = read_tasks(path).values()
  assert task.problem == RECORD["problem_statement"]
  path.write_text("no table")
  with pytest.raises(ValueError, match=r"tasks\.parquet cannot be read: "):
    read_tasks(path)


def test_a_task_may_hold_any_character_within_its_line(tmp_path, write):
  issue = "It is\x85 broken\u2028here."
  text = json.dumps(RECORD | {"problem_statement": issue}, ensure_ascii=False)
  path = write()
  path.write_text(text + "\r\n", "utf-8-sig")
  [task] = read_tasks(path).values()
  assert task.problem == issue
  path.write_text(text, "utf-16")
  with pytest.raises(ValueError, match="type: iconv -f UTF-16 -t UTF-8"):
    read_tasks(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"tasks .*x\.jsonl cannot be read"):
    read_tasks(tmp_path / "x.jsonl")
