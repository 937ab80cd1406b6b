# SPDX-License-Identifier: Apache-2.0
"""The similarity ratios equal Python's difflib, and hand counts."""

import difflib
import random

import pytest

from srl_jax.rewards import difflib_ratio, levenshtein_ratio, matching_blocks

PROSE = """the of we get therefore \\frac{1}{2} + x^2 = 24 $y$ <b> \n 你好
🙂 naïve z+x8631 return x; \t \ufffd e\u0301 two numbers odd even"""
WORDS = PROSE.split(" ")


def random_text(rng, max_chars):
  kind = rng.randrange(4)
  chars = rng.randrange(max_chars + 1)
  if kind == 0:  # few letters: many ties between blocks
    return "".join(rng.choice("ab") for _ in range(chars))
  if kind == 1:
    return "".join(chr(rng.randrange(32, 0x2FF)) for _ in range(chars))
  return " ".join(rng.choices(WORDS, k=chars // 4))[:chars]


def edited(rng, text):
  """Returns text with some letters dropped, doubled and moved."""
  chars = list(text)
  for _ in range(rng.randrange(1, 12)):
    if not chars:
      break
    at, to = rng.randrange(len(chars)), rng.randrange(len(chars))
    kind = rng.randrange(3)
    if kind == 0:
      del chars[at]
    elif kind == 1:
      chars.insert(at, chars[to])
    else:
      chars[at:at] = chars[to : to + 20]
  return "".join(chars)


def random_pairs(count, max_chars, seed=0):
  rng = random.Random(seed)
  for _ in range(count):
    expert = random_text(rng, max_chars)
    unrelated = rng.random() < 0.3
    prediction = (
      random_text(rng, max_chars) if unrelated else edited(rng, expert)
    )
    yield prediction, expert


@pytest.mark.parametrize("autojunk", [False, True])
def test_ratio_and_blocks_are_those_of_pythons_difflib(autojunk):
  # 400 short pairs, and 100 long enough for autojunk (200 characters).
  pairs = [*random_pairs(400, 60), *random_pairs(100, 500, seed=1)]
  pairs += [("", ""), ("", "a"), ("a", ""), ("a" * 300, "a" * 250)]
  for prediction, expert in pairs:
    python = difflib.SequenceMatcher(None, prediction, expert, autojunk)
    # Exactly: both divide the same two whole numbers.
    assert difflib_ratio(prediction, expert, autojunk) == python.ratio()
    expected = [tuple(m) for m in python.get_matching_blocks() if m.size]
    assert matching_blocks(prediction, expert, autojunk) == expected


def test_the_ratio_by_hand():
  # Blocks "ab" and "d", so M = 3 of T = 4 + 3.
  assert difflib_ratio("abcd", "abd") == 6 / 7
  assert matching_blocks("abcd", "abd") == [(0, 0, 2), (3, 2, 1)]
  # A state of which two digits are wrong: M = 3 of T = 10.
  assert difflib_ratio("D8600", "D8631") == 0.6
  assert difflib_ratio("", "") == 1.0
  assert difflib_ratio("", "abc") == 0.0


def test_the_ratio_is_not_symmetric():
  # Python's documented example; swapping the arguments would pass no test
  # that only looks at symmetric pairs.
  assert difflib_ratio("tide", "diet") == 0.25
  assert difflib_ratio("diet", "tide") == 0.5


def test_autojunk_is_off_by_default_and_matters_on_long_texts():
  rng = random.Random(3)
  expert = " ".join(rng.choices(WORDS[-9:], k=80))
  prediction = " ".join(rng.choices(WORDS[-5:], k=80))
  off = difflib.SequenceMatcher(None, prediction, expert, False).ratio()
  on = difflib.SequenceMatcher(None, prediction, expert, True).ratio()
  assert difflib_ratio(prediction, expert) == off
  assert on < off - 0.1  # so that the two cannot be mistaken for each other


def test_levenshtein_by_hand():
  # Two insertions or deletions of T = 7 characters... 1 - 1/7.
  assert levenshtein_ratio("abcd", "abd") == pytest.approx(1 - 1 / 7)
  # A replaced character counts twice: one deletion and one insertion.
  assert levenshtein_ratio("abc", "abd") == pytest.approx(1 - 2 / 6)
  assert levenshtein_ratio("", "") == 1.0


def longest_common_subsequence(a, b):
  row = [0] * (len(b) + 1)
  for x in a:
    last = 0
    for j, y in enumerate(b):
      last, row[j + 1] = (
        row[j + 1],
        last + 1 if x == y else max(row[j], row[j + 1]),
      )
  return row[-1]


def test_levenshtein_is_twice_the_common_subsequence():
  for prediction, expert in random_pairs(100, 40, seed=2):
    total = len(prediction) + len(expert)
    common = longest_common_subsequence(prediction, expert)
    expected = 2 * common / total if total else 1.0
    ratio = levenshtein_ratio(prediction, expert)
    # 1 - x/T against 2y/T: a rounding of float64 apart.
    assert ratio == pytest.approx(expected, abs=1e-12)
    assert ratio >= difflib_ratio(prediction, expert) - 1e-12
