# SPDX-License-Identifier: Apache-2.0
"""Prefills decoder rows with the trunks of prompts.

An equal trunk is copied, a common prefix is extended, and any other prompt is
run as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from srl_jax import sharding
from srl_jax.rollout.device_rows import DeviceRows
from srl_jax.rollout.requests import Work
from srl_jax.rollout.row import Row

# Smallest width.
_BUCKET = 16
# From here on there are two widths for each doubling. Accelerators fill up
# narrower ones to 128 or 256 lanes.
_CLOSER, _CLOSER_ON_CPU = 512, 128
# Prompt tokens that a device runs at a time, unless one prompt has more: what
# they need beside their keys and values grows with them.
_PROMPT_TOKENS = 8192
# Tokens that are run behind the head of a trunk, or 4, 16, .. times as many:
# every width is a program. _TAILS of the shortest tails run together; longer
# tails keep a device busy one at a time.
_TAIL, _TAILS = 64, 4


class Filler:
  """Fills the rows of a stream; its methods need `jax.set_mesh`."""

  def __init__(
    self, device_rows: DeviceRows, rows: Sequence[Row], devices: int, work: Work
  ):
    """Keeps these; `devices` is how many the rows are split over."""
    self._device_rows, self._rows = device_rows, rows
    self._devices, self._work = devices, work

  def room(self, widths: Sequence[int]) -> int:
    """How many new trunks are run at a time, given their widths, which rise."""
    # Every size of a batch is a program more, and so is every width.
    room, most = self._devices, self._devices * _PROMPT_TOKENS
    while (more := room * 4) <= len(widths) and more * widths[more - 1] <= most:
      room = more
    return room

  def widest_tails(self, trunk_width: int) -> tuple[int, int, int]:
    """Devices, tails of each at a time, and tokens of the longest tail."""
    return self._devices, 1, tail_width(trunk_width, trunk_width)

  def fill(
    self, new: Mapping[int, np.ndarray], kept: Mapping[int, int]
  ) -> None:
    """Gives rows new trunks.

    Args:
      new: tokens of the trunk of each row that gets one, which `Row.tokens`
        says already.
      kept: how many of them, from the first on, the row has from before.
    """
    if not new:
      return
    longest = width_for(max(map(len, new.values())))
    if longest > self._device_rows.trunk_width:
      self._device_rows.resize(trunk_width=longest)
    rows_of = {
      row.tokens.tobytes(): n
      for n, row in enumerate(self._rows)
      if row.tokens is not None and n not in new
    }
    to_run, to_extend, copies = {}, {}, {}
    # Among equal trunks, the one that a row partly has is extended, and copied
    # to the others.
    for n, tokens in sorted(new.items(), key=lambda item: -kept[item[0]]):
      source = rows_of.setdefault(tokens.tobytes(), n)
      if source != n:
        copies[n] = source
      elif kept[n]:
        to_extend[n] = tokens
      else:
        to_run[n] = tokens
    self._run(to_run)
    self._extend(to_extend, kept)
    self._device_rows.copy(copies)

  def _run(self, new: Mapping[int, np.ndarray]) -> None:
    """Runs new trunks in batches of equal, growing width."""
    by_length = sorted(new.items(), key=lambda item: len(item[1]))
    widest = self._device_rows.trunk_width
    while by_length:
      widths = [width_for(len(tokens)) for _, tokens in by_length]
      widths = [widest if 2 * x >= widest else x for x in widths]
      room = self.room(widths)
      width = widths[min(room, len(widths)) - 1]
      part, by_length = by_length[:room], by_length[room:]
      self._device_rows.admit(part, room, width)
      self._work.prompt_tokens += sum(len(tokens) for _, tokens in part)
      self._work.trunk_positions += room * width

  def _extend(
    self, new: Mapping[int, np.ndarray], kept: Mapping[int, int]
  ) -> None:
    """Runs the tails of trunks, the same number for each device at a time."""
    tail = {n: len(tokens) - kept[n] for n, tokens in new.items()}
    of_device: list[list[int]] = [[] for _ in range(self._devices)]
    for n in sorted(new, key=tail.get):
      of_device[n * self._devices // len(self._rows)].append(n)
    full = self._device_rows.trunk_width
    while most := max(map(len, of_device)):
      longest = max(tail[rows[-1]] for rows in of_device if rows)
      width = tail_width(longest, full)
      room = _TAILS if width <= _TAIL and most >= _TAILS else 1
      # Where the trunk has no room for as many, the end of the head runs again.
      part = [
        [(n, new[n], min(kept[n], full - width)) for n in rows[-room:]]
        for rows in of_device
      ]
      of_device = [rows[:-room] for rows in of_device]
      self._device_rows.extend(part, room, width)
      run = [len(tokens) - at for rows in part for _, tokens, at in rows]
      self._work.prompt_tokens += sum(run)
      self._work.trunk_positions += self._devices * room * width


def tail_width(length: int, trunk_width: int) -> int:
  """How many tokens are run for a tail, which is half of its trunk at most."""
  width = _TAIL
  while width < length:
    width *= 4
  return min(width, -(-trunk_width // 2))


def width_for(length: int) -> int:
  """The next of 16, 32, 64, ... 512, 768, 1024, 1536, ...; on CPU 192, 384 too.

  Every width is a program more. Where keys and values are the greater part of
  what an iteration reads, it pays to be closer.
  """
  closer = _CLOSER_ON_CPU if sharding.device_kind() == "cpu" else _CLOSER
  width = _BUCKET
  while width < length:
    is_power = width & (width - 1) == 0
    if width < closer:
      width *= 2
    else:
      # A power of two grows by half, and the widths between by a third.
      width += width // 2 if is_power else width // 3
  return width
