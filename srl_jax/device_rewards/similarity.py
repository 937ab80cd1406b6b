# SPDX-License-Identifier: Apache-2.0
"""Similarity of two texts on the device: the numbers of difflib, in JAX.

`matching_characters` counts exactly the characters that CPython's
difflib.SequenceMatcher(None, prediction, expert, autojunk=False) matches.
`common_subsequence` counts those that an edit distance without replacements
keeps. `ratio` turns either count into a similarity.

Axes: B pairs of texts, X characters of the prediction, Y characters of the
expert. A text is a row of code points with a length; entries past the length
are ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# (prediction_BX, prediction_length_B, expert_BY, expert_length_B) -> count_B
Count = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

# Two positions are packed into one int32, and run lengths are int16.
MAX_CHARS = (1 << 15) - 1


def ratio(count_B: jax.Array, characters_B: jax.Array) -> jax.Array:
  """Returns 2 * count / characters, float32; 1 where both texts are empty.

  Both whole numbers are below 2^24. So where division rounds correctly (on
  CPU), the quotient is Python's float64 ratio rounded to float32.

  Args:
    count_B: number of characters in common.
    characters_B: number of characters of both texts together.
  """
  ratio_B = 2.0 * count_B / jnp.maximum(characters_B, 1).astype(jnp.float32)
  return jnp.where(characters_B > 0, ratio_B, 1.0)


def matching_characters(
  prediction_BX: jax.Array,
  prediction_length_B: jax.Array,
  expert_BY: jax.Array,
  expert_length_B: jax.Array,
) -> jax.Array:
  """Counts characters in matching blocks by the Ratcliff-Obershelp rule.

  The rule (SRL paper, Section 3.2; ties as in difflib): of all longest common
  substrings take the one that starts first in the prediction, and of those the
  one that starts first in the expert. Then do the same with the texts to the
  left of it, and with those to the right. M is the sum of all lengths.

  The recursion runs level by level. The texts to compare at one level are
  windows, disjoint and in the same order in both texts, so each row of the
  [X, Y] grid (character of the prediction) lies in one window at most. With
  run[i, j] the length of the common run that ends at (i, j), the longest block
  of a window that ends there is min(run, i - first_i + 1, j - first_j + 1):
  one pass over the grid per level. Two texts of a few hundred characters take
  5 to 20 levels; the worst case is a level per block (texts without two
  matches in a row).

  Memory is 2 bytes per cell of the [B, X, Y] grid, twice while it is made.

  Returns:
    int32 M [B]; `ratio` divides it by T.

  Raises:
    ValueError: an axis is longer than MAX_CHARS.
  """
  prediction_BX, expert_BY = _without_padding(
    prediction_BX, prediction_length_B, expert_BY, expert_length_B
  )
  shorter_B = jnp.minimum(prediction_length_B, expert_length_B)
  run_BYX = _common_runs(prediction_BX, expert_BY, jnp.max(shorter_B))
  bits = max(run_BYX.shape[1:]).bit_length()
  row_X = jnp.arange(prediction_BX.shape[1])
  is_real_BX = row_X < prediction_length_B[:, None]
  whole = _Windows(
    first_BX=jnp.zeros_like(prediction_BX),
    low_BX=jnp.zeros_like(prediction_BX),
    high_BX=jnp.where(is_real_BX, expert_length_B[:, None], 0),
  )

  def go_on(state):
    windows, _ = state
    return jnp.any(windows.low_BX < windows.high_BX)

  def level(state):
    windows, count_B = state
    size_BX, column_BX = _longest_of_rows(run_BYX, windows, bits)
    windows, matched_B = _split(windows, size_BX, column_BX, bits)
    return windows, count_B + matched_B

  zero_B = jnp.zeros_like(prediction_length_B)
  return jax.lax.while_loop(go_on, level, (whole, zero_B))[1]


class _Windows(NamedTuple):
  """The window in which each row lies, as int32.

  Attributes:
    first_BX: first row of the window.
    low_BX: first column of the window.
    high_BX: column after the last one; high <= low for a row in no window.
  """

  first_BX: jax.Array
  low_BX: jax.Array
  high_BX: jax.Array


def _without_padding(
  prediction_BX, prediction_length_B, expert_BY, expert_length_B
):
  """Replaces the padding of both texts by values that match nothing."""
  X, Y = prediction_BX.shape[1], expert_BY.shape[1]
  if max(X, Y) > MAX_CHARS:
    raise ValueError(
      f"texts are padded to {X} and {Y} characters, more than the {MAX_CHARS} "
      "that fit here; compare longer ones on the host (srl_jax.rewards)"
    )
  is_real_BX = jnp.arange(X) < prediction_length_B[:, None]
  is_real_BY = jnp.arange(Y) < expert_length_B[:, None]
  return (
    jnp.where(is_real_BX, prediction_BX, -1),
    jnp.where(is_real_BY, expert_BY, -2),
  )


def _common_runs(prediction_BX, expert_BY, longest):
  """Length of the common run that ends at each cell, int16 [B, Y, X].

  The length doubles: when runs are known up to a length n, a run of n is
  continued by the run that ends n cells up the diagonal. No run exceeds
  `longest`.
  """
  # Rows are the last axis: a pass reduces over columns, and reducing over the
  # first of two axes is twice as fast on CPU, and faster on TPU.
  run_BYX = expert_BY[:, :, None] == prediction_BX[:, None, :]
  run_BYX = run_BYX.astype(jnp.int16)
  n = 1
  while n < min(run_BYX.shape[1:]):
    # The condition also keeps XLA from fusing two doublings, which would
    # compute the first again for each of its uses: 20 times slower on CPU.
    run_BYX = jax.lax.cond(
      longest > n, functools.partial(_double, n=n), lambda run: run, run_BYX
    )
    n *= 2
  return run_BYX


def _double(run_BYX, n):
  before_BYX = jnp.pad(run_BYX[:, :-n, :-n], ((0, 0), (n, 0), (n, 0)))
  return jnp.where(run_BYX == n, run_BYX + before_BYX, run_BYX)


def _longest_of_rows(run_BYX, windows, bits):
  """Finds the longest block that ends in each row, within its window.

  Returns:
    (size_BX, column_BX): length of the block (0 if there is none), and the
    first column in which a block of that length ends.
  """
  Y, X = run_BYX.shape[1:]
  mask = (1 << bits) - 1
  column_Y1 = jnp.arange(Y)[:, None]
  rows_above_BX = jnp.arange(X) - windows.first_BX + 1
  size_BYX = jnp.minimum(
    run_BYX.astype(jnp.int32),
    jnp.minimum(
      rows_above_BX[:, None], column_Y1 - windows.low_BX[:, None] + 1
    ),
  )
  is_inside_BYX = column_Y1 < windows.high_BX[:, None]
  size_BYX = jnp.where(is_inside_BYX, size_BYX, 0)
  # One number holds both, so that the maximum is by size, then first column.
  best_BX = jnp.max((size_BYX << bits) | (mask - column_Y1), axis=1)
  return best_BX >> bits, mask - (best_BX & mask)


def _split(windows, size_BX, column_BX, bits):
  """Takes the best block out of every window.

  Windows, and so blocks, have the same order in both texts. So packed pairs
  of (row, column) grow from block to block, and cumulative maxima and minima
  carry them from the rows where blocks end to all other rows.

  Returns:
    The windows left and right of the blocks, and the characters in blocks [B].
  """
  first_BX, low_BX, high_BX = windows
  X, mask = size_BX.shape[1], (1 << bits) - 1
  row_X = jnp.arange(X)
  is_alive_BX = low_BX < high_BX

  # The best size above each row (without its own), and from the row downwards.
  # The window's first row in the high bits keeps other windows out.
  above_BX = jnp.where(is_alive_BX, (first_BX << bits) | size_BX, -1)
  above_BX = jax.lax.cummax(above_BX, axis=1)
  above_BX = jnp.pad(above_BX[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  above_BX = jnp.where(above_BX >> bits == first_BX, above_BX & mask, 0)
  below_BX = jnp.where(is_alive_BX, ((X - first_BX) << bits) | size_BX, -1)
  below_BX = jax.lax.cummax(below_BX, axis=1, reverse=True) & mask
  # The first row of the window in which a block of the best size ends.
  is_end_BX = is_alive_BX & (size_BX > above_BX) & (size_BX == below_BX)

  # Where the last block before each row ends, and where the next one begins.
  end_BX = ((row_X + 1) << bits) | (column_BX + 1)
  end_BX = jax.lax.cummax(jnp.where(is_end_BX, end_BX, 0), axis=1)
  begin_BX = ((row_X + 1 - size_BX) << bits) | (column_BX + 1 - size_BX)
  begin_BX = jnp.where(is_end_BX, begin_BX, (1 << 2 * bits) - 1)
  begin_BX = jax.lax.cummin(begin_BX, axis=1, reverse=True)

  has_block_BX = jnp.maximum(above_BX, below_BX) > 0
  is_left_over_BX = is_alive_BX & has_block_BX & (row_X < begin_BX >> bits)
  left_over = _Windows(
    first_BX=jnp.maximum(first_BX, end_BX >> bits),
    low_BX=jnp.maximum(low_BX, end_BX & mask),
    high_BX=jnp.where(
      is_left_over_BX, jnp.minimum(high_BX, begin_BX & mask), 0
    ),
  )
  return left_over, jnp.sum(jnp.where(is_end_BX, size_BX, 0), axis=1)


def common_subsequence(
  prediction_BX: jax.Array,
  prediction_length_B: jax.Array,
  expert_BY: jax.Array,
  expert_length_B: jax.Array,
) -> jax.Array:
  """Returns the length of the longest common subsequence, for `ratio`.

  The ratio is that of rapidfuzz's Levenshtein.ratio: (T - d) / T, with d the
  fewest insertions and deletions and T the characters of both texts.

  In the table of L[i, j] for the first i and j characters, a diagonal of equal
  i + j depends only on the two before it. So the diagonals are computed one
  after the other, each for all pairs at once, and no table is kept.

  Returns:
    int32 [B].

  Raises:
    ValueError: an axis is longer than MAX_CHARS.
  """
  prediction_BX, expert_BY = _without_padding(
    prediction_BX, prediction_length_B, expert_BY, expert_length_B
  )
  X, Y = prediction_BX.shape[1], expert_BY.shape[1]
  # Diagonal d compares character x of the prediction with d - 2 - x of the
  # expert, so the reversed expert gives a slice. Past its ends nothing matches.
  backwards_BZ = jnp.pad(
    expert_BY[:, ::-1], ((0, 0), (X, X)), constant_values=-2
  )
  last = jnp.max(prediction_length_B + expert_length_B)

  def diagonal(d, state):
    before_BX, last_BX = state
    start = X + Y + 1 - d
    facing_BX = jax.lax.dynamic_slice_in_dim(backwards_BZ, start, X, axis=1)
    best_BX = jnp.maximum(_next_row(last_BX), last_BX)
    extended_BX = _next_row(before_BX) + 1
    is_match_BX = facing_BX == prediction_BX
    return last_BX, jnp.where(is_match_BX, extended_BX, best_BX)

  zero_BX = jnp.zeros_like(prediction_BX)
  state = jax.lax.fori_loop(2, last + 1, diagonal, (zero_BX, zero_BX))
  # Padding adds nothing, so the largest entry is the one at both full lengths.
  return state[1].max(axis=1)


def _next_row(x_BX):
  """Shifts by one row; a text of no characters has none in common."""
  return jnp.pad(x_BX[:, :-1], ((0, 0), (1, 0)))


def by_length(
  count: Count,
  prediction_BX: jax.Array,
  prediction_length_B: jax.Array,
  expert_BY: jax.Array,
  expert_length_B: jax.Array,
  *,
  sizes: Sequence[int],
  chunk_cells: int,
) -> jax.Array:
  """Counts pairs of all lengths, each at about the cost of its own length.

  Pairs are sorted into the smallest of `sizes` that holds both texts, and
  counted in chunks of one size. There is one program per size, and a size
  without pairs costs nothing. Pairs with an empty text count 0 without a
  computation, so a caller may drop a pair by giving it length 0.

  Sorting mixes all rows. Where B is split over devices, call this inside
  shard_map, so that every device sorts its own rows.

  Args:
    count: `matching_characters` or `common_subsequence`.
    prediction_BX: code points of the predictions.
    prediction_length_B: lengths, at most the largest of `sizes`.
    expert_BY: code points of the experts' texts.
    expert_length_B: lengths, at most the largest of `sizes`.
    sizes: increasing lengths in characters.
    chunk_cells: upper bound on pairs * X * Y of a chunk, unless a single pair
      exceeds it.

  Returns:
    int32 [B].
  """
  B = prediction_length_B.shape[0]
  shorter_B = jnp.minimum(prediction_length_B, expert_length_B)
  longer_B = jnp.maximum(prediction_length_B, expert_length_B)
  need_B = jnp.where(shorter_B > 0, longer_B, 0)
  order_B = jnp.argsort(need_B)
  count_B = jnp.zeros_like(prediction_length_B)
  end = jnp.sum(need_B == 0)
  longest = max(prediction_BX.shape[1], expert_BY.shape[1])
  for smaller, size in zip((0, *sizes), sizes, strict=False):
    if smaller >= longest:
      break
    a_BX, b_BY = prediction_BX[:, :size], expert_BY[:, :size]
    rows = max(1, min(B, chunk_cells // (a_BX.shape[1] * b_BY.shape[1])))
    start, end = end, jnp.sum(need_B <= size)

    def chunk(state, end=end, rows=rows, a_BX=a_BX, b_BY=b_BY):
      at, count_B = state
      place = at + jnp.arange(rows)
      row = order_B[jnp.minimum(place, B - 1)]
      is_due = place < end
      found = count(
        a_BX[row],
        jnp.where(is_due, prediction_length_B[row], 0),
        b_BY[row],
        jnp.where(is_due, expert_length_B[row], 0),
      )
      row = jnp.where(is_due, row, B)
      return at + rows, count_B.at[row].set(found, mode="drop")

    _, count_B = jax.lax.while_loop(
      lambda state, end=end: state[0] < end, chunk, (start, count_B)
    )
  return count_B
