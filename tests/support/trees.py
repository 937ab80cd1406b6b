# SPDX-License-Identifier: Apache-2.0
"""Random rows of trunks and lanes, and random trees, with who sees whom."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from srl_jax.ops.trees import Labels


class PackedRows(NamedTuple):
  """Rows of trunks and lanes, T = U * S + B * W.

  Attributes:
    arrays: positions of the trunks, positions of the branches, first cells,
      trunks of the lanes; the arguments of `trees.label_lanes`.
    seen_NTT: True where a query (the second axis) sees a key.
  """

  arrays: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
  seen_NTT: np.ndarray


def packed_row(
  seed: int,
  *,
  trunks: int,
  trunk: int,
  lanes: int,
  cells: int,
  length: int = 4,
  rows: int = 2,
) -> PackedRows:
  """Returns rows with branches of 1 to `length` tokens and padding.

  Args:
    seed: seed of the random numbers.
    trunks: trunks U of a row.
    trunk: positions S of a trunk, more than half of them tokens.
    lanes: lanes B of a row.
    cells: cells W of a lane, filled from the left with some left over.
    length: tokens of the longest branch.
    rows: number N of rows.
  """
  rng = np.random.default_rng(seed)
  length_NU = rng.integers(trunk // 2 + 1, trunk + 1, (rows, trunks))
  place_S = np.arange(trunk)
  trunk_NUS = np.where(place_S < length_NU[..., None], place_S, -1)
  position_NBW = np.full((rows, lanes, cells), -1)
  first_NBW = np.zeros((rows, lanes, cells), int)
  trunk_of_NB = rng.integers(0, trunks, (rows, lanes))
  width = trunks * trunk + lanes * cells
  seen_NTT = np.zeros((rows, width, width), bool)
  for n, u in np.ndindex(rows, trunks):
    of_trunk = np.arange(u * trunk, u * trunk + length_NU[n, u])
    seen_NTT[n, of_trunk[:, None], of_trunk] = of_trunk[:, None] >= of_trunk
  for n, b in np.ndindex(rows, lanes):
    u, cell = trunk_of_NB[n, b], 0
    while cell < cells - rng.integers(0, 3):
      tokens = min(rng.integers(1, length + 1), cells - cell)
      start = rng.integers(1, length_NU[n, u] + 1)
      own = slice(cell, cell + tokens)
      position_NBW[n, b, own] = start + np.arange(tokens)
      first_NBW[n, b, own] = cell
      at = trunks * trunk + b * cells + cell + np.arange(tokens)
      seen_NTT[n, at, u * trunk : u * trunk + start] = True
      seen_NTT[n, at[:, None], at] = at[:, None] >= at
      cell += tokens
  arrays = (trunk_NUS, position_NBW, first_NBW, trunk_of_NB)
  return PackedRows(arrays, seen_NTT)


def random_tree(
  seed: int, *, tokens: int, width: int
) -> tuple[Labels, np.ndarray, np.ndarray]:
  """Returns a row with a tree whose tokens lie anywhere, padding between them.

  Args:
    seed: seed of the random numbers.
    tokens: tokens of the tree.
    width: width T of the row.

  Returns:
    Labels [1, T], whether a query descends from a key or is it [1, T, T], and
    the number of ancestors [1, T].
  """
  rng = np.random.default_rng(seed)
  parents = np.arange(tokens) - 1
  for child in rng.choice(np.arange(5, tokens), tokens // 8, replace=False):
    parents[child] = rng.integers(0, child - 1)
  place = np.sort(rng.choice(width, tokens, replace=False))
  enter, leave, depth = (np.full(width, -1) for _ in range(3))
  seen = np.zeros((width, width), bool)
  clock = 0

  def walk(token, above):
    nonlocal clock
    at = place[token]
    enter[at], depth[at] = clock, len(above)
    seen[at, [*above, at]] = True
    clock += 1
    for child in np.nonzero(parents == token)[0]:
      walk(child, [*above, at])
    leave[at] = clock

  walk(0, [])
  return (
    Labels(enter[None], leave[None], depth[None]),
    seen[None],
    depth[None],
  )
