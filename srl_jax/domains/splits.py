# SPDX-License-Identifier: Apache-2.0
"""The split of a generated problem, which follows from its text."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["pretrain", "train", "valid", "test"]
# Percent of all problems that belong to each split.
SHARES: dict[Split, int] = {
  "pretrain": 40,
  "train": 40,
  "valid": 10,
  "test": 10,
}


def split_of(problem: str) -> Split:
  """Returns the only split in which a problem may appear."""
  digest = hashlib.sha256(problem.encode()).digest()
  place = int.from_bytes(digest[:8], "big") % 100
  for split, share in SHARES.items():
    if place < share:
      return split
    place -= share
  raise AssertionError("the shares add up to 100")
