# SPDX-License-Identifier: Apache-2.0
"""Records in JSON text: one per line, or a document that lists them.

Whatever one record holds, the others can be read. Records of a document are
found by their brackets and decoded one by one, as lines are. Files are opened
in sources.py.
"""

from __future__ import annotations

import codecs
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from srl_jax.storage import textfile
from srl_jax.trajectory import RecordError

# Longer lines are no trajectory. Reading them could take all memory.
MAX_LINE_BYTES = 64 << 20
_SHOWN_BYTES = 1000
# A string, a bracket, a comma, the beginning of another value, or a quotation
# mark that nothing closes. Nothing is tried twice, so the time is linear.
_TOKEN = re.compile(
  rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{},"]|[^][{},"\s]++', re.S
)
_CLOSING = {b"{": b"}", b"[": b"]"}


class Row(NamedTuple):
  """A record that is not decoded yet, so that a bad one costs no other.

  Attributes:
    number: its line in a file of JSON lines, else its place in the file, both
      from 1.
    raw: what stands in the file: bytes of JSON text, or a dict of a table.
    decode: makes the record of `raw`; raises RecordError if it cannot.
  """

  number: int
  raw: bytes | dict[str, Any]
  decode: Callable[[Any], Any]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  record = dict(pairs)
  if len(record) != len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise RecordError(twice, "is there twice in one object; keep one of them")
  return record


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)


def lines(stream: IO[bytes]) -> Iterator[Row]:
  """Yields the lines that are not blank, with their numbers from 1."""
  number = 0
  while raw := stream.readline(MAX_LINE_BYTES + 1):
    number += 1
    if len(raw) > MAX_LINE_BYTES:
      end = raw
      while end and not end.endswith(b"\n"):
        end = stream.readline(1 << 20)
      yield Row(number, raw[:_SHOWN_BYTES], _refuse_long)
    elif raw.strip():
      yield Row(number, raw, decode)


def decode(raw: bytes) -> Any:
  """Decodes the JSON text of one record.

  Raises:
    RecordError: it is not UTF-8 or not JSON, or says something twice.
  """
  try:
    text = raw.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise RecordError("(line)", textfile.not_utf8(raw, error.start)) from None
  try:
    return _DECODER.decode(text)
  except RecordError:
    raise
  except RecursionError:
    raise RecordError(
      "(line)",
      "is nested too deeply; srl_jax/data/schema.py has the form of a record",
    ) from None
  except ValueError as error:
    said = str(error).partition(";")[0]
    raise RecordError(
      "(line)", f"is not JSON ({said}); write one JSON object per line"
    ) from None


def document(text: bytes, path: pathlib.Path) -> list[Row] | None:
  """Returns the records of a text that is JSON as a whole, else None.

  They are the elements of a list, or objects that follow each other, written
  over several lines each.

  Raises:
    ValueError: the list is cut off.
  """
  text = text.removeprefix(codecs.BOM_UTF8)
  spans = _spans(text, 0)
  if spans is None:
    first, _, more = text.strip().partition(b"\n")
    begins = first[:1] == b"["
    if begins and (not more or first.strip()[-1:] in (b"[", b",")):
      raise ValueError(
        f"{path} begins as a JSON list, and its brackets or quotation marks do"
        " not match; it may be cut off: write it again, one object per line"
      )
    return None
  values = [text[start:end] for start, end in spans]
  if len(values) == 1 and values[0].startswith(b"["):
    inner = _spans(text[: spans[0][1] - 1], spans[0][0] + 1) or []
    return [Row(n, text[a:b], decode) for n, (a, b) in enumerate(inner, 1)]
  if not values or not all(value.startswith(b"{") for value in values):
    return None
  return [Row(n, value, decode) for n, value in enumerate(values, 1)]


def _spans(text: bytes, at: int) -> list[tuple[int, int]] | None:
  """Returns where each value from `at` on begins and ends.

  None if brackets or quotation marks do not match.
  """
  open_brackets = bytearray()
  spans: list[tuple[int, int]] = []
  start = -1
  for match in _TOKEN.finditer(text, at):
    token = match[0]
    if token == b'"':
      return None
    if token == b"," and not open_brackets:
      start = -1
      continue
    if start < 0:
      start = match.start()
      spans.append((start, start))
    if token in _CLOSING:
      open_brackets += _CLOSING[token]
    elif token in _CLOSING.values() and (
      not open_brackets or open_brackets.pop() != token[0]
    ):
      return None
    if not open_brackets:
      spans[-1] = (start, match.end())
      start = -1
  return None if open_brackets else spans


def _refuse_long(raw: bytes) -> Any:
  del raw
  raise RecordError(
    "(line)",
    f"is longer than {MAX_LINE_BYTES >> 20} MiB; write one JSON object per"
    " line",
  )
