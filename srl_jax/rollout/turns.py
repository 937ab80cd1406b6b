# SPDX-License-Identifier: Apache-2.0
"""One turn of many episodes: a completion for every prompt.

Prompts of equal tokens share a trunk, and each has a branch point of its own at
the end of it. episodes.py makes the prompts and uses the completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from srl_jax.data import batching
from srl_jax.data.trunks import BranchPoint, Trunk
from srl_jax.rollout import batches, scoring
from srl_jax.rollout.sampler import Sampler
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Trajectory

# Trunks of a turn are padded to a multiple of this, so that all turns need
# only a few programs.
_BUCKET = 64


class Prompt(NamedTuple):
  """What is shown to the model.

  Attributes:
    trajectory: the trajectory whose problem is posed.
    tokens: the context, int32.
    point_id: uint32; the random numbers of the completion follow from it.
  """

  trajectory: Trajectory
  tokens: np.ndarray
  point_id: int


class _Layout(NamedTuple):
  """Indices of prompts, grouped into trunks of `points` branch points."""

  points: int
  groups: list[list[int]]
  trunks_per_batch: int
  padded_positions: int


def sample_turn(
  sampler: Sampler,
  params: Any,
  prompts: Sequence[Prompt],
  key: jax.Array,
  *,
  stem: Sequence[int],
  step: int,
  most_equal: int,
  rows_per_batch: int,
  tokenizer: Tokenizer,
) -> tuple[list[str], int]:
  """Samples a completion for each prompt; every process gets all of them.

  Trunks have either one branch point each or `most_equal` (but never more than
  `rows_per_batch`): whichever computes fewer positions, padding included. So
  there are at most two programs for each width of a trunk.

  Args:
    sampler: a sampler of one sample per branch point.
    params: the model's parameters.
    prompts: one or more prompts.
    key: random key.
    stem: given tokens at the head of each completion.
    step: 0-based index of the step to write.
    most_equal: usual upper limit of the number of equal prompts.
    rows_per_batch: prompts decoded together.
    tokenizer: the tokenizer.

  Returns:
    The texts, and the number of trunk tokens that were run for them.
  """
  trunk_width = batches.rounded_up(max(len(p.tokens) for p in prompts), _BUCKET)
  branch_width = len(stem) + sampler.config.max_new_tokens

  def layout(points: int) -> _Layout:
    groups = _equal_prompts(prompts, points)
    trunks = batches.fitting_rows(sampler, max(1, rows_per_batch // points))
    padded_trunks = batches.rounded_up(len(groups), trunks)
    positions = padded_trunks * (trunk_width + points * branch_width)
    return _Layout(points, groups, trunks, positions)

  most_equal = min(most_equal, rows_per_batch)
  chosen = min(
    map(layout, sorted({1, most_equal})), key=lambda x: x.padded_positions
  )
  trunks = [
    _trunk([prompts[i] for i in group], stem, step) for group in chosen.groups
  ]
  widths = batching.widths(trunks)
  widths = widths._replace(trunk=trunk_width, points=chosen.points)
  texts = [""] * len(prompts)
  for first, batch, branches in batches.sample_batches(
    sampler, params, trunks, key, widths, chosen.trunks_per_batch
  ):
    groups = chosen.groups[first : first + len(batch.sources)]
    completions = scoring.completion_texts(branches, tokenizer)
    for group, of_trunk in zip(groups, completions, strict=True):
      for i, completion in zip(group, of_trunk, strict=False):
        texts[i] = completion.text
  return texts, sum(len(trunk.tokens) for trunk in trunks)


def _equal_prompts(prompts: Sequence[Prompt], most: int) -> list[list[int]]:
  """Groups the indices of prompts of equal tokens, at most `most` together."""
  groups: list[list[int]] = []
  open_groups: dict[bytes, list[int]] = {}
  for i, prompt in enumerate(prompts):
    name = prompt.tokens.tobytes()
    group = open_groups.get(name)
    if group is None or len(group) == most:
      open_groups[name] = group = []
      groups.append(group)
    group.append(i)
  return groups


def _trunk(prompts: Sequence[Prompt], stem: Sequence[int], step: int) -> Trunk:
  """One trunk for prompts of equal tokens."""
  stem_C = np.asarray(stem, np.int32)
  points = tuple(
    BranchPoint(
      step=step,
      at=len(prompt.tokens),
      stem=stem_C,
      target="",
      target_tokens=np.zeros(0, np.int32),
      point_id=prompt.point_id,
    )
    for prompt in prompts
  )
  return Trunk(prompts[0].trajectory, prompts[0].tokens, points)
