# SPDX-License-Identifier: Apache-2.0
"""Lines of text files that users give, and what to type if they are not UTF-8.

Records of trajectories are read by srl_jax.data.sources, which takes more.
"""

from __future__ import annotations

import codecs
import pathlib
import shlex

# UTF-32 comes first: its mark begins with that of UTF-16.
_MARKS = (
  (codecs.BOM_UTF32_LE, "UTF-32"),
  (codecs.BOM_UTF32_BE, "UTF-32"),
  (codecs.BOM_UTF16_LE, "UTF-16"),
  (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Which of the first four bytes are 0, where a text begins with two characters
# of ASCII, as JSON does.
_ZEROS = {
  (True, True, True, False): "UTF-32BE",
  (False, True, True, True): "UTF-32LE",
  (True, False, True, False): "UTF-16BE",
  (False, True, False, True): "UTF-16LE",
}


def read_lines(path: pathlib.Path) -> list[str]:
  r"""Returns the lines of a file, without their ends and a byte order mark.

  A line ends in "\n" or "\r\n" and nowhere else. `str.splitlines` would also
  cut it at characters such as U+2028, which JSON allows within a text.

  Raises:
    ValueError: the file is not UTF-8; the message says what to type.
    OSError: it cannot be read.
  """
  raw = path.read_bytes()
  encoding = encoding_of(raw)
  if encoding != "UTF-8":
    raise ValueError(other_encoding(path, encoding))
  lines = raw.removeprefix(codecs.BOM_UTF8).split(b"\n")
  texts = []
  for number, line in enumerate(lines, 1):
    try:
      texts.append(line.removesuffix(b"\r").decode("utf-8"))
    except UnicodeDecodeError as error:
      said = not_utf8(line, error.start, _quoted(path))
      raise ValueError(f"{path}, line {number} {said}") from None
  return texts


def encoding_of(head: bytes) -> str:
  """Returns the encoding of a text that begins so; UTF-8 if in doubt."""
  for mark, name in _MARKS:
    if head.startswith(mark):
      return name
  zeros = tuple(byte == 0 for byte in head[:4])
  return _ZEROS.get(zeros, "UTF-8")


def other_encoding(path: pathlib.Path, encoding: str) -> str:
  """Returns what to say of a text whose encoding is not UTF-8."""
  new = path.parent / f"utf8-{path.name}"
  return (
    f"{path} is {encoding} text; only UTF-8 is read; type: iconv -f {encoding}"
    f" -t UTF-8 {_quoted(path)} > {_quoted(new)} and give that file"
  )


def not_utf8(raw: bytes, at: int, file: str = "FILE") -> str:
  """Returns what to say of a line whose byte `at` is not UTF-8.

  Args:
    raw: the line.
    at: number of the byte.
    file: the file's name, as a shell takes it.
  """
  said = f"is not UTF-8 at byte {at}"
  around = raw[max(0, at - 10) : at + 10].strip()
  try:
    guess = around.decode("cp1252")
  except UnicodeDecodeError:
    return f"{said}; save the file as UTF-8"
  return (
    f"{said}; save the file as UTF-8 (if {guess!r} is right there, it is"
    f" Windows-1252 or Latin-1; type: iconv -f WINDOWS-1252 -t UTF-8 {file} >"
    " NEW)"
  )


def _quoted(path: pathlib.Path) -> str:
  return shlex.quote(str(path))
