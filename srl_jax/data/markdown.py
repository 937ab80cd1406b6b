# SPDX-License-Identifier: Apache-2.0
r"""Finds which lines of a Markdown text stand at its outermost level.

markdown-it, a parser of CommonMark, says what belongs to a list item, a quote,
HTML or indented code. It knows no display math, and it ends a code block with
the list item that it began in, where authors often go on without the indent.
So both are found here and hidden from it. Only line numbers leave this module:
the text stays as its author wrote it.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from srl_jax.optional import needed_for

# Before a fence may stand what opens list items and quotes. The text after a
# fence of backticks holds none, or it is code within a line.
_OPENING = re.compile(
  r"((?:[ \t>]|[-*+][ \t]|[0-9]{1,9}[.)][ \t])*+)(`{3,}+(?![^`]*`)|~{3,}+)"
)
_CLOSING = re.compile(r"[ \t>]*+(`{3,}+|~{3,}+)[ \t]*")
_MATH = re.compile(r"(?<!\\)(?:\$\$|\\[\[\]])")
_DOLLAR = re.compile(r"(?<!\\)\$")
_TIGHT = re.compile(r"(?<=\S)\$\$(?=\S)")
_CLOSED_BY = {"$$": "$$", r"\[": r"\]"}


class UnclosedError(ValueError):
  """A code block or display math is opened and never closed."""

  def __init__(self, what: str, line: int):
    super().__init__(f"{what} opened at line {line + 1} is never closed")
    self.what = what
    self.line = line


def outer_lines(lines: list[str]) -> tuple[list[int], list[int]]:
  """Returns the numbers, from 0, of lines at the outermost level of a text.

  The first list holds the lines that begin a list item of the outermost lists,
  and those of paragraphs outside of lists. The second holds those of code that
  is marked by nothing but its indent.

  Raises:
    UnclosedError: it is not clear where code or display math ends.
  """
  shown, hidden = _hide(lines)
  outer: set[int] = set()
  indented: list[int] = []
  for token in parser().parse("\n".join(shown)):
    if token.type == "list_item_open" and token.level == 1:
      outer.add(token.map[0])
    elif token.type == "inline" and token.level == 1:
      outer.update(range(*token.map))
    elif token.type == "code_block" and token.level == 0:
      indented += range(*token.map)
  return sorted(outer - hidden), indented


@functools.cache
def parser() -> Any:
  """Returns a parser that finds blocks and leaves the text in them alone."""
  with needed_for("Solutions in Markdown (s1K)", "markdown-it-py"):
    import markdown_it

  made = markdown_it.MarkdownIt("commonmark")
  made.core.ruler.enableOnly(["normalize", "block"])
  return made


def _hide(lines: list[str]) -> tuple[list[str], set[int]]:
  """Replaces code blocks and display math by words at the same indent.

  Returns the lines, and the numbers of those of which nothing is left.
  """
  shown: list[str] = []
  hidden: set[int] = set()
  fence = math = word = ""
  opened = 0
  for number, line in enumerate(lines):
    inside = fence or math
    if fence:
      closing = _CLOSING.fullmatch(line)
      if closing and closing[1].startswith(fence):
        fence = ""
    elif not math and (opening := _OPENING.match(line)):
      fence, opened = opening[2], number
      hidden.add(number)
      word = re.sub(r"[^\s>]", " ", opening[1]) + "x"
      line = opening[1] + "x"
    else:
      before = line
      singles = seen = 0
      for delimiter in _MATH.finditer(before):
        singles += len(_DOLLAR.findall(before, seen, delimiter.start()))
        seen = delimiter.end()
        is_tight = _TIGHT.match(before, delimiter.start())
        if not math and singles % 2 and is_tight:
          continue  # Math within the line ends, and the next begins: $a$$b$.
        if not math and delimiter[0] != r"\]":
          math, opened = _CLOSED_BY[delimiter[0]], number
          line = before[: delimiter.start()] + "x"
        elif delimiter[0] == math:
          math, line = "", before
      if math and not inside:
        word = before[: len(before) - len(before.lstrip(" \t>"))] + "x"
    if inside:
      hidden.add(number)
    # The parser would end a line at a carriage return, too.
    shown.append(word if inside else line.replace("\r", " "))
  if fence or math:
    raise UnclosedError("a code block" if fence else "display math", opened)
  return shown, hidden
