# SPDX-License-Identifier: Apache-2.0
"""How alike two texts are, from 0 to 1, character by character.

The ratios are of the C++ libraries cydifflib and Levenshtein; the first gives
the very numbers of Python's difflib, about eight times faster, and Python's
difflib takes its place where it is not installed.
"""

from __future__ import annotations

import difflib
import functools

from srl_jax.optional import needed_for

try:
  from cydifflib import SequenceMatcher
except ModuleNotFoundError:
  from difflib import SequenceMatcher


@functools.cache  # Once per process.
def say_if_slow() -> None:
  """Prints a line if cydifflib is not installed."""
  if SequenceMatcher is difflib.SequenceMatcher:
    print(
      "cydifflib is not installed: similarities are computed by Python's own "
      "difflib, which gives the same numbers about eight times more slowly. "
      "For speed, type: pip install cydifflib",
      flush=True,
    )


def difflib_ratio(
  prediction: str, expert: str, autojunk: bool = False
) -> float:
  """Returns 2M / T of the Ratcliff-Obershelp rule (paper, section 3.2).

  T is the number of characters of both texts, M that of the matching blocks.
  Not symmetric in its arguments; two empty texts give 1.

  Args:
    prediction: what the model wrote.
    expert: what it is compared with.
    autojunk: difflib's default of ignoring characters that make up more than
      1% of an expert text of 200 or more characters, which is nearly all of
      them. Only for comparison with work that left it on.
  """
  return SequenceMatcher(None, prediction, expert, autojunk).ratio()


def matching_blocks(
  prediction: str, expert: str, autojunk: bool = False
) -> list[tuple[int, int, int]]:
  """Returns the blocks that difflib_ratio counts, to show them.

  Each is (start in prediction, start in expert, length), with length > 0 and
  both starts increasing.
  """
  matcher = SequenceMatcher(None, prediction, expert, autojunk)
  blocks = matcher.get_matching_blocks()
  return [(a, b, size) for a, b, size in blocks if size]


def levenshtein_ratio(prediction: str, expert: str) -> float:
  """Returns 1 - (insertions + deletions) / T, which is 2 * LCS / T.

  Symmetric, and never below difflib_ratio, since the longest common
  subsequence is at least as long as any chain of matching blocks.
  """
  with needed_for("Levenshtein similarities", "levenshtein"):
    import Levenshtein
  return Levenshtein.ratio(prediction, expert)
