# SPDX-License-Identifier: Apache-2.0
"""Tasks for agents: a repository, an issue, and tests that nobody is shown.

A file of tasks holds one JSON object per line, or is Parquet, with the fields
of SWE-bench and SWE-smith:

  {"instance_id": "toy-1",
   "repository": "toy",            a folder or a git checkout; or "repo": "a/b",
                                   which is looked for as a__b
   "base_commit": "1c0ffee",       optional: the state to begin from
   "problem_statement": "...",
   "FAIL_TO_PASS": ["tests/test_a.py::test_b"],    a list, or its JSON text
   "PASS_TO_PASS": [],             optional
   "test_files": {"tests/test_a.py": "..."},       optional: hidden tests
   "test_patch": "...",            optional: hidden tests as a patch
   "bug_patch": "...",             optional: brings the bug into the repository
   "image_name": "...",            optional: image of a container; only in this
   "python": "/..",                optional: Python of the repository's
                                   environment, here or in the image
   "pytest_arguments": []}         optional: the repository's test settings

Other fields are not read, but for `patch`: with `image_name` (SWE-smith) it is
the bug's, else (SWE-bench) the solution's, which is not used.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from srl_jax import storage
from srl_jax.domains.software.launchers import SandboxConfig
from srl_jax.storage import textfile
from srl_jax.trajectory import (
  RecordError,
  Step,
  Trajectory,
  check_characters,
)

_LOG = logging.getLogger(__name__)
_IMAGE = re.compile(r"\w[\w.:/@-]*", re.ASCII)
# A file and what is in it, as pytest names tests.
_TEST_NAME = re.compile(r"[^:\s][^:]*\.py::\S.*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class RepairTask:
  """A task: what an agent gets, and what its work is judged by.

  Attributes:
    id: name that is unique in its file.
    repository: path of a folder, or of a git checkout if there is a commit.
    problem: the issue.
    fail_to_pass: names of the tests that the repair must make pass, as pytest
      writes them (file::name), relative to the repository.
    pass_to_pass: names of tests that pass before and must pass afterwards.
    commit: the commit to begin from; "" for the folder as it is.
    bug_patch: patch that is applied before the agent begins; "" for none.
    test_files: (path, text) pairs of the hidden tests, which are written over
      what is there.
    test_patch: hidden tests as a patch to the state that the agent got.
    image: image of the containers in which the task is; "" for the config's.
      bubblewrap has none.
    python: the Python of its environment, as in SandboxConfig; "" for the
      config's.
    pytest_arguments: further arguments of pytest, for settings that the tests
      need, such as ("-o", "asyncio_mode=auto"). Paths are relative to the
      repository.
  """

  id: str
  repository: str
  problem: str
  fail_to_pass: tuple[str, ...]
  pass_to_pass: tuple[str, ...] = ()
  commit: str = ""
  bug_patch: str = ""
  test_files: tuple[tuple[str, str], ...] = ()
  test_patch: str = ""
  image: str = ""
  python: str = ""
  pytest_arguments: tuple[str, ...] = ()

  def __post_init__(self):
    if not self.fail_to_pass:
      raise RecordError(
        "FAIL_TO_PASS",
        "is empty: nothing would tell a repair; name the tests that must pass",
      )
    for name in self.tests:
      if not _TEST_NAME.fullmatch(name):
        raise RecordError(
          "FAIL_TO_PASS or PASS_TO_PASS",
          f"names {name!r}; write a test as pytest does, test_a.py::test_b",
        )
    if self.image and not _IMAGE.fullmatch(self.image):
      raise RecordError("image_name", f"is {self.image!r}, no name of an image")
    if self.python[:1] not in ("", "/"):
      raise RecordError("python", f"is {self.python!r}; write an absolute path")
    for path in (*self.test_paths, *dict(self.test_files)):
      parts = pathlib.PurePosixPath(path).parts
      if path.startswith("/") or ".." in parts or not parts or "\0" in path:
        raise RecordError(
          "test_files",
          f"or a test's name has the path {path!r}; write one that is relative"
          " to the repository and stays in it",
        )
      if path != "/".join(parts):
        raise RecordError(
          "test_files",
          f"or a test's name has the path {path!r}, but pytest reports"
          f" {'/'.join(parts)!r}; write that",
        )

  @property
  def tests(self) -> tuple[str, ...]:
    """The names of all tests by which a repair is judged."""
    return self.fail_to_pass + self.pass_to_pass

  @property
  def test_paths(self) -> tuple[str, ...]:
    """The files of these tests, each once."""
    return _paths(self.tests)

  @property
  def hidden_paths(self) -> tuple[str, ...]:
    """Files of the repository that the agent does not get.

    Tests that fail before the repair and come from the repository itself, as
    SWE-smith's do.
    """
    if self.test_files or self.test_patch:
      return ()
    return _paths(self.fail_to_pass)

  def sandbox(self, config: SandboxConfig) -> SandboxConfig:
    """How sandboxes of the task are made, where others are made as `config`."""
    own = {"python": self.python or config.python}
    if config.image:
      own["image"] = self.image or config.image
    return dataclasses.replace(config, **own)

  def trajectory(self, domain: str) -> Trajectory:
    """The task as a trajectory without an expert, for episodes."""
    return Trajectory(
      id=self.id,
      domain=domain,
      problem=self.problem,
      steps=(Step("submit"),),
      metadata={"task": self.id},
    )


def read_tasks(
  path: str | pathlib.Path, repositories: str | pathlib.Path = ""
) -> dict[str, RepairTask]:
  """Reads a file of tasks; records that are none are left out.

  A warning for each field at fault says how many, and names the first.

  Args:
    path: the file: JSON lines, or Parquet if it is called so.
    repositories: folder to which paths of repositories are relative; "" for
      the file's own.

  Returns:
    The tasks by their ids.

  Raises:
    ValueError: the file cannot be read or holds no task.
  """
  path = storage.path(path)
  root = pathlib.Path(repositories) if repositories else path.parent
  tasks: dict[str, RepairTask] = {}
  left_out: dict[str, list[str]] = {}
  for number, row in _rows(path):
    try:
      task = task_of(json.loads(row) if isinstance(row, str) else row, root)
      if task.id in tasks:
        raise RecordError("instance_id", f"{task.id!r} was there before")
      tasks[task.id] = task
    except ValueError as error:
      field = error.field if isinstance(error, RecordError) else "(record)"
      left_out.setdefault(field, []).append(f"{path}:{number}: {error}")
  total = len(tasks) + sum(map(len, left_out.values()))
  said = [
    f"{len(x)} of {total} records of {path} are left out, the first: {x[0]}"
    for x in left_out.values()
  ]
  if not tasks:
    why = "; ".join(said) or "write one JSON object per line"
    raise ValueError(f"{path} holds no task: {why}")
  for line in said:
    _LOG.warning("%s", line)
  return tasks


def _rows(path: pathlib.Path) -> list[tuple[int, Any]]:
  """Rows of Parquet, or lines of text that are not blank, each numbered."""
  try:
    if path.suffix == ".parquet":
      import pyarrow.parquet

      with path.open("rb") as file:
        return [*enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1)]
    lines = enumerate(textfile.read_lines(path), 1)
    return [(number, line) for number, line in lines if line.strip()]
  except (OSError, ValueError) as error:
    raise ValueError(f"the tasks {path} cannot be read: {error}") from error


def task_of(record: Any, root: pathlib.Path) -> RepairTask:
  """Returns the task of a JSON object; paths are relative to `root`.

  Raises:
    RecordError: it is no task, or its repository is not there.
  """
  if not isinstance(record, dict):
    raise RecordError("(record)", f"is {record!r}; write an object")
  patch = _text(record, "patch")
  bug_patch = _text(record, "bug_patch")
  if not bug_patch and record.get("image_name"):
    bug_patch = patch
  files = record.get("test_files") or {}
  if not isinstance(files, dict) or not all(
    isinstance(text, str) for text in files.values()
  ):
    raise RecordError("test_files", "is no object of texts by their paths")
  for text in (*files, *files.values()):
    check_characters(text, "test_files")
  return RepairTask(
    id=_text(record, "instance_id", is_needed=True),
    repository=str(_repository(record, root)),
    problem=_text(record, "problem_statement", is_needed=True),
    fail_to_pass=_names(record, "FAIL_TO_PASS"),
    pass_to_pass=_names(record, "PASS_TO_PASS"),
    commit=_text(record, "base_commit"),
    bug_patch=bug_patch,
    test_files=tuple(files.items()),
    test_patch=_text(record, "test_patch"),
    image=_text(record, "image_name"),
    python=_text(record, "python"),
    pytest_arguments=_names(record, "pytest_arguments"),
  )


def _repository(record: Mapping[str, Any], root: pathlib.Path) -> pathlib.Path:
  name = _text(record, "repository")
  if not name:
    name = _text(record, "repo", is_needed=True).replace("/", "__")
  folder = (root / name).absolute()
  if not folder.is_dir():
    raise RecordError("repository", f"is {name!r}, but there is no {folder}")
  return folder


def _text(
  record: Mapping[str, Any], field: str, is_needed: bool = False
) -> str:
  value = record.get(field)
  if value is None and not is_needed:
    return ""
  if not isinstance(value, str) or (is_needed and not value.strip()):
    raise RecordError(field, f"is {value!r}; write a text")
  check_characters(value, field)
  return value


def _names(record: Mapping[str, Any], field: str) -> tuple[str, ...]:
  value = record.get(field)
  if isinstance(value, str):
    try:
      value = json.loads(value)
    except ValueError as error:
      raise RecordError(field, f"is no JSON text: {error}") from error
  value = [] if value is None else value
  if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
    raise RecordError(field, f"is {value!r}; write a list of texts")
  check_characters("".join(value), field)
  return tuple(value)


def _paths(tests: tuple[str, ...]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(name.partition("::")[0] for name in tests))
