# SPDX-License-Identifier: Apache-2.0
"""The JSON form of an expert trajectory.

One trajectory is one JSON object. A data file holds one object per line:

  {"id": "p-17",                 optional; default: file name and line number
   "domain": "math",             optional, see srl_jax.domains; default: general
   "problem": "What is 2+3*4?",  required, not empty
   "steps": [                    required, at least one
     "3*4 = 12",                 a plain string, or an object:
     {"text": "2+12 = 14",       required, unless there is a title
      "title": "Add",            optional; without its number and asterisks
      "observation": "...",      optional: the environment's answer, maybe ""
      "thought": "...",          optional: the expert's inner monologue
      "is_target": false}],      optional: true unless the step is context only
   "answer": "14",               optional: the reference answer, a string
   "metadata": {"source": "x"}}  optional: strings, never seen by a model

An optional field may be null, and so may what tables add: unknown fields,
entries of the metadata, and the end of the list of steps. NaN is null, because
pandas writes it for texts that are absent. An unknown field is an error,
because most unknown fields are misspelt ones. Where tables hold no objects,
`steps` and `metadata` may be their JSON text, and `steps` an object of lists.
This module does not open files.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from typing import Any

from srl_jax.rewards.format import THINK_CLOSE, THINK_OPEN, THINK_TAG
from srl_jax.trajectory import (
  RecordError,
  Step,
  Trajectory,
  check_characters,
)

_STEP_FIELDS = tuple(field.name for field in dataclasses.fields(Step))


_FIELDS = tuple(field.name for field in dataclasses.fields(Trajectory))
_REQUIRED = ("problem", "steps")
_BOLD = re.compile(r"(\*{2,3})((?:(?!\*\*).)+)\1")
# Names that other data have for our fields.
_OTHER_NAMES = {"question": "problem", "prompt": "problem", "content": "text"}


def to_json(trajectory: Trajectory) -> dict[str, Any]:
  """Returns a trajectory's JSON object, without its empty fields."""
  record = dataclasses.asdict(trajectory)
  record["steps"] = [_without_empty(step) for step in record["steps"]]
  record["metadata"] = dict(trajectory.metadata)
  return _without_empty(record)


def from_written(record: dict[str, Any]) -> Trajectory:
  """Returns the trajectory that `to_json` wrote, as it was.

  Not for data of others: nothing is checked or normalised, since what is
  allowed there may have been otherwise for the version that wrote it.
  """
  steps = tuple(Step(**step) for step in record["steps"])
  return Trajectory(**{**record, "steps": steps})


def from_json(record: Any, default_id: str = "") -> Trajectory:
  """Builds a trajectory from a JSON object (see the module docstring).

  Args:
    record: the parsed object.
    default_id: the trajectory's id if the record has none.

  Raises:
    RecordError: the object does not have that form; the message names the
      field, what was got and what to do.
  """
  check_fields(record, _FIELDS)
  record = dict(record)
  if "steps" in record:
    record["steps"] = _rows_of(_from_text(record["steps"], list))
  if "metadata" in record:
    record["metadata"] = _from_text(record["metadata"], dict)
  steps = get(record, "steps", list, required=True)
  while steps and _is_absent(steps[-1]):
    steps = steps[:-1]
  domain, answer = get(record, "domain", str), get(record, "answer", str)
  return Trajectory(
    id=get(record, "id", str) or default_id,
    domain=domain or "general",
    problem=get(record, "problem", str, required=True),
    steps=tuple(_step(step, index) for index, step in enumerate(steps)),
    answer=answer or None,
    metadata=_metadata(get(record, "metadata", dict) or {}),
  )


def check_fields(record: Any, allowed: tuple[str, ...], where: str = ""):
  """Raises RecordError unless record is an object of allowed fields."""
  if not isinstance(record, dict):
    raise RecordError(
      where or "(record)",
      f"is {_kind(record)}; an object with {', '.join(allowed)} is expected",
    )
  for name, value in record.items():
    if name not in allowed and not _is_absent(value):
      hint = _hint(record, name, allowed, where)
      if not hint and not where and any(x not in record for x in _REQUIRED):
        continue  # What is missing is the fault, and is told instead.
      hint = hint or ("remove it" if where else "move it to 'metadata'")
      path = f"{where}.{name}" if where else name
      raise RecordError(
        path, f"is unknown (allowed: {', '.join(allowed)}); {hint}"
      )


def _hint(record: dict, name: str, allowed: tuple[str, ...], where: str) -> str:
  """Returns what an unknown field may be meant for; "" if that is unknown."""
  value = record[name]
  is_list = isinstance(value, list) and value and isinstance(value[0], dict)
  if is_list and not where and not any(x in record for x in _REQUIRED):
    if "role" in value[0]:
      return "for agents' messages set data.format=agents"
    return (
      f"for a file of one object type jq -c '.{name}[]' FILE > {name}.jsonl"
    )
  if (ours := _OTHER_NAMES.get(name)) in allowed and ours not in record:
    return f"rename it to {ours!r}"
  near = difflib.get_close_matches(name, allowed, n=1)
  return f"did you mean {near[0]!r}?" if near else ""


