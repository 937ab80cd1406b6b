# SPDX-License-Identifier: Apache-2.0
"""Writes YAML, of what manifests consist of: no reader, and no dependency."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Words that no reader of YAML takes for anything but a text.
_PLAIN = re.compile(r"[A-Za-z./][\w./-]*")
_NOT_TEXTS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def dump(value: Mapping[str, Any]) -> str:
  """Returns nested mappings, sequences, texts, numbers and booleans as YAML.

  A text of several lines becomes a block, which ends in a line break.
  """
  return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> Iterator[str]:
  if isinstance(value, Mapping):
    for key, inner in value.items():
      yield from _entry(f"{_scalar(key)}:", inner)
  else:
    for inner in value:
      yield from _entry("-", inner)


def _entry(head: str, inner: Any) -> Iterator[str]:
  if isinstance(inner, str) and "\n" in inner:
    yield f"{head} |"
    yield from (f"  {line}".rstrip() for line in inner.rstrip("\n").split("\n"))
  elif inner and isinstance(inner, (Mapping, Sequence)) and inner != str(inner):
    lines = list(_lines(inner))
    if head == "-":
      yield f"- {lines[0]}"
      lines = lines[1:]
    else:
      yield head
    yield from (f"  {line}" for line in lines)
  else:
    yield f"{head} {_scalar(inner)}"


def _scalar(value: Any) -> str:
  is_plain = (
    isinstance(value, str)
    and _PLAIN.fullmatch(value)
    and value.lower() not in _NOT_TEXTS
  )
  # JSON is YAML too.
  return value if is_plain else json.dumps(value)
