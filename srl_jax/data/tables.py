# SPDX-License-Identifier: Apache-2.0
"""Records in tables: Parquet and Arrow files, as other libraries write them.

Every writer leaves something of its own in a table, for instance an index of
its rows, text as bytes, or maps as lists of pairs. Such things are undone here
where they have one meaning. What else is wrong with a row costs that row only.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Literal

from srl_jax.data.texts import Row
from srl_jax.optional import needed_for

if TYPE_CHECKING:
  import pyarrow

Kind = Literal["Parquet", "Arrow file", "Arrow stream"]
_MAGIC: dict[bytes, Kind] = {
  b"PAR1": "Parquet",
  b"ARROW1": "Arrow file",
  b"\xff\xff\xff\xff": "Arrow stream",
}
# Trajectories are long: the default of 65,536 rows can be gigabytes.
_BATCH_ROWS = 256
# Indices of rows that pandas and Dask write as columns.
_INDEX = re.compile(r"__index_level_\d+__|__null_dask_index__|Unnamed: \d+")


def kind_of(head: bytes) -> Kind | None:
  """Returns the kind of table that begins with these bytes, if any."""
  for magic, kind in _MAGIC.items():
    if head.startswith(magic):
      return kind
  return None


def check_installed() -> None:
  """Raises ValueError if the library that reads tables is missing."""
  with needed_for("Parquet files and Arrow files", "pyarrow"):
    import pyarrow.parquet  # noqa: F401


def error_types() -> tuple[type[Exception], ...]:
  """Returns what damaged tables raise; nothing if none can have been read."""
  module = sys.modules.get("pyarrow")
  return () if module is None else (module.ArrowException,)


def rows(file: IO[bytes], kind: Kind) -> Iterator[Row]:
  """Yields the rows of a table, with their numbers from 1."""
  check_installed()
  number = 0
  for batch in _batches(file, kind):
    names = batch.schema.names
    columns = [
      _values(batch.column(index), field.type)
      for index, field in enumerate(batch.schema)
    ]
    kept = [k for k, name in enumerate(names) if not _INDEX.fullmatch(name)]
    for row in range(batch.num_rows):
      number += 1
      record = {names[k]: columns[k][row] for k in kept}
      yield Row(number, record, _as_it_is)


def _as_it_is(record: dict[str, Any]) -> dict[str, Any]:
  return record


def _batches(file: IO[bytes], kind: Kind) -> Iterator[pyarrow.RecordBatch]:
  import pyarrow.parquet

  if kind == "Parquet":
    table = pyarrow.parquet.ParquetFile(file)
    yield from table.iter_batches(batch_size=_BATCH_ROWS)
  elif kind == "Arrow stream":
    yield from pyarrow.ipc.open_stream(file)
  else:
    table = pyarrow.ipc.open_file(file)
    for index in range(table.num_record_batches):
      yield table.get_batch(index)


class Unreadable:
  """Stands for a value that has no counterpart in Python."""


def _values(column: pyarrow.Array, kind: pyarrow.DataType) -> list[Any]:
  """Returns a column as Python values; bad ones become Unreadable."""
  convert = _converter(kind)
  try:
    values = column.to_pylist()
  except Exception:  # One value out of range ends the whole call.
    values = [_value(scalar) for scalar in column]
  return values if convert is None else [convert(value) for value in values]


def _value(scalar: pyarrow.Scalar) -> Any:
  try:
    return scalar.as_py()
  except Exception:
    return Unreadable()


@functools.cache
def _converter(kind: pyarrow.DataType) -> Callable[[Any], Any] | None:
  """Returns what mends Python values of a type, or None if they are right."""
  from pyarrow import types

  if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
    return _converter(kind.value_type)
  if any(f(kind) for f in _checks("binary", "large_binary", "binary_view")):
    return _text
  if types.is_map(kind):
    inner = _converter(kind.item_type)
    key = _converter(kind.key_type)
    return lambda pairs: _from_pairs(pairs, key, inner)
  if types.is_struct(kind):
    fields = [kind.field(index) for index in range(kind.num_fields)]
    inners = {f.name: c for f in fields if (c := _converter(f.type))}
    return _each_field(inners) if inners else None
  if any(
    f(kind)
    for f in _checks(
      "list", "large_list", "fixed_size_list", "list_view", "large_list_view"
    )
  ):
    inner = _converter(kind.value_type)
    return inner and _each_element(inner)
  return None


def _checks(*names: str) -> list[Callable[[pyarrow.DataType], bool]]:
  """Returns pyarrow.types.is_...; those that its version has."""
  from pyarrow import types

  found = (getattr(types, f"is_{name}", None) for name in names)
  return [check for check in found if check is not None]


def _text(value: Any) -> Any:
  """Returns bytes as the text that they encode, if they do."""
  try:
    return value.decode("utf-8")
  except (AttributeError, UnicodeDecodeError):
    return value


def _from_pairs(pairs: Any, key: Any, inner: Any) -> Any:
  """Returns a map as a dict; as it is if a key is there twice."""
  if not isinstance(pairs, list):
    return pairs
  try:
    found = {key(k) if key else k: inner(v) if inner else v for k, v in pairs}
  except TypeError:  # Keys that cannot be those of a dict.
    return pairs
  return found if len(found) == len(pairs) else pairs


def _each_field(inners: dict[str, Callable]) -> Callable[[Any], Any]:
  def convert(record: Any) -> Any:
    if not isinstance(record, dict):
      return record
    return {k: inners[k](v) if k in inners else v for k, v in record.items()}

  return convert


def _each_element(inner: Callable) -> Callable[[Any], Any]:
  def convert(values: Any) -> Any:
    return [inner(v) for v in values] if isinstance(values, list) else values

  return convert
