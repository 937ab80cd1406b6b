# SPDX-License-Identifier: Apache-2.0
"""Token ids to code points on the device, equal to the host's decoding.

The host joins the bytes of the tokens and calls bytes.decode("utf-8",
"replace"); `spell` and `decode_utf8` do the same on the device. Not for: which
tokens count, or what the text means.

Axes: B rows, C tokens, U bytes, V vocabulary, Y bytes of the whole vocabulary.
A character stays at the position of its first byte, with gaps between, until
`compact` closes the gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax.types import Array

REPLACEMENT = 0xFFFD  # U+FFFD, what Python puts for bytes that are not UTF-8


class TokenTable(NamedTuple):
  """The bytes of every token, one token after the other.

  The table has no padded row per token: a single token of a hundred spaces
  would make all rows, and all looked-up rows, a hundred bytes long.

  Attributes:
    bytes_Y: uint8 bytes of all tokens.
    start_V: int32 [V + 2], the place where each token begins; token V, which
      stands for all ids past the vocabulary, has no bytes.
  """

  bytes_Y: Array
  start_V: Array


def make_token_table(spellings: Sequence[bytes]) -> TokenTable:
  """Returns the table of a vocabulary as numpy arrays.

  Args:
    spellings: the bytes of each id in order, from `Tokenizer.token_bytes`.
  """
  lengths = [len(spelling) for spelling in spellings]
  start_V = np.concatenate([[0], np.cumsum([*lengths, 0])])
  # One extra byte, so that a vocabulary of empty tokens has a byte to look up.
  data = b"".join([*spellings, b"\0"])
  return TokenTable(np.frombuffer(data, np.uint8), start_V.astype(np.int32))


def spell(
  table: TokenTable,
  tokens_BC: jax.Array,
  is_kept_BC: jax.Array,
  width: int,
) -> tuple[jax.Array, jax.Array]:
  """Joins the bytes of the kept tokens of each row.

  Args:
    table: table of the tokenizer.
    tokens_BC: token ids; unknown ids decode to no bytes.
    is_kept_BC: True for the tokens that count; others decode to no bytes.
    width: width U of the result; bytes past it are cut off.

  Returns:
    (bytes_BU, length_B), int32; the length includes bytes that were cut off.
  """
  vocab = table.start_V.shape[0] - 2
  is_known_BC = is_kept_BC & (tokens_BC >= 0) & (tokens_BC < vocab)
  token_BC = jnp.where(is_known_BC, tokens_BC, vocab)
  source_BC = jnp.asarray(table.start_V)[token_BC]
  size_BC = jnp.asarray(table.start_V)[token_BC + 1] - source_BC
  end_BC = jnp.cumsum(size_BC, axis=1)
  start_BC = end_BC - size_BC
  # A token's bytes move by shift_BC. Its change is written where each token
  # starts, and the running sum gives every byte its shift. Empty tokens cancel.
  shift_BC = source_BC - start_BC
  change_BC = jnp.diff(shift_BC, axis=1, prepend=0)
  row_B1 = jnp.arange(tokens_BC.shape[0])[:, None]
  change_BU = jnp.zeros((tokens_BC.shape[0], width), jnp.int32)
  change_BU = change_BU.at[row_B1, start_BC].add(change_BC, mode="drop")
  place_U = jnp.arange(width)
  source_BU = place_U + jnp.cumsum(change_BU, axis=1)
  bytes_BU = jnp.take(jnp.asarray(table.bytes_Y), source_BU, mode="clip")
  length_B = end_BC[:, -1]
  is_real_BU = place_U < length_B[:, None]
  return jnp.where(is_real_BU, bytes_BU, 0).astype(jnp.int32), length_B


def decode_utf8(
  bytes_BU: jax.Array, length_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns code points as bytes.decode("utf-8", "replace") does.

  Every byte that is not a continuation (0x80 to 0xBF) begins a character. A
  continuation belongs to the character where the bytes so far begin a valid
  sequence (Unicode Standard, Table 3-7). Any other continuation, and any
  incomplete sequence, becomes a U+FFFD.

  Args:
    bytes_BU: int32 bytes, 0 to 255.
    length_B: number of real bytes.

  Returns:
    (code_BU, is_character_BU): the code point of each character at its first
    byte, -1 at all other positions.
  """
  is_real_BU = jnp.arange(bytes_BU.shape[1]) < length_B[:, None]
  byte_BU = jnp.where(is_real_BU, bytes_BU, -1)
  # Length in bytes of a sequence that begins here; 0 where none can begin.
  size_BU = (byte_BU < 0x80) + 2 * _within(byte_BU, 0xC2, 0xDF)
  size_BU += 3 * _within(byte_BU, 0xE0, 0xEF) + 4 * _within(byte_BU, 0xF0, 0xF4)
  # After some first bytes the second has a narrower range, which excludes
  # overlong forms, surrogates and code points above U+10FFFF.
  low_BU = 0x80 + 0x20 * (byte_BU == 0xE0) + 0x10 * (byte_BU == 0xF0)
  high_BU = 0xBF - 0x20 * (byte_BU == 0xED) - 0x30 * (byte_BU == 0xF4)
  code_BU = jnp.where(size_BU == 1, byte_BU, byte_BU & (0x7F >> size_BU))
  valid_BU = jnp.ones_like(byte_BU)  # how many of these bytes are present
  for n in (1, 2, 3):
    next_BU = ahead(byte_BU, n)
    is_next_BU = (size_BU > n) & (valid_BU == n)
    is_next_BU &= _within(next_BU, low_BU, high_BU)
    valid_BU += is_next_BU
    code_BU = jnp.where(is_next_BU, code_BU << 6 | next_BU & 0x3F, code_BU)
    low_BU, high_BU = 0x80, 0xBF
  code_BU = jnp.where(valid_BU == size_BU, code_BU, REPLACEMENT)
  is_inside_BU = behind(valid_BU, 1) > 1
  is_inside_BU |= (behind(valid_BU, 2) > 2) | (behind(valid_BU, 3) > 3)
  is_character_BU = is_real_BU & ~is_inside_BU
  return jnp.where(is_character_BU, code_BU, -1), is_character_BU


