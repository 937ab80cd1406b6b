# SPDX-License-Identifier: Apache-2.0
"""What is sampled and trained on, in tokens and texts; never loads JAX.

Branch b = (n * K + k) * G + g is sample g of step k of trajectory n. Tokens
are words of letters, so that rewards have texts to compare. ours.py decides how
branches are laid out in batches.
"""

from __future__ import annotations

import dataclasses
import string
from typing import NamedTuple

import numpy as np

# The first two ids are for padding and, where a system insists on one, for a
# stop token; texts hold neither.
PAD_ID, STOP_ID, FIRST_WORD = 0, 1, 2
# Deviation of the logarithm of a completion's length.
_SPREAD = 0.6


@dataclasses.dataclass(frozen=True)
class Workload:
  """What is sampled and trained on; lengths are in tokens.

  A completion that ends before its limit ends with STOP_ID.

  Attributes:
    trajectories: number of trajectories (N).
    steps: steps of each trajectory, each of them a branch point (K).
    samples: samples per branch point (G).
    problem_tokens: length of the first prompt, without its stem.
    step_tokens: tokens that each further prompt is longer.
    stem_tokens: given tokens at the head of each branch.
    new_tokens: limit of a completion; the length of all, if fill is 1.
    fill: mean length of a completion, as a share of its limit. Below 1, lengths
      are log-normal and cut at the limit.
    kept: share of the groups that are trained on.
    seed: random seed of weights, tokens and samples.
  """

  trajectories: int = 2
  steps: int = 8
  samples: int = 8
  problem_tokens: int = 64
  step_tokens: int = 48
  stem_tokens: int = 2
  new_tokens: int = 48
  fill: float = 1.0
  kept: float = 1.0
  seed: int = 0

  @property
  def prompt_tokens(self) -> np.ndarray:
    """Returns the prompt length of each step, without its stem."""
    return self.problem_tokens + self.step_tokens * np.arange(self.steps)

  @property
  def branches(self) -> int:
    return self.trajectories * self.steps * self.samples

  @property
  def lengths(self) -> np.ndarray:
    """Returns the length of each completion [N, K, G]."""
    shape = (self.trajectories, self.steps, self.samples)
    if self.fill == 1:
      return np.full(shape, self.new_tokens)
    # The limit takes a few hundredths off the mean.
    middle = np.log(1.04 * self.fill * self.new_tokens) - _SPREAD**2 / 2
    drawn = np.random.default_rng(self.seed).lognormal(middle, _SPREAD, shape)
    return np.clip(drawn.round(), 1, self.new_tokens).astype(int)

  @property
  def is_kept(self) -> np.ndarray:
    """Returns which groups are trained on [N, K]."""
    groups = self.trajectories * self.steps
    order = np.random.default_rng(self.seed).permutation(groups)
    is_kept = order < round(self.kept * groups)
    return is_kept.reshape(self.trajectories, self.steps)

  @property
  def sampled_tokens(self) -> int:
    """Number of tokens that are sampled."""
    return int(self.lengths.sum())

  @property
  def trained_tokens(self) -> int:
    """Number of tokens that are trained on."""
    return int(self.lengths[self.is_kept].sum())

  def predicted(self) -> tuple[int, int]:
    """Counts by hand the trunk and branch tokens of a pass."""
    n, k, g = self.trajectories, self.steps, self.samples
    # The last token of a branch predicts nothing and is never run.
    branch = n * k * g * (self.stem_tokens - 1) + self.sampled_tokens
    return n * (self.problem_tokens + (k - 1) * self.step_tokens), branch


class Given(NamedTuple):
  """The given tokens: trunks of full length, stems, and experts' steps."""

  tokens_NS: np.ndarray
  stem_KC: np.ndarray
  target_NK: list[list[str]]

  def prompt(self, work: Workload, n: int, k: int) -> np.ndarray:
    """Returns the whole prompt of a step, stem included."""
    head = self.tokens_NS[n, : work.prompt_tokens[k]]
    return np.concatenate([head, self.stem_KC[k]])


def given(work: Workload, vocab_size: int) -> Given:
  """Draws the given tokens; an expert's step is as long as a completion."""
  rng = np.random.default_rng(work.seed)
  n, k = work.trajectories, work.steps
  longest = int(work.prompt_tokens[-1])
  draw = lambda *shape: rng.integers(FIRST_WORD, vocab_size, shape)  # noqa: E731
  tokens_NS, stem_KC = draw(n, longest), draw(k, work.stem_tokens)
  target_NKC = draw(n, k, work.new_tokens)
  every = words(vocab_size)
  return Given(
    np.asarray(tokens_NS, np.int32),
    np.asarray(stem_KC, np.int32),
    [[" ".join(every[i] for i in t) for t in row] for row in target_NKC],
  )


def words(vocab_size: int) -> list[str]:
  """Returns a word per token id, all different and of the same length."""
  letters, width = string.ascii_lowercase, 2
  while len(letters) ** width < vocab_size:
    width += 1

  def word(i):
    digits = []
    for _ in range(width):
      i, digit = divmod(i, len(letters))
      digits.append(letters[digit])
    return "".join(digits)

  return [word(i) for i in range(vocab_size)]