def get(record: dict, name: str, kind: type, *, required=False, where=""):
  """Returns record[name] after checking its type; None if absent or null.

  With `required`, the field must be there and a string must not be blank.
  Raises RecordError.
  """
  value = record.get(name)
  path = f"{where}.{name}" if where else name
  if _is_absent(value):
    if required:
      found = ", ".join(map(str, record)) or "nothing"
      raise RecordError(path, f"is missing (found: {found}); add it")
    return None
  if not isinstance(value, kind):
    raise RecordError(
      path, f"is {_kind(value)}; write it as {_NAMES[kind]} instead"
    )
  if required and kind is str and not value.strip():
    raise RecordError(path, "is empty; write it there")
  if kind is str:
    check_characters(value, path)
  return value


def _metadata(found: dict[str, Any]) -> dict[str, str]:
  """Returns the entries that are there; raises RecordError for bad ones."""
  kept = {key: value for key, value in found.items() if not _is_absent(value)}
  for key, value in kept.items():
    path = f"metadata.{key}"
    for text in (key, value):
      if not isinstance(text, str):
        raise RecordError(path, f"is {_kind(text)}; write it as a string")
    check_characters(key, "metadata")
    check_characters(value, path)
  return kept


def _is_absent(value: Any) -> bool:
  """Whether a value stands for nothing: null, NaN, an object of only such."""
  values = list(value.values()) if isinstance(value, dict) else [value]
  return bool(values) and all(
    v is None or (isinstance(v, float) and v != v) for v in values
  )


def _from_text(value: Any, kind: type) -> Any:
  """Returns what a JSON text of this kind says; other values as they are."""
  if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
    try:
      found = json.loads(value)
    except (ValueError, RecursionError):
      return value
    return found if isinstance(found, kind) else value
  return value


def _rows_of(steps: Any) -> Any:
  """Returns a list of objects for an object of lists of one length."""
  if (
    not isinstance(steps, dict)
    or "text" not in steps
    or not all(isinstance(column, list) for column in steps.values())
    or len({len(column) for column in steps.values()}) > 1
  ):
    return steps
  return [
    dict(zip(steps, row, strict=True))
    for row in zip(*steps.values(), strict=True)
  ]


def _step(value: Any, index: int) -> Step:
  where = f"steps[{index}]"
  if isinstance(value, str):
    value = {"text": value}
  if _is_absent(value):
    raise RecordError(where, "is null between other steps; remove it")
  check_fields(value, _STEP_FIELDS, where)
  title = bare_title(
    get(value, "title", str, where=where) or "", index + 1, f"{where}.title"
  )
  text = get(value, "text", str, required=title is None, where=where) or ""
  if text.lstrip().startswith(THINK_OPEN):
    # A teacher's raw output; no model could be right with such a target.
    raise RecordError(
      f"{where}.text", "begins with a think block; move it to 'thought'"
    )
  return Step(
    text=text,
    title=title,
    # "" means that the environment answered nothing; None, that there is none.
    observation=get(value, "observation", str, where=where),
    thought=bare_thought(
      get(value, "thought", str, where=where) or "", f"{where}.thought"
    ),
    is_target=get(value, "is_target", bool, where=where) is not False,
  )


def bare_title(text: str, number: int, path: str) -> str | None:
  """Returns a title without its number and asterisks, which are added later.

  None for a blank one. Raises RecordError if it has several lines.
  """
  bare = text.strip()
  if len(bare.splitlines()) > 1:
    raise RecordError(path, "has a line break; write the title in one line")
  before = None
  while bare != before:  # The number may stand within the asterisks.
    before = bare
    bare = re.sub(rf"\A{number}[.)]\s+", "", bare)
    if found := _BOLD.fullmatch(bare):
      bare = found[2].strip()
  return bare or None


def bare_thought(text: str, path: str) -> str | None:
  """Returns a thought without the tags around it, which teachers write.

  None for a blank one. Raises RecordError if there are tags inside of it.
  """
  bare = text.strip()
  if bare.startswith(THINK_OPEN) and bare.endswith(THINK_CLOSE):
    text = bare.removeprefix(THINK_OPEN).removesuffix(THINK_CLOSE).strip("\n")
  if THINK_TAG.search(text):
    raise RecordError(path, "holds a think tag; leave the tags out")
  return text if text.strip() else None


def _without_empty(record: dict[str, Any]) -> dict[str, Any]:
  return {
    k: v
    for k, v in record.items()
    if k == "text"
    or not (v is None or v == {} or (k, v) == ("is_target", True))
  }


_NAMES = {
  bool: "true or false",
  str: "a string",
  list: "a list",
  dict: "an object",
  bytes: "bytes that are no UTF-8",
}


def _clipped(text: str) -> str:
  return text if len(text) <= 40 else f"{text[:30]}..."


def _kind(value: Any) -> str:
  if value is None:
    return "null"
  if isinstance(value, bool):
    return f"{str(value).lower()} (a boolean)"
  if isinstance(value, (int, float)):
    return f"{_clipped(repr(value))} (a number)"
  return _NAMES.get(type(value), type(value).__name__)
