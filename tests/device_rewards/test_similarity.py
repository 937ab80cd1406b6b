# SPDX-License-Identifier: Apache-2.0
"""The device counts exactly what difflib and Levenshtein count."""

import functools
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.device_rewards import similarity
from srl_jax.rewards import difflib_ratio, levenshtein_ratio, matching_blocks
from srl_jax.testing import texts
from srl_jax.testing.compilation import full_compilation

difflib = jax.jit(similarity.matching_characters)
levenshtein = jax.jit(similarity.common_subsequence)
ratio = jax.jit(similarity.ratio)


def encode(strings, width):
  """Returns code points and lengths of texts, with nonzero padding."""
  codes = np.full((len(strings), width), ord("a"), np.int32)
  for row, string in enumerate(strings):
    codes[row, : len(string)] = [ord(c) for c in string]
  return codes, np.array([len(s) for s in strings], np.int32)


def arrays(pairs, width):
  predictions, experts = zip(*pairs, strict=True)
  return *encode(predictions, width), *encode(experts, width)


def assert_equals_host(pairs, width, count_difflib=difflib):
  """Asserts that counts are equal, and ratios equal in float32."""
  batch = arrays(pairs, width)
  total_B = batch[1] + batch[3]
  count_B = count_difflib(*batch)
  expected = [sum(n for *_, n in matching_blocks(*pair)) for pair in pairs]
  np.testing.assert_array_equal(count_B, expected)
  expected = np.float32([difflib_ratio(*pair) for pair in pairs])
  np.testing.assert_array_equal(ratio(count_B, total_B), expected)
  # Levenshtein gives no count; a wrong count would change the ratio by 2 / T.
  expected = np.float32([levenshtein_ratio(*pair) for pair in pairs])
  found_B = ratio(levenshtein(*batch), total_B)
  np.testing.assert_array_equal(found_B, expected)


def test_the_counts_by_hand():
  pairs = [
    ("abcd", "abd"),  # "ab" and "d"
    ("D8600", "D8631"),
    # Python's documentation shows with this pair that the rule is not
    # symmetric: the common character "t" is first in "tide", last in "diet".
    ("tide", "diet"),
    ("diet", "tide"),
    # "ab" is twice in both texts: the first ones must match each other, or
    # fewer characters would match.
    ("abxab", "ab-ab"),
    ("", ""),
    ("", "abc"),
    ("abc", ""),
  ]
  batch = arrays(pairs, 5)
  assert difflib(*batch).tolist() == [3, 3, 1, 2, 4, 0, 0, 0]
  assert levenshtein(*batch).tolist() == [3, 3, 2, 2, 4, 0, 0, 0]
  # Runs are doubled up to the longest: here one more than a power of two.
  for pair, count in ((("bcabc", "abc"), 3), (("bcdexabcde", "abcde"), 5)):
    assert difflib(*arrays([pair], 10)).tolist() == [count]


def test_the_ratio_by_hand_and_of_nothing():
  found = ratio(jnp.array([3, 0, 0, 2]), jnp.array([7, 0, 5, 4]))
  assert found.tolist() == [np.float32(6 / 7), 1.0, 0.0, 1.0]


def test_every_pair_of_short_texts_is_as_on_the_host():
  # These texts have ties between blocks in all forms.
  strings = [
    "".join(s) for n in range(6) for s in itertools.product("ab", repeat=n)
  ]
  pairs = list(itertools.product(strings, strings))
  assert len(pairs) == 63**2
  assert_equals_host(pairs, 5)


@pytest.mark.parametrize("kind", texts.KINDS)
def test_steps_of_every_kind_are_as_on_the_host(kind):
  rng = random.Random(kind)
  assert_equals_host([texts.pair(rng, kind, 60) for _ in range(800)], 60)


def test_long_steps_are_as_on_the_host():
  rng = random.Random(0)
  pairs = [texts.pair(rng, kind, 300) for kind in texts.KINDS for _ in range(8)]
  pairs += [("a" * 300, "a" * 299), ("ab" * 150, "ba" * 150)]
  assert_equals_host(pairs, 300)


