# SPDX-License-Identifier: Apache-2.0
"""Random numbers of generated data, the same on every machine and Python."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
# SHA-512 gives this many bits at a time. A draw that needs more than are left
# takes fresh ones, so that no draw is biased.
_BITS = 512


class Draws:
  """Random numbers that follow from a name.

  Args:
    name: parts of the name; another name gives other numbers.
  """

  def __init__(self, *name: object) -> None:
    self._seed = "/".join(map(str, name)).encode()
    self._blocks = 0
    self._refill()

  def _refill(self) -> None:
    # The first block hashes the name alone.
    salt = f"/{self._blocks}".encode() if self._blocks else b""
    digest = hashlib.sha512(self._seed + salt).digest()
    self._left = int.from_bytes(digest, "big")
    self._room = 1 << _BITS
    self._blocks += 1

  def below(self, bound: int) -> int:
    """Returns one of 0..bound-1, all of them equally likely to within 2^-64."""
    if self._room < bound << 64:
      self._refill()
    self._left, number = divmod(self._left, bound)
    self._room //= bound
    return number

  def chance(self, probability: float) -> bool:
    """Returns True with the given probability."""
    return self.below(1 << 32) < probability * (1 << 32)

  def choice(self, items: Sequence[T]) -> T:
    """Returns one of the items."""
    return items[self.below(len(items))]

  def sample(self, items: str, count: int) -> str:
    """Returns `count` different characters of `items`, in random order."""
    left = list(items)
    return "".join(left.pop(self.below(len(left))) for _ in range(count))