def _within(x, low, high):
  return (x >= low) & (x <= high)


def ahead(x_BU: jax.Array, n: int) -> jax.Array:
  """Returns the entry n positions further on; -1 past the end."""
  width = x_BU.shape[1]
  return jnp.pad(x_BU[:, n:], ((0, 0), (0, min(n, width))), constant_values=-1)


def behind(x_BU: jax.Array, n: int) -> jax.Array:
  """Returns the entry n positions before; -1 before the beginning."""
  width = x_BU.shape[1]
  kept_BU = x_BU[:, : max(width - n, 0)]
  return jnp.pad(kept_BU, ((0, 0), (min(n, width), 0)), constant_values=-1)


def begins(code_BU: jax.Array, text: str) -> jax.Array:
  """Returns True at each position where the ASCII text begins."""
  is_here_BU = code_BU == ord(text[0])
  for n, character in enumerate(text[1:], 1):
    is_here_BU &= ahead(code_BU, n) == ord(character)
  return is_here_BU


def compact(
  code_BU: jax.Array, is_kept_BU: jax.Array, width: int
) -> tuple[jax.Array, jax.Array]:
  """Moves the kept code points of each row to its front, in order.

  Returns:
    (kept code points [B, width], padded with 0; their number [B], which also
    counts those that did not fit).
  """
  place_U = jnp.arange(code_BU.shape[1])
  count_BU = jnp.cumsum(is_kept_BU, axis=1)
  # Entries that are not kept go to different places past the width.
  past_U = width + code_BU.shape[1] + place_U
  place_BU = jnp.where(is_kept_BU, count_BU - 1, past_U)
  row_B1 = jnp.arange(code_BU.shape[0])[:, None]
  kept = jnp.zeros((code_BU.shape[0], width), code_BU.dtype)
  kept = kept.at[row_B1, place_BU].set(
    code_BU, mode="drop", unique_indices=True
  )
  return kept, count_BU[:, -1]
