# SPDX-License-Identifier: Apache-2.0
"""Shows or hides think blocks in a text that comes piece by piece."""

from __future__ import annotations

import re

from srl_jax.rewards.format import THINK_CLOSE, THINK_OPEN, THINK_TAG

_TAGS = (THINK_OPEN, THINK_CLOSE)
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
# What a model writes could steer the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Thoughts:
  """Turns pieces of a text into what is printed."""

  def __init__(self, is_shown: bool, is_terminal: bool):
    """Begins a text.

    Args:
      is_shown: whether thoughts are printed.
      is_terminal: whether thoughts are dimmed, and control characters of the
        text made visible.
    """
    self._is_shown, self._is_terminal = is_shown, is_terminal
    self._is_inside, self._held = False, ""
    # What comes before a lone </think> is a thought, which is known only then.
    self._may_be_thought = not is_shown

  def add(self, text: str, is_last: bool = False) -> str:
    """Takes text; returns what to print now."""
    text = self._held + text
    self._held = ""
    tag = THINK_TAG.search(text) if self._may_be_thought else None
    if tag:
      self._may_be_thought = False
      self._is_inside = tag[0] == THINK_CLOSE
    elif self._may_be_thought and not is_last:
      self._held = text
      return ""
    if not is_last:
      at = text.rfind("<")
      if at >= 0 and any(tag.startswith(text[at:]) for tag in _TAGS):
        text, self._held = text[:at], text[at:]
    parts = re.split(f"({THINK_TAG.pattern})", text)
    return "".join(map(self._part, parts))

  def _part(self, part: str) -> str:
    is_tag = part in _TAGS
    is_thought = self._is_inside or is_tag
    if is_tag:
      self._is_inside = part == THINK_OPEN
    if not part or (is_thought and not self._is_shown):
      return ""
    if not self._is_terminal:
      return part
    part = _CONTROL.sub(lambda c: repr(c[0])[1:-1], part)
    return f"{_DIM}{part}{_PLAIN}" if is_thought else part
