# SPDX-License-Identifier: Apache-2.0
"""Finds and reads the files of suites: problems with reference answers.

A file is JSON lines, a JSON array, Parquet or Arrow, compressed or not
(sources.py). A file that is not the suite's is an error or a warning, because
its score would be taken for the suite's.
"""

from __future__ import annotations

import difflib
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from srl_jax import storage
from srl_jax.data import sources
from srl_jax.data.folders import FORM
from srl_jax.data.texts import Row
from srl_jax.domains import find_suite, known_suites
from srl_jax.domains.suite import Problem, Reading, Suite
from srl_jax.processes import failures
from srl_jax.rewards.answers import hash_mark, last_boxed
from srl_jax.trajectory import RecordError

# A name that is so like that of a known suite is taken for a slip.
_LIKE = 0.8


def parse_suites(text: str) -> list[tuple[Suite, str]]:
  """Returns suites and the paths given for them, "" where none is given.

  parse_suites("aime24,amc23=data/amc.jsonl,own/exam.jsonl,mine=b/exam.jsonl")

  Args:
    text: names of suites, NAME=PATH, and paths of files of one's own, whose
      suites are named after the file unless it is NAME=PATH; separated by
      commas.

  Raises:
    ValueError: no suite is named, one is unknown, or two have one name.
  """
  known = known_suites()
  found: list[tuple[Suite, str]] = []
  for part in filter(None, (part.strip() for part in text.split(","))):
    name, path = name_and_path(part)
    if not name:
      suite = own_suite(path)
    elif path and not difflib.get_close_matches(name, known, cutoff=_LIKE):
      suite = own_suite(name)
    else:
      suite = find_suite(name)
    found.append((suite, path))
  names = [suite.name for suite, _ in found]
  doubled = sorted({name for name in names if names.count(name) > 1})
  if doubled:
    raise ValueError(
      f"two suites are named {doubled[0]!r}; name each once, or rename the file"
    )
  if not found:
    raise ValueError("no suite is named; give names such as aime24,math500")
  return found


def name_and_path(part: str) -> tuple[str, str]:
  """Returns name and path of NAME, NAME=PATH or PATH; "" for what it lacks.

  Raises:
    ValueError: the path of NAME=PATH is empty.
  """
  name, equals, path = part.partition("=")
  if "/" in name or (not equals and FORM.search(name)):
    return "", part
  if equals and not path:
    raise ValueError(f"{part!r} gives no path; write {name}=PATH or {name}")
  return name, path


def own_suite(path: str) -> Suite:
  """Returns the suite of a file of one's own, named after the file."""
  name = FORM.sub("", pathlib.PurePath(path).name)
  return Suite(
    name=name,
    title=name,
    references=(("answer", "text"), ("solution", "boxed")),
    domain="",
  )


def find_file(suite: Suite, path: str = "", folder: str = "") -> pathlib.Path:
  """Returns the file of a suite: the given one, a folder's, or the hub's.

  Args:
    suite: the suite.
    path: path of the file; "" if none is given.
    folder: folder with files named after suites, such as aime24.jsonl; "" if
      there is none. What it lacks is fetched from the hub.

  Raises:
    ValueError: the file is nowhere.
  """
  if path:
    file = storage.path(path).expanduser()
    if file.is_file():
      return file
    raise ValueError(f"there is no file {path!r} for the suite {suite.name!r}")
  if folder:
    at = storage.path(folder).expanduser()
    files = sorted(at.iterdir()) if at.is_dir() else []
    for name in filter(None, (suite.name, suite.local)):
      for file in files:
        if file.name.startswith(name) and FORM.sub("", file.name) == name:
          return file
  return _fetch(suite, folder)


