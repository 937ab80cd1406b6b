# SPDX-License-Identifier: Apache-2.0
"""Text that comes token by token, and where it stops."""

import itertools

import pytest

from srl_jax.tokenizers import ByteTokenizer, TextStream

TOKENIZER = ByteTokenizer()


def pieces_of(text, size):
  tokens = TOKENIZER.encode(text)
  return [tokens[at : at + size] for at in range(0, len(tokens), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_character_waits_for_all_of_its_bytes(size):
  text = "a é 你好 🙂!"
  stream = TextStream(TOKENIZER)
  told = [stream.add(piece) for piece in pieces_of(text, size)]
  assert "".join(told) == text and stream.add([], is_last=True) == ""
  assert all("\ufffd" not in part for part in told)
  assert stream.starts[:5] == [0, 1, 2, 2, 3]


def test_an_incomplete_character_is_replaced_at_the_end():
  stream = TextStream(TOKENIZER)
  assert stream.add(TOKENIZER.encode("é")[:1]) == ""
  assert stream.add([], is_last=True) == "\ufffd"


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_stop_string_is_found_across_the_borders_of_pieces(size):
  stream = TextStream(TOKENIZER, ["\n\nQ:", "STOP", "é!"])
  told = []
  for piece in pieces_of("one\n\ntwo SToP STé!OP three STOP", size):
    told.append(stream.add(piece))
    if stream.is_stopped:
      break
  assert "".join(told) == stream.text == "one\n\ntwo SToP ST"


def test_the_first_match_counts_however_the_text_is_cut():
  # "aab" ends before "abc" does, and begins before it.
  for size in (1, 2, 4):
    stream = TextStream(TOKENIZER, ["abc", "aab"])
    for piece in pieces_of("xaabc", size):
      stream.add(piece)
    assert stream.text == "x" and stream.is_stopped
    assert len(stream.starts) == 4


def test_what_may_become_a_stop_string_is_held_back_and_told_if_it_does_not():
  stream = TextStream(TOKENIZER, ["abab"])
  told = [stream.add(piece) for piece in pieces_of("xababx"[:4], 1)]
  assert told == ["x", "", "", ""]
  other = TextStream(TOKENIZER, ["abab"])
  told = [other.add(piece) for piece in pieces_of("abaabax", 1)]
  # The fourth character shows that the first three begin no stop string; "a"
  # may still begin one.
  assert told == ["", "", "", "aba", "", "", "abax"]
  assert "".join(told) == "abaabax"
  last = TextStream(TOKENIZER, ["abab"])
  assert last.add(TOKENIZER.encode("aba")) == ""
  assert last.add([], is_last=True) == "aba"


def test_all_ways_to_cut_give_the_same_text():
  tokens = TOKENIZER.encode("a🙂bc")
  for cuts in itertools.product((0, 1), repeat=len(tokens) - 1):
    stream, told, piece = TextStream(TOKENIZER, ["🙂b"]), "", []
    for token, is_cut in zip(tokens, (*cuts, 1), strict=True):
      piece.append(token)
      if is_cut:
        told += stream.add(piece)
        piece = []
    assert told == "a"
