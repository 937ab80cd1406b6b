# SPDX-License-Identifier: Apache-2.0
"""Text in lines and columns."""


def wrap(text, width):
  """Breaks a text into lines of at most `width` characters, at spaces."""
  lines = []
  line = ""
  for word in text.split():
    if not line:
      line = word
    elif len(line) + 1 + len(word) <= width:
      line += " " + word
    else:
      lines.append(line)
      line = word
  if line:
    lines.append(line)
  return lines


def justify(words, width):
  """Spreads words over a line; the left gaps get the spaces that are over."""
  if len(words) == 1:
    return words[0].ljust(width)
  gaps = len(words) - 1
  spaces = width - sum(len(word) for word in words)
  size, more = divmod(spaces, gaps)
  line = words[0]
  for place, word in enumerate(words[1:]):
    line += " " * (size + 1 if place < more else size)
    line += word
  return line


def shorten(text, width):
  """Cuts a text that is longer than `width` and ends it with three dots."""
  if len(text) <= width:
    return text
  return text[: width - 3].rstrip() + "..."


def table(rows):
  """Aligns the columns of a table: numbers to the right, texts to the left."""
  widths = [0] * len(rows[0])
  for row in rows:
    for column, cell in enumerate(row):
      widths[column] = max(widths[column], len(str(cell)))
  lines = []
  for row in rows:
    cells = []
    for cell, width in zip(row, widths, strict=True):
      if isinstance(cell, int):
        cells.append(str(cell).rjust(width))
      else:
        cells.append(str(cell).ljust(width))
    lines.append(" ".join(cells).rstrip())
  return lines


def indent_level(line, size=2):
  """Returns how many times a line is indented by `size` spaces."""
  spaces = len(line) - len(line.lstrip(" "))
  return spaces // size


def thousands(number):
  """Writes a whole number with commas between groups of three digits."""
  sign = "-" if number < 0 else ""
  digits = str(abs(number))
  groups = []
  while len(digits) > 3:
    groups.insert(0, digits[-3:])
    digits = digits[:-3]
  groups.insert(0, digits)
  return sign + ",".join(groups)
