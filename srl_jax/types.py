# SPDX-License-Identifier: Apache-2.0
"""Axis legend and the array records that host code and device code share.

This file imports numpy only, so that worker processes can import it without
starting JAX. Array names end in their axes, and einsum strings, docstrings
and comments use the same letters:

  N  trunks                       D  model width
  S  trunk positions              Q  query heads = H * M
  K  branch points per trunk      H  key/value heads
  G  samples per branch point     M  query heads per key/value head
  R  branches per trunk = K * G   E  head width
  C  branch positions             F  mlp width
  V  vocabulary                   L  layers
  T  query positions of whichever stream is being run; turns of decoding
  B  slots per trunk in which branches are decoded, at most R

A *trunk* is a problem followed by the expert's steps, laid out once. A
*branch* hangs off it at a position: it sees the trunk tokens before
`branch_at` and its own tokens so far. Its first tokens, the *stem*, are given
(end of the user turn, assistant header, optional step title); the rest is
sampled by the policy or, in SFT, written by the expert.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Either a numpy array (host) or a JAX array (device): this file cannot tell.
Array = Any


class Trunks(NamedTuple):
  """Trunks with their branch points, right padded. All integers are int32.

  Attributes:
    tokens_NS: token ids; anything at positions >= length_N is padding.
    length_N: number of real tokens of each trunk.
    branch_at_NK: how many trunk tokens a branch sees; its first token has
      this position.
    stem_NKC: the given tokens at the head of each branch (here C is the stem
      width).
    stem_length_NK: number of real stem tokens, at least one.
    point_id_NK: uint32 name of the step instance; the random numbers of its
      samples derive from it.
    is_real_NK: False for branch points that only fill up the row.
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
    is_completion_NRC: True on completion tokens (stop token included), which
      are the ones that are sampled, scored and trained.
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
  """True on the completion tokens of branches [..., C]: all after the stem."""
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
  """Makes branches; numpy and JAX arrays alike, of any leading axes."""
  return Branches(
    tokens_NRC=tokens_NRC,
    length_NR=length_NR,
    is_completion_NRC=completion_mask(
      stem_length_NR, length_NR, tokens_NRC.shape[-1]
    ),
    sampler_logp_NRC=sampler_logp_NRC,
    stopped_NR=stopped_NR,
  )


class Decoding(NamedTuple):
  """How full the slots of a decoding loop were, trunk by trunk.

  Attributes:
    busy_N: slot turns that ran a token of some branch.
    slot_turns_N: slot turns in all.
  """

  busy_N: Array
  slot_turns_N: Array


class Scores(NamedTuple):
  """What the completions of all branches are worth; nan at padding points.

  Attributes:
    reward_NKG: float32; the same axes as all others.
    value_NKG: value of the reward function; nan where the format is broken.
    thought_chars_NKG: length of the thought in characters.
    action_chars_NKG: length of the action in characters.
    failure_NKG: how the format is broken, as 1 + index in
      `rewards.FAILURES`; 0 where it is not.
  """

  reward_NKG: Array
  value_NKG: Array
  thought_chars_NKG: Array
  action_chars_NKG: Array
  failure_NKG: Array


class Ratio(NamedTuple):
  """A metric that is a ratio of sums: both parts add over micro-batches."""

  numerator: Array
  denominator: Array


def padding_row(trunks: Trunks) -> Trunks:
  """Returns one all-padding row [1, ...] of the same widths and dtypes."""
  row = Trunks(*(np.zeros_like(np.asarray(x[:1])) for x in trunks))
  return row._replace(stem_length_NK=np.ones_like(row.stem_length_NK))
