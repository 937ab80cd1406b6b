# SPDX-License-Identifier: Apache-2.0
"""Tokens become the same code points as in decoding on the host."""

import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.device_rewards import tags, text
from srl_jax.rewards import split_lenient
from srl_jax.rewards.format import THINK_CLOSE, THINK_OPEN, WHITESPACE
from srl_jax.tokenizers import ByteTokenizer

spell = jax.jit(text.spell, static_argnums=3)
compact = jax.jit(text.compact, static_argnums=2)


@jax.jit
def decode(bytes_BU, length_B):
  code_BU, is_character_BU = text.decode_utf8(bytes_BU, length_B)
  return text.compact(code_BU, is_character_BU, bytes_BU.shape[1])


def pad(rows, width, fill):
  padded = np.full((len(rows), width), fill, np.int32)
  for at, row in enumerate(rows):
    padded[at, : len(row)] = list(row)
  return padded, np.array([len(row) for row in rows], np.int32)


SPELLINGS = [b"a", b"", b"the end", "é".encode(), b"\xf0", b"\x9f\x99\x82", b""]
TABLE = text.make_token_table(SPELLINGS)
ALL = np.ones((1, 3), bool)


def test_spelling_joins_the_bytes_of_the_tokens_that_count():
  rng = random.Random(0)
  rows = [rng.choices(range(-1, 9), k=rng.randint(0, 12)) for _ in range(300)]
  rows += [[1, 1, 6], [2] * 12]
  tokens_BC, length_B = pad(rows, 12, 0)
  is_kept_BC = np.arange(12) < length_B[:, None]
  is_kept_BC &= np.random.default_rng(0).random(is_kept_BC.shape) < 0.8
  bytes_BU, length_B = spell(TABLE, tokens_BC, is_kept_BC, 84)
  for row, is_kept, found, length in zip(
    tokens_BC, is_kept_BC, np.asarray(bytes_BU), length_B, strict=True
  ):
    # Ids past the vocabulary decode to no bytes, as in Tokenizer.token_bytes.
    known = [t for t in row[is_kept] if 0 <= t < len(SPELLINGS)]
    expected = b"".join(SPELLINGS[t] for t in known)
    assert bytes(found[:length].astype(np.uint8)) == expected
    assert not found[length:].any()


def test_bytes_that_do_not_fit_are_cut_off_but_counted():
  bytes_BU, length_B = spell(TABLE, jnp.array([[2, 0, 2]]), ALL, 9)
  assert bytes(np.uint8(bytes_BU[0])) == b"the endat"
  assert length_B.tolist() == [15]


def test_a_vocabulary_without_any_bytes_spells_nothing():
  table = text.make_token_table([b"", b""])
  bytes_BU, length_B = spell(table, jnp.array([[0, 1, 5]]), ALL, 4)
  assert not bytes_BU.any() and length_B.tolist() == [0]


def assert_decodes_as_python(rows):
  width = max(map(len, rows))
  code_BU, count_B = (np.asarray(x) for x in decode(*pad(rows, width, 0x80)))
  for row, codes, count in zip(rows, code_BU, count_B, strict=True):
    expected = [ord(c) for c in row.decode("utf-8", "replace")]
    assert codes[:count].tolist() == expected, row


# Bytes on both sides of every border in the table of well-formed sequences.
BORDERS = bytes.fromhex(
  "00 41 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff"
)


def test_every_short_byte_sequence_decodes_as_in_python():
  rows = [
    bytes(s) for n in range(4) for s in itertools.product(BORDERS, repeat=n)
  ]
  assert len(rows) == 1 + 25 + 25**2 + 25**3
  assert_decodes_as_python(rows)


def test_sequences_of_four_bytes_decode_as_in_python():
  firsts = bytes.fromhex("e0 ed f0 f1 f3 f4 f5")
  others = bytes.fromhex("41 80 8f 90 9f a0 bf c2 f0")
  rows = [
    bytes(s) for s in itertools.product(firsts, others, others, others, others)
  ]
  assert_decodes_as_python(rows[::3])


def test_characters_of_all_planes_decode_also_when_cut():
  rng = random.Random(0)
  planes = (
    (0, 0x80),
    (0x80, 0x800),
    (0x800, 0xD800),
    (0xE000, 0x11000),
    (0x10000, 0x110000),
  )
  rows = [
    "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(12)).encode()
    for _ in range(500)
  ]
  assert_decodes_as_python([row[rng.randint(0, 3) : 40] for row in rows])


def test_compacting_keeps_order_and_counts_what_does_not_fit():
  code_BU = jnp.arange(12).reshape(2, 6)
  is_kept_BU = jnp.array([[0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1]], bool)
  kept, count_B = compact(code_BU, is_kept_BU, 4)
  assert kept.tolist() == [[1, 2, 5, 0], [6, 7, 8, 9]]
  assert count_B.tolist() == [3, 6]


@jax.jit
def split(bytes_BU, length_B):
  code_BU, is_character_BU = text.decode_utf8(bytes_BU, length_B)
  parts = tags.split(
    code_BU,
    is_character_BU,
    open_tag=THINK_OPEN,
    close_tag=THINK_CLOSE,
    whitespace=WHITESPACE,
  )
  action_BU, _ = text.compact(code_BU, parts.is_outside_BU, bytes_BU.shape[1])
  return parts, action_BU


def assert_splits_as_host(completions):
  rows = [completion.encode() for completion in completions]
  parts, action_BU = jax.tree.map(
    np.asarray, split(*pad(rows, max(map(len, rows)), ord(" ")))
  )
  for at, completion in enumerate(completions):
    expected = split_lenient(completion)
    assert parts.inside_chars_B[at] == len(expected.thought), completion
    length = parts.outside_chars_B[at]
    found = "".join(map(chr, action_BU[at, :length]))
    assert found == expected.action, completion
    assert parts.opens_B[at] == completion.count(THINK_OPEN)
    assert parts.closes_B[at] == completion.count(THINK_CLOSE)
    stripped = completion.strip(WHITESPACE)
    assert parts.starts_with_open_B[at] == stripped.startswith(THINK_OPEN)


PIECES = (THINK_OPEN, THINK_CLOSE, " ", "\r\n", "x", "é\u00a0", "<")


@pytest.mark.parametrize("length", [1, 2, 4])
def test_tags_split_as_on_the_host(length):
  pieces = itertools.product(PIECES, repeat=length)
  assert_splits_as_host(["".join(p) for p in pieces])


def test_many_tags_split_as_on_the_host():
  rng = random.Random(0)
  pieces = (*PIECES, "a b", "</think", "think>", "<think", "🙂", "\t", "\u2003")
  rows = [
    "".join(rng.choices(pieces, k=rng.randint(3, 14))) for _ in range(3000)
  ]
  assert_splits_as_host(rows)


def test_the_bytes_of_a_tokenizer_decode_as_it_does():
  tokenizer = ByteTokenizer()
  rng = random.Random(0)
  ids = range(tokenizer.vocab_size + 3)
  rows = [rng.choices(ids, k=rng.randint(0, 20)) for _ in range(300)]
  tokens_BC, length_B = pad(rows, 20, 65)
  table = text.make_token_table(
    [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
  )
  is_real_BC = np.arange(20) < length_B[:, None]
  code_BU, count_B = decode(*spell(table, tokens_BC, is_real_BC, 20 * 13))
  for row, codes, count in zip(rows, np.asarray(code_BU), count_B, strict=True):
    assert "".join(map(chr, codes[:count])) == tokenizer.decode(row)
