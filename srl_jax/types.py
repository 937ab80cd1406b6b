# SPDX-License-Identifier: Apache-2.0
"""Axis legend, and the named tuples of arrays that host and device share.

This file imports numpy only, so that worker processes can import it without
starting JAX. Array names end in their axes, and einsum strings, docstrings
and comments use the same letters:

  N  trunks; rows (see below)     D  model width
  S  trunk positions              Q  query heads = H * M
  K  branch points per trunk      H  key/value heads
  G  samples per branch point     M  query heads per key/value head
  R  branches per trunk = K * G   E  head width
  C  branch positions             F  mlp width
  V  vocabulary                   L  layers
  T  query positions of one forward pass; iterations of the decoding loop
  B  decoder slots of a trunk or a row; in the update, lanes of a row

Where a row may hold several trunks, N counts rows: in the update, and in the
decoder rows of rollout/. In the update there are besides

  U  trunks of a row              W  cells of a lane
  P  groups of a batch

A module that has further axes lists them in its docstring.

A *trunk* is a problem followed by the expert's steps, tokenised once. A
*branch* hangs off the trunk at one position: it sees the trunk tokens before
`branch_at` and its own earlier tokens. Its first tokens, the *stem*, are given
(end of the user turn, assistant header, optional step title). The policy
samples the other tokens, or the expert wrote them (SFT).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# A numpy array (host) or a JAX array (device). JAX is not imported here.
Array = Any


class Trunks(NamedTuple):
  """Trunks with their branch points, right padded. All integers are int32.

  Attributes:
    tokens_NS: token ids; positions >= length_N are padding.
    length_N: number of real tokens of each trunk.
    branch_at_NK: number of trunk tokens that a branch sees, which is also the
      position of its first token.
    stem_NKC: the given tokens at the head of each branch (here C is the stem
      width).
    stem_length_NK: number of real stem tokens, at least one.
    point_id_NK: uint32 name of the branch point; the random numbers of its
      samples derive from it.
    is_real_NK: False for branch points that only pad the row.
  """

  tokens_NS: Array
  length_N: Array
  branch_at_NK: Array
  stem_NKC: Array
  stem_length_NK: Array
  point_id_NK: Array
  is_real_NK: Array


class Branches(NamedTuple):
  """Sampled (or expert) branches of a batch of trunks, right padded.

  Attributes:
    tokens_NRC: stem and completion.
    length_NR: number of real tokens, stem included; 0 for an empty branch.
    is_completion_NRC: True on completion tokens (stop token included); these
      are sampled, scored and trained.
    sampler_logp_NRC: float32, nats; log-prob of each completion token under
      the distribution it was drawn from; 0 elsewhere.
    stopped_NR: True where the completion ended with a stop token.
  """

  tokens_NRC: Array
  length_NR: Array
  is_completion_NRC: Array
  sampler_logp_NRC: Array
  stopped_NR: Array


def completion_mask(
  stem_length_NR: Array, length_NR: Array, width: int
) -> Array:
  """Returns [..., C], True on completion tokens: all tokens after the stem."""
  position_C = np.arange(width)
  return (position_C >= stem_length_NR[..., None]) & (
    position_C < length_NR[..., None]
  )


def make_branches(
  *,
  tokens_NRC: Array,
  stem_length_NR: Array,
  length_NR: Array,
  sampler_logp_NRC: Array,
  stopped_NR: Array,
) -> Branches:
  """Makes Branches from numpy or JAX arrays with any leading axes."""
  return Branches(
    tokens_NRC=tokens_NRC,
    length_NR=length_NR,
    is_completion_NRC=completion_mask(
      stem_length_NR, length_NR, tokens_NRC.shape[-1]
    ),
    sampler_logp_NRC=sampler_logp_NRC,
    stopped_NR=stopped_NR,
  )


class SlotUse(NamedTuple):
  """How full the slots of a decoding loop were, per trunk.

  Attributes:
    busy_N: number of slot iterations that ran a token of a branch.
    slot_iterations_N: number of all slots times iterations of the loop.
  """

  busy_N: Array
  slot_iterations_N: Array


class Scores(NamedTuple):
  """Rewards of all completions and what they follow from.

  Floats are nan at padding points.

  Attributes:
    reward_NKG: float32 rewards.
    value_NKG: value of the reward function; nan where the format is broken.
    thought_chars_NKG: length of the thought in characters.
    action_chars_NKG: length of the action in characters.
    failure_NKG: how the format is broken, as the index in
      `rewards.FAILURES`; 0 where the format is right.
  """

  reward_NKG: Array
  value_NKG: Array
  thought_chars_NKG: Array
  action_chars_NKG: Array
  failure_NKG: Array


class Ratio(NamedTuple):
  """A metric that is a ratio of sums; both sums add over micro-batches."""

  numerator: Array
  denominator: Array