def _fetch(suite: Suite, folder: str) -> pathlib.Path:
  import huggingface_hub  # Slow, and most files are at hand.

  cure = f"put the file somewhere and name it: {suite.name}=PATH"
  if not suite.repository:
    raise ValueError(f"the suite {suite.name!r} is not on the hub; {cure}")
  # It would say each of its attempts, twice.
  verbosity = huggingface_hub.logging.get_verbosity()
  huggingface_hub.logging.set_verbosity_error()
  try:
    return pathlib.Path(
      huggingface_hub.hf_hub_download(
        suite.repository,
        suite.file,
        repo_type="dataset",
        revision=suite.revision,
      )
    )
  # The hub's errors (no network, no such name, no access) share no base class.
  except Exception as error:
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    looked = f"it is not in {folder}, and " if folder else ""
    raise failures.of_hub(
      f"the suite {suite.name!r} was not found: {looked}the Hugging Face hub "
      f"did not give {suite.file} of the data set {suite.repository} "
      f"({type(error).__name__}: {reason}); fetch it where there is a network "
      f"(hf download --repo-type dataset --revision {suite.revision} "
      f"{suite.repository} {suite.file}), then {cure}",
      error,
    ) from error
  finally:
    huggingface_hub.logging.set_verbosity(verbosity)


def read_problems(
  suite: Suite,
  path: str | pathlib.Path,
  warn: Callable[[str], None] = print,
  make: Callable[[Suite, Mapping[str, Any], str, str], Problem] | None = None,
) -> list[Problem]:
  """Reads the problems of a suite, in the order of the file.

  Args:
    suite: what the file should hold.
    path: the file; sources.py says what it may hold.
    warn: gets a line if the number of problems is not the suite's.
    make: a function (suite, record, where it stands, its number) -> problem;
      by default the suite says what the fields mean.

  Raises:
    ValueError: the file cannot be read, is of another data set, or a record
      has no problem, no answer, or the id of another.
  """
  path = storage.path(path)
  problems: list[Problem] = []
  line_of: dict[str, int] = {}
  for line, record in enumerate(records(path), 1):
    where = f"{path}, record {line}"
    if not isinstance(record, Mapping):
      raise ValueError(
        f"{where}: is no object with fields such as problem and answer"
      )
    problem = (make or _problem)(suite, record, where, str(line - 1))
    if problem.id in line_of:
      raise ValueError(
        f"{where}: the id {problem.id!r} is taken by record "
        f"{line_of[problem.id]}; give every problem its own"
      )
    line_of[problem.id] = line
    problems.append(problem)
  if not problems:
    raise ValueError(f"{path} holds no problems; the suite is {suite.title}")
  if suite.size and len(problems) != suite.size:
    warn(
      f"{path} holds {len(problems)} problems, and the suite {suite.name!r} "
      f"({suite.title}) has {suite.size}: the score will not be that of the "
      "suite"
    )
  return problems


def _problem(
  suite: Suite, record: Mapping[str, Any], where: str, number: str
) -> Problem:
  # Some write Problem; where both are there, the name in small letters counts.
  names = sorted(record, key=lambda name: name == name.lower())
  record = {name.lower(): record[name] for name in names}
  for field, other in suite.foreign:
    if record.get(field) is not None:
      raise ValueError(
        f"{where}: the field {field!r} is one of {other}, and the suite "
        f"{suite.name!r} is {suite.title}; give the suite's own file"
      )
  for field, value in record.items():
    _check_text(value, f"{where}: the field {field!r}")
  text = _first(record, suite.problem)
  if not isinstance(text, str) or not text.strip():
    raise ValueError(
      f"{where}: no question in the field {' or '.join(suite.problem)} (it has "
      f"{', '.join(record) or 'no fields'}); rename the one with it to "
      f"{suite.problem[0]}"
    )
  _check_choices(record, text, where)
  identity = _first(record, suite.id)
  return Problem(
    id=number if identity is None else _plain(identity),
    text=text,
    answer=_reference(suite, record, where),
    level=_plain(_first(record, suite.level)),
    subject=_plain(_first(record, suite.subject)),
    suite=suite.name,
    solution=_plain(_first(record, suite.solution)),
  )


