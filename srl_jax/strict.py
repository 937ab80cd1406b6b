# SPDX-License-Identifier: Apache-2.0
"""Strict conversion between frozen dataclasses and ml_collections ConfigDicts.

Defaults are written only in dataclasses, beside the code that reads them.
`to_config_dict` turns defaults into the locked ConfigDict that experiment files
and flags edit. `to_dataclass` turns the result back and refuses whatever the
dataclass does not declare. Not for: which dataclasses make up a run
(config.py). This file does not import JAX.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import ml_collections

T = TypeVar("T")


def to_dataclass(cls: type[T], mapping: Mapping[str, Any], path: str) -> T:
  """Builds `cls` from a mapping, field by field, without guessing.

  An int is accepted where a float is declared and a list where a tuple is;
  nothing else is coerced. Nested dataclasses are built from nested mappings.

  Args:
    cls: a dataclass whose annotations are bool, int, float, str, None,
      Literal[...], tuple[...], other dataclasses, or unions of these.
    mapping: field values; fields with a default may be left out.
    path: name of the whole mapping in messages, e.g. "config".

  Raises:
    ValueError: a field is unknown, missing or ill-typed, or the dataclass
      itself refuses a value; the message starts with the field's path.
  """
  return _build(cls, mapping, path, root=(cls, path))


def check_numbers(instance: Any, **intervals: str) -> None:
  """Refuses numbers of a dataclass instance outside of their intervals.

  Args:
    instance: a dataclass instance, from its __post_init__.
    **intervals: an interval per field, such as "[1, )" or "(0, 1]": a bracket
      includes the bound, and a missing bound is infinite. nan lies in none.

  Raises:
    ValueError: a number lies outside; the message names the first such field.
  """
  for name, interval in intervals.items():
    value = getattr(instance, name)
    low, high = interval[1:-1].split(",")
    words = []
    is_inside = isinstance(value, int) or math.isfinite(value)
    if low.strip():
      bound = float(low)
      is_closed = interval[0] == "["
      is_inside &= value >= bound if is_closed else value > bound
      words.append(f"{bound:g} or more" if is_closed else f"above {bound:g}")
    if high.strip():
      bound = float(high)
      is_closed = interval[-1] == "]"
      is_inside &= value <= bound if is_closed else value < bound
      words.append(f"up to {bound:g}" if is_closed else f"below {bound:g}")
    if not is_inside:
      raise ValueError(f"{name}={value}; set it to {', '.join(words)}")


def check_literals(instance: Any) -> None:
  """Refuses values of a dataclass instance that its Literals do not allow.

  Raises:
    ValueError: a field declared as a Literal holds something else.
  """
  for name, annotation in _hints(type(instance)).items():
    options, value = _options(annotation), getattr(instance, name)
    if any(
      typing.get_origin(option) is typing.Literal for option in options
    ) and not any(_is_exact(option, value) for option in options):
      raise ValueError(_wrong_type(name, value, annotation))


def to_config_dict(instance: Any) -> ml_collections.ConfigDict:
  """Returns the fields of a dataclass instance as a locked ConfigDict."""
  config = ml_collections.ConfigDict()
  for field in dataclasses.fields(instance):
    config[field.name] = _to_config_value(getattr(instance, field.name))
  return config.lock()


def field_texts(cls: type) -> dict[str, str]:
  """Returns the docstring's text for each field of a dataclass, as one line.

  The docstring must end with a section "Attributes:". A subclass describes the
  fields that it adds.
  """
  texts: dict[str, str] = {}
  for base in reversed(inspect.getmro(cls)):
    if dataclasses.is_dataclass(base):
      _, section = _docstring(base)
      paragraphs = re.findall(
        r"^  (\w+): (.*?)(?=^  \w+: |\Z)", section, re.MULTILINE | re.DOTALL
      )
      texts |= {name: " ".join(text.split()) for name, text in paragraphs}
  return texts


def summary(cls: type) -> str:
  """Returns a dataclass's docstring before "Attributes:", as one line."""
  return " ".join(_docstring(cls)[0].split())


def _docstring(cls: type) -> tuple[str, str]:
  """Returns the docstring before and after "Attributes:"."""
  # Not __doc__, which Python 3.13 indents less.
  text, _, section = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
  return text, section


def describe_type(annotation: Any) -> str:
  """Returns the allowed values of an annotation in words."""
  return " or ".join(_described(annotation))


def _described(annotation: Any) -> Iterator[str]:
  for option in _options(annotation):
    items = typing.get_args(option)
    if option is None or option is type(None):
      yield "None"
    elif typing.get_origin(option) is typing.Literal:
      yield from map(repr, items)
    elif typing.get_origin(option) is tuple:
      if len(items) == 2 and items[1] is Ellipsis:
        yield f"tuple of {describe_type(items[0])}"
      else:
        yield f"tuple ({', '.join(map(describe_type, items))})"
    elif dataclasses.is_dataclass(option):
      yield f"the fields of {option.__name__}"
    else:
      yield getattr(option, "__name__", str(option))


def _to_config_value(value: Any) -> Any:
  if dataclasses.is_dataclass(value):
    return to_config_dict(value)
  if isinstance(value, tuple):
    return tuple(_to_config_value(item) for item in value)
  return value


