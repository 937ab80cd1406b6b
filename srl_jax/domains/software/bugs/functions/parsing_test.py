# SPDX-License-Identifier: Apache-2.0
"""Tests of small languages."""

from srl_jax.domains.software.bugs.functions.parsing import (
  evaluate,
  is_balanced,
  is_newer,
  parse_query,
  parse_settings,
  split_row,
  tokenize,
)


def test_tokenize():
  assert tokenize("12 + 3") == ["12", "+", "3"]
  assert tokenize("(4*5)") == ["(", "4", "*", "5", ")"]
  assert tokenize("") == []
  assert tokenize(" 7 ") == ["7"]


def test_evaluate():
  assert evaluate("1+2*3") == 7
  assert evaluate("(1+2)*3") == 9
  assert evaluate("10 - 4 - 3") == 3
  assert evaluate("-2*3") == -6
  assert evaluate("42") == 42
  assert evaluate("2*(3-(4+1))") == -4
  assert evaluate("2*3*4") == 24


def test_is_balanced():
  assert is_balanced("(a[b]{c})") is True
  assert is_balanced("(]") is False
  assert is_balanced("(") is False
  assert is_balanced(")") is False
  assert is_balanced("") is True
  assert is_balanced("([)]") is False


def test_parse_settings():
  assert parse_settings("a=1\nb = 2") == {"a": "1", "b": "2"}
  assert parse_settings("# note\na=1 # one") == {"a": "1"}
  assert parse_settings("a=1\na=2") == {"a": "2"}
  assert parse_settings("x=y=z") == {"x": "y=z"}
  assert parse_settings("nothing") == {}
  assert parse_settings("") == {}


def test_is_newer():
  assert is_newer("1.10", "1.9") is True
  assert is_newer("1.0", "1.0") is False
  assert is_newer("2", "1.9.9") is True
  assert is_newer("1.2", "1.2.1") is False
  assert is_newer("1.2.0", "1.2") is False


def test_split_row():
  assert split_row("a,b,c") == ["a", "b", "c"]
  assert split_row('a,"b,c",d') == ["a", "b,c", "d"]
  assert split_row("") == [""]
  assert split_row("a;b", ";") == ["a", "b"]
  assert split_row("x,,y") == ["x", "", "y"]


def test_parse_query():
  assert parse_query("a=1&b=2") == {"a": ["1"], "b": ["2"]}
  assert parse_query("?q=two+words") == {"q": ["two words"]}
  assert parse_query("a=1&a=2") == {"a": ["1", "2"]}
  assert parse_query("") == {}
  assert parse_query("flag&x=") == {"flag": [""], "x": [""]}
