# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of SWE-bench, and lists of files for them.

A row has instance_id, repo, base_commit and problem_statement, and most have
patch, the gold patch. Other fields, such as the tests, are the harness's.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from srl_jax import storage
from srl_jax.data.suites import (
  name_and_path,
  own_suite,
  read_problems,
  records,
)
from srl_jax.domains.software.swebench import VERIFIED, Instance
from srl_jax.domains.suite import Suite

SUITES = {VERIFIED.name: VERIFIED}
# How the harness runs an instance, and what it expects.
_RUN_BY = (
  *("image", "eval_script", "eval_type", "log_parser", "version"),
  *("FAIL_TO_PASS", "PASS_TO_PASS"),
)
_NEEDED = ("instance_id", "repo", "base_commit", "problem_statement")


def parse_suite(text: str) -> tuple[Suite, str]:
  """Returns a suite of instances and the path given for it, or "".

  Args:
    text: a name, NAME=PATH, or the path of a file of one's own.

  Raises:
    ValueError: there is no such suite.
  """
  name, path = name_and_path(text.strip())
  if not name:
    return dataclasses.replace(own_suite(path), domain=VERIFIED.domain), path
  if name in SUITES:
    return SUITES[name], path
  near = difflib.get_close_matches(name.lower(), SUITES, n=1)
  hint = f" (did you mean {near[0]}?)" if near else ""
  raise ValueError(
    f"{text!r} is no suite of software issues{hint}; give "
    f"{', '.join(SUITES)}, NAME=PATH, or the path of a file with SWE-bench's "
    "rows (.jsonl, .json, .parquet)"
  )


def read_instances(
  suite: Suite, path: pathlib.Path, warn: Callable[[str], None] = print
) -> list[Instance]:
  """Reads the instances of a suite, in the order of the file.

  Args:
    suite: the suite.
    path: the file; sources.py says what it may hold.
    warn: gets a line if the number of instances is not the suite's.

  Raises:
    ValueError: the file cannot be read, a row lacks a field, or has the id of
      another, or its patch is no solution.
  """
  return read_problems(suite, path, warn, _instance)


def _instance(
  suite: Suite, record: Mapping[str, Any], where: str, _: str
) -> Instance:
  values = {name: record.get(name) for name in (*_NEEDED, "patch")}
  for name, value in values.items():
    is_needed = name in _NEEDED
    if not isinstance(value, str if is_needed else str | None) or (
      is_needed and not value.strip()
    ):
      raise ValueError(
        f"{where}: no text in the field {name!r} (it has "
        f"{', '.join(record) or 'no fields'}); give SWE-bench's rows"
      )
  if values["repo"].startswith("swesmith/"):
    raise ValueError(
      f"{where}: the patch of an instance of SWE-smith makes its bug, and is "
      "no solution; give SWE-bench's rows"
    )
  return Instance(
    id=values["instance_id"],
    text=values["problem_statement"],
    answer=values["patch"] or "",
    level=str(record.get("difficulty") or ""),
    subject=values["repo"],
    suite=suite.name,
    base_commit=values["base_commit"],
  )


def lacks_for_harness(path: pathlib.Path) -> str:
  """Returns why SWE-bench's harness cannot run a file; "" if it can.

  Raises:
    ValueError: the file cannot be read.
  """
  if storage.is_remote(path):
    return f"{path} is in a bucket, and the harness reads local files"
  if path.suffix not in (".json", ".jsonl", ".parquet"):
    return f"{path} is no .json, .jsonl or .parquet file"
  lacking = [x for x in _RUN_BY if x not in records(path)[0]]
  return f"{path} has rows without {', '.join(lacking)}" if lacking else ""


def read_found_files(path: str | pathlib.Path) -> dict[str, tuple[str, ...]]:
  """Reads which files to show for each instance.

  A row has instance_id and found_files, as SWE-RL's lists have: paths, or for
  several samples a list of paths each, of which the first counts.

  Raises:
    ValueError: the file cannot be read, or a row has not these fields.
  """
  found = {}
  for number, record in enumerate(records(storage.path(path)), 1):
    fields = record if isinstance(record, Mapping) else {}
    name, files = fields.get("instance_id"), fields.get("found_files")
    if isinstance(files, list) and files and isinstance(files[0], list):
      files = files[0]
    if (
      not isinstance(name, str)
      or not isinstance(files, list)
      or not all(isinstance(file, str) for file in files)
    ):
      raise ValueError(
        f"{path}, record {number}: no text in instance_id, or no list of paths "
        f"in found_files (it has {', '.join(fields) or 'no fields'})"
      )
    found[name] = tuple(files)
  return found
