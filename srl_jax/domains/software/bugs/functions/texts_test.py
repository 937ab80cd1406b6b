# SPDX-License-Identifier: Apache-2.0
"""Tests of words and characters."""

from srl_jax.domains.software.bugs.functions.texts import (
  caesar,
  common_prefix,
  count_words,
  is_letter,
  is_palindrome,
  is_vowel,
  pig_latin,
  run_lengths,
  slug,
)


def test_is_vowel():
  assert is_vowel("a") is True
  assert is_vowel("U") is True
  assert is_vowel("b") is False
  assert is_vowel("7") is False


def test_is_letter():
  assert is_letter("a") is True
  assert is_letter("z") is True
  assert is_letter("Q") is True
  assert is_letter("5") is False
  assert is_letter("{") is False


def test_slug():
  assert slug("Hello World") == "hello-world"
  assert slug("  Two   spaces ") == "two-spaces"
  assert slug("What's new in 3.12?") == "what-s-new-in-3-12"
  assert slug("one") == "one"
  assert slug("") == ""
  assert slug("-- A --") == "a"


def test_is_palindrome():
  assert is_palindrome("Never odd or even") is True
  assert is_palindrome("abca") is False
  assert is_palindrome("abda") is False
  assert is_palindrome("x") is True
  assert is_palindrome("") is True
  assert is_palindrome("ab") is False


def test_caesar():
  assert caesar("abc", 1) == "bcd"
  assert caesar("xyz", 3) == "abc"
  assert caesar("Hello, Zoe!", 2) == "Jgnnq, Bqg!"
  assert caesar("bcd", -1) == "abc"
  assert caesar("42", 5) == "42"
  assert caesar("", 7) == ""


def test_pig_latin():
  assert pig_latin("string") == "ingstray"
  assert pig_latin("apple") == "appleway"
  assert pig_latin("pig") == "igpay"
  assert pig_latin("a") == "away"
  assert pig_latin("nth") == "nthay"


def test_run_lengths():
  assert run_lengths("aaab") == "a3b1"
  assert run_lengths("abc") == "a1b1c1"
  assert run_lengths("zz") == "z2"
  assert run_lengths("") == ""
  assert run_lengths("aabbaa") == "a2b2a2"


def test_common_prefix():
  assert common_prefix(["flower", "flow", "flight"]) == "fl"
  assert common_prefix(["dog", "car"]) == ""
  assert common_prefix(["same", "same"]) == "same"
  assert common_prefix(["alone"]) == "alone"
  assert common_prefix([]) == ""
  assert common_prefix(["in", "inside", "into"]) == "in"


def test_count_words():
  assert count_words("The cat, the dog.") == {"the": 2, "cat": 1, "dog": 1}
  assert count_words("") == {}
  assert count_words("Go! Go! Go!") == {"go": 3}
  assert count_words("a - b") == {"a": 1, "-": 1, "b": 1}
  assert count_words("wait ... what") == {"wait": 1, "what": 1}
