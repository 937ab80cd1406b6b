# SPDX-License-Identifier: Apache-2.0
"""The form in which files of all kinds give their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


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