def test_a_window_per_level_is_the_worst_case_and_ends():
  # There are no two matches in a row: each level takes the first character,
  # and all but one of the windows are to its right.
  prediction = "".join(chr(0x4E00 + i) + "a" for i in range(30))
  expert = "".join(chr(0x4E00 + i) + "b" for i in range(30))
  batch = arrays([(prediction, expert), ("a", "a")], 60)
  assert difflib(*batch).tolist() == [30, 1]


def test_the_two_texts_may_be_padded_differently():
  pairs = [("kitten", "sitting"), ("x", "xy"), ("abcabc", "abc")]
  wide = arrays(pairs, 9)
  narrow = encode([a for a, _ in pairs], 6)
  for count in (difflib, levenshtein):
    expected = count(*wide).tolist()
    assert count(*narrow, *wide[2:]).tolist() == expected
    assert (
      count(*wide[:2], *encode([b for _, b in pairs], 7)).tolist() == expected
    )
    assert sum(expected) > 7


def test_texts_too_long_to_count_are_refused():
  codes = jnp.zeros((1, similarity.MAX_CHARS + 1), jnp.int32)
  for count in (similarity.matching_characters, similarity.common_subsequence):
    with pytest.raises(ValueError, match=r"32768 and 32768 characters.*32767"):
      jax.eval_shape(count, codes, jnp.ones(1), codes, jnp.ones(1))


BY_LENGTH = jax.jit(
  functools.partial(
    similarity.by_length,
    similarity.matching_characters,
    sizes=(8, 24, 60),
    chunk_cells=7 * 24 * 24,
  )
)


def test_counting_by_length_changes_nothing():
  rng = random.Random(1)
  pairs = [
    texts.pair(rng, "few", rng.choice((6, 8, 9, 24, 25, 60))) for _ in range(90)
  ]
  pairs += [("", ""), ("", "abc"), ("a" * 60, "a" * 60)]
  rng.shuffle(pairs)
  assert_equals_host(pairs, 60, BY_LENGTH)


def test_each_pair_is_counted_at_the_smallest_size_that_holds_it():
  # Each size has as few chunks as their cells allow. Pairs with an empty text
  # and sizes that no pair needs are not counted.
  seen = []

  def count(prediction_BX, prediction_length_B, expert_BY, expert_length_B):
    def see(lengths, experts):
      seen.append(
        (
          prediction_BX.shape,
          expert_BY.shape[1],
          sorted(zip(lengths.tolist(), experts.tolist(), strict=True)),
        )
      )

    jax.debug.callback(see, prediction_length_B, expert_length_B)
    return prediction_length_B

  lengths = jnp.array([3, 0, 9, 4, 1, 5])
  experts = jnp.array([4, 6, 2, 4, 0, 1])
  found = similarity.by_length(
    count,
    jnp.zeros((6, 9), jnp.int32),
    lengths,
    jnp.zeros((6, 6), jnp.int32),
    experts,
    sizes=(4, 5, 16),
    chunk_cells=40,
  )
  jax.effects_barrier()
  assert found.tolist() == [3, 0, 9, 4, 0, 5]
  assert sorted(seen) == [
    ((1, 5), 5, [(5, 1)]),
    ((1, 9), 6, [(9, 2)]),
    ((2, 4), 4, [(3, 4), (4, 4)]),
  ]


@pytest.mark.slow
def test_twenty_thousand_pairs_are_as_on_the_host():
  rng = random.Random(2)
  for chars, count in ((40, 8000), (120, 8000), (400, 1500), (2000, 24)):
    pairs = [
      texts.pair(rng, rng.choice(texts.KINDS), chars) for _ in range(count)
    ]
    counting = functools.partial(
      similarity.by_length,
      similarity.matching_characters,
      sizes=(chars,),
      chunk_cells=1 << 20,
    )
    with full_compilation():
      assert_equals_host(pairs, chars, jax.jit(counting))
