# SPDX-License-Identifier: Apache-2.0
"""A workload laid out shared and flat, and its cost counted by hand.

prefix_sharing.py decides what is run on the layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.floor import layer_weights
from benchmarks.workload import Workload, given
from srl_jax.models import ModelConfig
from srl_jax.types import Trunks


class Rows(NamedTuple):
  """One batch: the branch at each place, and the width of the trunks."""

  branch_NR: np.ndarray
  width: int


class Batches(NamedTuple):
  """The batches of a rollout and the micro-batches of an update."""

  sampling: list[Rows]
  updating: list[Rows]


def layouts(work: Workload) -> dict[str, Batches]:
  """Returns three layouts of the same branches."""
  shape = (work.trajectories, work.steps, work.samples)
  all_NKG = np.arange(work.branches).reshape(shape)
  longest = int(work.prompt_tokens[-1])
  shared = Rows(all_NKG.reshape(work.trajectories, -1), longest)
  of_step = [all_NKG[:, k].reshape(-1, 1) for k in range(work.steps)]
  flat = [
    Rows(b, int(w)) for b, w in zip(of_step, work.prompt_tokens, strict=True)
  ]
  return {
    "shared": Batches([shared], [shared]),
    "flat": Batches(flat, flat),
    "flat padded": Batches(
      [Rows(all_NKG.reshape(-1, 1), longest)],
      [Rows(branch_N1, longest) for branch_N1 in of_step],
    ),
  }


def make_trunks(work: Workload, vocab_size: int, rows: Rows) -> Trunks:
  """Returns trunks in which every branch is a branch point of one sample."""
  tokens_NS, stem_KC, _ = given(work, vocab_size)
  step_NR = rows.branch_NR // work.samples % work.steps
  branch_at_NR = work.prompt_tokens[step_NR]
  length_N = branch_at_NR.max(1)
  of_row_N = rows.branch_NR[:, 0] // (work.steps * work.samples)
  is_real_NS = np.arange(rows.width) < length_N[:, None]
  int32 = lambda x: np.asarray(x, np.int32)  # noqa: E731
  return Trunks(
    tokens_NS=int32(tokens_NS[of_row_N, : rows.width] * is_real_NS),
    length_N=int32(length_N),
    branch_at_NK=int32(branch_at_NR),
    stem_NKC=int32(stem_KC[step_NR]),
    stem_length_NK=np.full(step_NR.shape, work.stem_tokens, np.int32),
    # Every sample has its own name: a flat row holds one sample only, and must
    # draw what the shared row draws.
    point_id_NK=rows.branch_NR.astype(np.uint32),
    is_real_NK=np.ones(step_NR.shape, bool),
  )


def multiply_adds(
  model: ModelConfig, work: Workload, batches: Sequence[Rows]
) -> int:
  """Counts multiply-adds of a forward pass, padding and masks included.

  A backward pass takes twice as many.
  """
  per_token = layer_weights(model)
  per_pair = 2 * model.n_heads * model.head_width
  branch = work.stem_tokens + work.new_tokens - 1
  total = 0
  for rows in batches:
    trunks, branches = rows.branch_NR.shape[0], rows.branch_NR.size
    tokens = trunks * rows.width + branches * branch
    pairs = trunks * rows.width**2 + branches * branch * (rows.width + branch)
    total += model.n_layers * (per_token * tokens + per_pair * pairs)
    total += model.vocab_size * model.d_model * branches * branch
  return total
