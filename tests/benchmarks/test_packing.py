# SPDX-License-Identifier: Apache-2.0
"""The layouts that benchmarks/packing.py compares hold the same tokens."""

import collections

import numpy as np

from benchmarks import packing
from srl_jax.update.packing import PackShape


def tokens_of(batches):
  """Counts (token, target, position, completion tokens) of all slots."""
  found = collections.Counter()
  for batch in batches:
    is_token = batch.position_NBW >= 0
    arrays = (
      batch.tokens_NBW,
      batch.targets_NBW,
      batch.position_NBW,
      batch.completion_tokens_NBW,
    )
    found.update(zip(*(x[is_token].tolist() for x in arrays), strict=True))
  return found


def test_the_layouts_hold_the_same_tokens_in_ever_fewer_positions():
  groups = packing.like_the_paper(12, 32)
  choices = packing.layouts(2, 2, PackShape(1, 2, 7))
  batches = [layout(groups) for layout in choices.values()]
  first, *others = map(tokens_of, batches)
  assert sum(first.values()) > 500
  assert all(other == first for other in others)
  positions = [packing.count(parts)["positions"] for parts in batches]
  assert positions == sorted(positions, reverse=True)


def test_the_lengths_are_like_the_papers():
  groups = packing.like_the_paper(128, 1024)
  completion = groups.batch.branches.is_completion_NRC.sum(-1)
  assert groups.count == 128 and completion.max() == 1024
  # The mean of 1,024 lengths with a deviation of 250 is good to 8 tokens.
  np.testing.assert_allclose(completion.mean(), 0.41 * 1024, atol=30)
