# SPDX-License-Identifier: Apache-2.0
"""Opens data files and yields their records, whatever the file's name says.

The first bytes decide how a file is read. Compression by gzip, bzip2, xz, zstd
and lz4 is undone. What is then no table (tables.py) is text (texts.py). What
is neither is refused, with what to type. No record is checked here.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from srl_jax import storage
from srl_jax.data import tables, texts
from srl_jax.data.texts import Row
from srl_jax.optional import needed_for
from srl_jax.storage import textfile


def _arrow_stream(codec: str) -> Callable[[IO[bytes]], IO[bytes]]:
  def opened(stream: IO[bytes]) -> IO[bytes]:
    with needed_for(f"Files compressed by {codec}", "pyarrow"):
      import pyarrow
    file = pyarrow.PythonFile(stream, mode="r")
    return pyarrow.CompressedInputStream(file, codec)

  return opened


# How compressed files begin, and what opens them.
_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
  b"\x1f\x8b": gzip.open,
  b"BZh": bz2.open,
  b"\xfd7zXZ\0": lzma.open,
  b"(\xb5/\xfd": _arrow_stream("zstd"),
  b"\x04\x22M\x18": _arrow_stream("lz4"),
}
# What the libraries raise where a compressed file is damaged.
_DAMAGES = (EOFError, OSError, zlib.error, lzma.LZMAError)
_PEEKED = 512
# How a text begins that is JSON as a whole: a list, or an object over several
# lines. Line by line, each line of it would be a bad record.
_DOCUMENT = re.compile(rb"\[|\{[ \t]*\r?\n")


def rows(path: pathlib.Path) -> Iterator[Row]:
  """Yields the records of a file, each with its number from 1.

  Raises:
    ValueError: the file is damaged, or of a kind that cannot be read.
  """
  if path.suffix == ".parquet":
    tables.check_installed()
  with _readable(path), _opened(path) as (stream, is_packed):
    head = _recognised(stream, path, is_packed)
    kind = tables.kind_of(head)
    if kind is not None:  # Tables are read from their end.
      seekable = io.BytesIO(stream.read()) if is_packed else stream
      yield from tables.rows(seekable, kind)
    elif _DOCUMENT.match(head):
      whole = stream.read()
      listed = texts.document(whole, path)
      if listed is None and head.startswith(b"{") and b"\n{" not in whole:
        listed = [Row(1, whole, texts.decode)]  # One object, cut off.
      yield from texts.lines(io.BytesIO(whole)) if listed is None else listed
    else:
      yield from texts.lines(stream)


def document_rows(path: pathlib.Path) -> list[Row] | None:
  """Returns the records of a text that is JSON as a whole, not line by line.

  None if the file is no such text.

  Raises:
    ValueError: the text is cut off.
  """
  with _readable(path), _opened(path) as (stream, is_packed):
    if tables.kind_of(_recognised(stream, path, is_packed)):
      return None
    return texts.document(stream.read(), path)


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
  """Names the file if it cannot be read, or turns out to be damaged."""
  try:
    yield
  except Exception as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise ValueError(
        f"{path} cannot be read: {error.strerror}; check that you may read it"
      ) from error
    if not isinstance(error, (*_DAMAGES, *tables.error_types())):
      raise
    said = " ".join(str(error).split())[:200]
    raise ValueError(
      f"{path} is cut off or damaged ({said}); copy or write it again"
    ) from error


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[io.BufferedReader, bool]]:
  """Opens a file and undoes its compression, also if it was done twice.

  Yields the content, and whether it was compressed.
  """
  is_packed = False
  with contextlib.ExitStack() as stack:
    stream: Any = stack.enter_context(storage.open_to_read(path))
    while opener := _opener_of(stream.peek(_PEEKED)):
      is_packed = True
      inner = stack.enter_context(contextlib.closing(opener(stream)))
      stream = io.BufferedReader(inner)
    yield stream, is_packed


def _opener_of(head: bytes) -> Callable[[IO[bytes]], IO[bytes]] | None:
  found = (x for magic, x in _COMPRESSIONS.items() if head.startswith(magic))
  return next(found, None)


def _recognised(
  stream: io.BufferedReader, path: pathlib.Path, is_packed: bool
) -> bytes:
  """Returns the first bytes without white space and byte order mark.

  Raises:
    ValueError: the content is neither a table nor UTF-8 text.
  """
  head = stream.peek(_PEEKED)[:_PEEKED]
  if head.startswith(b"version https://git-lfs"):
    raise ValueError(
      f"{path} is a Git LFS pointer and not the data; type: git lfs pull"
    )
  if tables.kind_of(head):
    return head
  encoding = textfile.encoding_of(head)
  if encoding != "UTF-8":
    said = textfile.other_encoding(path, encoding)
    raise ValueError(f"{said}; unpack it before" if is_packed else said)
  head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
  # A crash may leave zeros in place of a line.
  begin = head.lstrip(b"\0\r\n")
  # Where the first line is cut, the next is whole, or not in sight.
  next_begins = rb"\n\s*\{" if b"\n" in begin else rb"\{"
  may_be_json = b"\0" not in begin and re.search(next_begins, begin)
  if begin and not (may_be_json or begin.startswith((b"{", b"["))):
    raise ValueError(
      f"{path} begins with {begin[:20]!r} and is neither JSON, Parquet nor"
      " Arrow, which are read; unpack an archive (unzip, tar -xf), write other"
      " files again as JSON lines, CSV by pandas.read_csv(path, dtype=str)"
      ".to_json('data.jsonl', orient='records', lines=True)"
    )
  return head
