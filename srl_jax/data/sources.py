# SPDX-License-Identifier: Apache-2.0
"""Opens data files and yields their records, whatever the file's name says.

The first bytes decide how a file is read. Compression by gzip, bzip2, xz, zstd
and lz4 is undone. What is then no table (tables.py) is text (texts.py). What
cannot be read is named, with what to type. No record is checked here.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import pathlib
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

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


class _Compression(NamedTuple):
  magic: bytes
  name: str
  unpack: str  # The command that writes the content to standard output.
  opened: Callable[[IO[bytes]], IO[bytes]]


_COMPRESSIONS = (
  _Compression(b"\x1f\x8b", "gzip", "gzip -dc", gzip.open),
  _Compression(b"BZh", "bzip2", "bzip2 -dc", bz2.open),
  _Compression(b"\xfd7zXZ\0", "xz", "xz -dc", lzma.open),
  _Compression(b"(\xb5/\xfd", "zstd", "zstd -dc", _arrow_stream("zstd")),
  _Compression(b"\x04\x22M\x18", "lz4", "lz4 -dc", _arrow_stream("lz4")),
)
# What a file begins with, what it is, and what to do.
_UNREADABLE = (
  (b"PK\x03\x04", "a zip archive", "type: unzip {path}"),
  (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "type: 7z x {path}"),
  (b"Rar!", "a rar archive", "type: unrar x {path}"),
  (
    b"version https://git-lfs",
    "a Git LFS pointer and not the data",
    "type: git lfs pull",
  ),
  (
    b"FEA1",
    "a Feather file of version 1",
    "write it again with pyarrow.feather.write_feather(table, path)",
  ),
  (
    b"\x83\xafp\xd1\r\x88J?",
    "an ArrayRecord file",
    "give the folder of its TFDS dataset with data.format=tfds, or write JSON"
    " lines or Parquet",
  ),
  (b"\x89HDF", "an HDF5 file", "write JSON lines or Parquet"),
  (b"SQLite format 3\0", "an SQLite database", "write JSON lines or Parquet"),
  (b"\x80\x04\x95", "a pickle", "write JSON lines or Parquet"),
  (
    b"<!DOCTYPE",
    "a web page",
    "download the file itself (on the Hugging Face hub: /resolve/ in its"
    " address, not /blob/)",
  ),
  (b"<html", "a web page", "download the file itself"),
)
# Such a table begins as any text does, so its name must tell.
_TABLE_IN_TEXT = re.compile(r"\.[ct]sv(?=(\.(gz|bz2|xz|zstd?))?$)", re.I)
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
  with _readable(path), _opened(path) as (stream, unpack):
    head = _recognised(stream, path, unpack)
    kind = tables.kind_of(head)
    if kind is not None:  # Tables are read from their end.
      seekable = io.BytesIO(stream.read()) if unpack else stream
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
    ValueError: the records are deeper inside; the message says what to type.
  """
  with _readable(path), _opened(path) as (stream, unpack):
    if tables.kind_of(_recognised(stream, path, unpack)):
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
def _opened(path: pathlib.Path) -> Iterator[tuple[io.BufferedReader, str]]:
  """Opens a file and undoes its compression, also if it was done twice.

  Yields the content and the shell command that shows it.
  """
  unpack = ""
  with contextlib.ExitStack() as stack:
    stream: Any = stack.enter_context(storage.open_to_read(path))
    while (found := _compression_of(stream)) is not None:
      unpack += f" | {found.unpack}" if unpack else f"{found.unpack} FILE"
      inner = stack.enter_context(contextlib.closing(found.opened(stream)))
      stream = io.BufferedReader(inner)
    yield stream, unpack


def _compression_of(stream: io.BufferedReader) -> _Compression | None:
  head = stream.peek(_PEEKED)
  for compression in _COMPRESSIONS:
    if head.startswith(compression.magic):
      return compression
  return None


def _recognised(
  stream: io.BufferedReader, path: pathlib.Path, unpack: str
) -> bytes:
  """Returns the first bytes without white space and byte order mark.

  Raises:
    ValueError: the content is neither a table nor UTF-8 text.
  """
  head = stream.peek(_PEEKED)[:_PEEKED]
  for magic, name, cure in _UNREADABLE:
    if head[: len(magic)].upper() == magic.upper():
      cure = cure.format(path=shlex.quote(str(path)))
      raise ValueError(f"{path} is {name}, which is not read; {cure}")
  if head[257:262] == b"ustar":
    raise ValueError(
      f"{path} is a tar archive, which is not read; type: tar -xf"
      f" {shlex.quote(str(path))}"
    )
  if tables.kind_of(head):
    return head
  encoding = textfile.encoding_of(head)
  if encoding != "UTF-8":
    new = path.parent / f"utf8-{path.name.partition('.')[0]}.jsonl"
    new_name, name = shlex.quote(str(new)), shlex.quote(str(path))
    command = f"iconv -f {encoding} -t UTF-8 {name}"
    if unpack:
      packed = unpack.replace("FILE", name)
      command = f"{packed} | iconv -f {encoding} -t UTF-8"
    raise ValueError(
      f"{path} is {encoding} text; only UTF-8 is read; type: {command} >"
      f" {new_name} and give that file"
    )
  head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
  in_text = _TABLE_IN_TEXT.search(path.name)
  if in_text and head and not head.startswith((b"{", b"[")):
    read = "read_table" if in_text[0].lower() == ".tsv" else "read_csv"
    raise ValueError(
      f"{path} is a table in text, which is not read; write it again with"
      f" pandas: {read}(path, dtype=str).to_json('data.jsonl',"
      " orient='records', lines=True)"
    )
  return head