def _check_choices(record: Mapping[str, Any], text: str, where: str) -> None:
  """Refuses a question whose choices the model would not see."""
  for field in ("choices", "options"):
    choices = record.get(field) or ()
    if isinstance(choices, Mapping):
      choices = choices.values()
    if not all(str(choice) in text for choice in choices):
      raise ValueError(
        f"{where}: the field {field!r} has choices that the question does not "
        "show, and only the question is put to the model; write them into it, "
        "each with its letter"
      )


def _reference(suite: Suite, record: Mapping[str, Any], where: str) -> str:
  for field, reading in suite.references:
    value = record.get(field)
    if value is None or not str(value).strip():
      continue
    is_number = isinstance(value, float | int) and math.isfinite(value)
    if not (is_number or isinstance(value, str)):
      raise ValueError(
        f"{where}: the field {field!r} is {value!r}, and a reference answer is "
        "a string or a finite number"
      )
    answer = _read(value, reading)
    if answer is None or not answer.strip():
      raise ValueError(f"{where}: the field {field!r} {_LACKS[reading]}")
    return answer.strip()
  names = " or ".join(field for field, _ in suite.references)
  raise ValueError(
    f"{where}: no reference answer in the field {names} (it has "
    f"{', '.join(record)}); rename the one with it to "
    f"{suite.references[0][0]}: a suite without answers cannot be judged"
  )


def _check_text(value: Any, what: str) -> None:
  try:
    str(value).encode("utf-8")
  except UnicodeEncodeError as error:
    raise ValueError(
      f"{what} has half a surrogate pair at character {error.start}, which is "
      "no text; write the file anew in UTF-8"
    ) from error


_LACKS: dict[Reading, str] = {
  "text": "is empty",
  "integer": "is no whole number",
  "boxed": "has no \\boxed{..} that closes, which would hold the answer",
  "marked": "has no answer after ####",
}


def _read(value: Any, reading: Reading) -> str | None:
  """Returns the reference answer in a field, or None if it has none."""
  if reading == "boxed":
    return last_boxed(str(value))
  if reading == "marked":
    _, mark, answer = str(value).rpartition("####")
    answer = answer.strip()
    bare = answer.replace(",", "")
    return (bare if _NUMBER.fullmatch(bare) else answer) if mark else None
  text = _plain(value)
  if reading == "integer":
    text = (last_boxed(text) or text).strip().strip("$").replace(",", "")
    text = _DEGREES.sub("", text)
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else None
  # A whole solution, or the answer alone.
  return hash_mark(text) or last_boxed(text) or text


_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_DEGREES = re.compile(r"\^(?:\\circ|\{\\circ\})\s*$")
_WHOLE = re.compile(r"([-+]?\d+)(?:\.0*)?")


def _plain(value: Any) -> str:
  """Returns a value as text: 27.0 as 27, None as nothing."""
  if value is None:
    return ""
  if isinstance(value, float) and value.is_integer():
    return str(int(value))
  return str(value)


def _first(record: Mapping[str, Any], fields: Sequence[str]) -> Any:
  """Returns the value of the first field that a record has, or None."""
  values = (record.get(field) for field in fields)
  return next((value for value in values if value is not None), None)


def records(path: pathlib.Path) -> list[Any]:
  """Returns the records of a file; sources.py says what it may hold.

  Raises:
    ValueError: it cannot be read, or a record cannot.
  """
  try:
    return _decoded(path, sources.rows(path))
  except RecordError as error:
    # No line is a record; the text may be JSON as a whole.
    whole = sources.document_rows(path)
    if not whole:
      raise ValueError(error.problem) from error
    return _decoded(path, whole)


def _decoded(path: pathlib.Path, rows: Iterable[Row]) -> list[Any]:
  found = []
  for row in rows:
    try:
      found.append(row.decode(row.raw))
    except RecordError as error:
      place = f"{path}, line {row.number}"
      raise RecordError(error.field, f"{place} {error.problem}") from error
  return found