def _build(cls, mapping, path, root):
  if isinstance(mapping, cls):
    return mapping
  if not isinstance(mapping, (Mapping, ml_collections.ConfigDict)):
    raise ValueError(_wrong_type(path, mapping, cls))
  # ConfigDict.items() would resolve nested values one by one in the same way.
  given = {name: mapping[name] for name in mapping}
  fields = {field.name: field for field in dataclasses.fields(cls)}
  for name in given:
    if name not in fields:
      raise ValueError(_unknown_field(name, cls, path, root))
  annotations = _hints(cls)
  values = {}
  for name, field in fields.items():
    if name in given:
      values[name] = _convert(
        annotations[name], given[name], f"{path}.{name}", root
      )
    elif not _has_default(field):
      raise ValueError(
        f"{path}.{name} has no value; set it to"
        f" {describe_type(annotations[name])}, e.g. --{path}.{name}=..."
      )
  try:
    return cls(**values)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _convert(annotation, value, path, root):
  """Returns `value` in a form that `annotation` allows, or raises."""
  options = _options(annotation)
  # Exact matches first, so that `int | float` keeps an int an int.
  for option in options:
    if _is_exact(option, value):
      return value
  for option in options:
    if option is float and _is_exact(int, value):
      return float(value)
    if typing.get_origin(option) is tuple and isinstance(value, (list, tuple)):
      return _convert_tuple(option, value, path, root)
    if dataclasses.is_dataclass(option) and isinstance(
      value, (Mapping, ml_collections.ConfigDict, option)
    ):
      return _build(option, value, path, root)
  raise ValueError(_wrong_type(path, value, annotation))


def _convert_tuple(annotation, value, path, root):
  items = typing.get_args(annotation)
  if len(items) == 2 and items[1] is Ellipsis:
    items = (items[0],) * len(value)
  if len(items) != len(value):
    raise ValueError(
      f"{path} got {len(value)} values {value!r}, allowed is"
      f" {describe_type(annotation)}; give exactly {len(items)}"
    )
  return tuple(
    _convert(item, part, f"{path}[{i}]", root)
    for i, (item, part) in enumerate(zip(items, value, strict=True))
  )


def _is_exact(option: Any, value: Any) -> bool:
  if option is None or option is type(None):
    return value is None
  if typing.get_origin(option) is typing.Literal:
    # The type must match too: Literal[1] must not accept True.
    return any(
      type(value) is type(x) and value == x for x in typing.get_args(option)
    )
  if option in (bool, int, float, str):
    return type(value) is option
  return False


def _options(annotation: Any) -> tuple[Any, ...]:
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    return typing.get_args(annotation)
  return (annotation,)


_hints = functools.cache(typing.get_type_hints)


def _has_default(field: dataclasses.Field) -> bool:
  missing = dataclasses.MISSING
  return field.default is not missing or field.default_factory is not missing


def _wrong_type(path: str, value: Any, annotation: Any) -> str:
  message = (
    f"{path} got {value!r} of type {type(value).__name__},"
    f" allowed is {describe_type(annotation)}"
  )
  literals = [
    x
    for option in _options(annotation)
    if typing.get_origin(option) is typing.Literal
    for x in typing.get_args(option)
    if isinstance(x, str)
  ]
  near = difflib.get_close_matches(str(value), literals, n=1)
  return message + (f"; did you mean {near[0]!r}?" if near else "")


def _unknown_field(name: str, cls: Any, path: str, root: Any) -> str:
  nearest = _nearest_field(name, path, root)
  known = ", ".join(field.name for field in dataclasses.fields(cls))
  hint = f"did you mean {nearest}? The" if nearest else "the"
  return f"{path}.{name} does not exist; {hint} fields of {path} are: {known}"


# Likeness above which one name may be a misspelling of the other.
_ALIKE = 0.75


def _nearest_field(name: str, path: str, root: Any) -> str:
  """Returns the path whose last part looks most like `name`, or "".

  A right name in the wrong section is as common as a typing error. So the
  search covers the section `path` and all that is nested in it, then the
  section around it, and so on up to the whole. A field of the same dataclass
  wins unless another field is clearly more alike.
  """

  def nearness(candidate: str) -> float:
    parent, _, last = candidate.rpartition(".")
    return _likeness(name, last) + (0.1 if parent == path else 0.0)

  candidates = list(_all_paths(*root))
  section = path
  while True:
    inside = [x for x in candidates if x.startswith(f"{section}.")]
    nearest = max(inside, key=nearness, default="")
    if nearest and nearness(nearest) >= _ALIKE:
      return nearest
    if section == root[1]:
      return ""
    section = section.rpartition(".")[0]


def _likeness(name: str, field: str) -> float:
  """Returns 0 to 1; "steps" and "us" are much like "update_steps"."""
  words = field.split("_")
  if name in words or name == "".join(word[:1] for word in words):
    return 0.9 if name != field else 1.0
  return difflib.SequenceMatcher(None, name, field).ratio()


def _all_paths(cls: Any, path: str) -> Iterator[str]:
  annotations = typing.get_type_hints(cls)
  for field in dataclasses.fields(cls):
    yield f"{path}.{field.name}"
    for option in _options(annotations[field.name]):
      if typing.get_origin(option) is tuple:
        # Index 0 stands for all: the user chooses the index.
        yield from _nested_paths(
          typing.get_args(option)[0], f"{path}.{field.name}[0]"
        )
      else:
        yield from _nested_paths(option, f"{path}.{field.name}")


def _nested_paths(option: Any, path: str) -> Iterator[str]:
  if dataclasses.is_dataclass(option):
    yield from _all_paths(option, path)
