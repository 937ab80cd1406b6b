# SPDX-License-Identifier: Apache-2.0
"""Tests of text in lines and columns."""

from srl_jax.domains.software.bugs.functions.layout import (
  indent_level,
  justify,
  shorten,
  table,
  thousands,
  wrap,
)


def test_wrap():
  assert wrap("the quick brown fox", 10) == ["the quick", "brown fox"]
  assert wrap("", 5) == []
  assert wrap("word", 2) == ["word"]
  assert wrap("a b c", 3) == ["a b", "c"]
  assert wrap("one two", 7) == ["one two"]


def test_justify():
  assert justify(["a", "b"], 5) == "a   b"
  assert justify(["a", "b", "c"], 6) == "a  b c"
  assert justify(["word"], 6) == "word  "
  assert justify(["a", "b", "c"], 5) == "a b c"
  assert justify(["to", "be", "or"], 12) == "to   be   or"


def test_shorten():
  assert shorten("hello", 5) == "hello"
  assert shorten("hello world", 8) == "hello..."
  assert shorten("hello world", 9) == "hello..."
  assert shorten("", 3) == ""
  assert shorten("abcdef", 5) == "ab..."


def test_table():
  assert table([["a", 1], ["bcd", 22]]) == ["a    1", "bcd 22"]
  assert table([["x"]]) == ["x"]
  assert table([[1], [100]]) == ["  1", "100"]
  assert table([["ab", "c"], ["d", "efg"]]) == ["ab c", "d  efg"]


def test_indent_level():
  assert indent_level("    x") == 2
  assert indent_level("x") == 0
  assert indent_level("        y", 4) == 2
  assert indent_level("   x ") == 1


def test_thousands():
  assert thousands(1234567) == "1,234,567"
  assert thousands(999) == "999"
  assert thousands(-1000) == "-1,000"
  assert thousands(0) == "0"
  assert thousands(100000) == "100,000"
