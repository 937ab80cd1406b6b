# SPDX-License-Identifier: Apache-2.0
"""Episodes as branches: one for each turn, with the episode's advantage.

A turn hangs off the context in which it was taken. Contexts of a problem that
are prefixes of one another share a trunk: those of an episode whose context
holds all turns so far, and the first ones of all samples. Host side, numpy.

Axes: P turns, each as a group of one branch; G episodes of a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srl_jax.ops import advantages
from srl_jax.types import Trunks, make_branches
from srl_jax.update.batch import Experience
from srl_jax.update.groups import Groups


class Turn(NamedTuple):
  """What was drawn at one turn of an episode.

  Attributes:
    context: tokens that the turn sees, without its stem.
    stem: given tokens at its head, one or more.
    tokens: tokens that were drawn, stop token included.
    logps: their log-probs, in nats.
  """

  context: Sequence[int]
  stem: Sequence[int]
  tokens: Sequence[int]
  logps: Sequence[float]


class RewardedEpisode(NamedTuple):
  """An episode that is trained on: its turns and the reward of all of them."""

  turns: tuple[Turn, ...]
  reward: float


class Turns(NamedTuple):
  """Turns as groups of one branch, with the advantages of their episodes.

  `packing.pack` cannot compute advantages from groups of one branch.
  """

  groups: Groups
  advantage_PG: np.ndarray


def make_turns(
  problems: Sequence[Sequence[RewardedEpisode]],
  *,
  trunk_width: int,
  branch_width: int,
  update_step: int,
  divide_by_std: bool = True,
) -> Turns:
  """Lists the turns of kept problems, problem by problem.

  Args:
    problems: for each problem its G episodes.
    trunk_width: S, at least the tokens of the longest context.
    branch_width: C, at least those of the longest stem and what was drawn.
    update_step: the update step in which all of it was sampled.
    divide_by_std: see `advantages.group_advantages`.
  """
  turns: list[Turn] = []
  trunks: list[Sequence[int]] = []
  trunk_of_P: list[int] = []
  advantage_P: list[float] = []
  reward_P: list[float] = []
  step_P: list[int] = []
  for episodes in problems:
    reward_G = np.array([x.reward for x in episodes], np.float32)
    advantage_G = advantages.group_advantages(
      reward_G[None], divide_by_std=divide_by_std
    )[0]
    longest, trunk_of = share_trunks(
      [turn.context for episode in episodes for turn in episode.turns]
    )
    trunk_of_P += [len(trunks) + trunk for trunk in trunk_of]
    trunks += longest
    for episode, advantage in zip(episodes, advantage_G, strict=True):
      turns += episode.turns
      step_P += range(len(episode.turns))
      reward_P += [episode.reward] * len(episode.turns)
      advantage_P += [float(advantage)] * len(episode.turns)
  trunk_tokens, trunk_length = _padded(trunks, trunk_width, np.int32)
  at_P = np.array(trunk_of_P, np.int64)
  groups = Groups(
    Experience(
      trunks=_trunks(turns, trunk_tokens[at_P], trunk_length[at_P]),
      branches=_branches(turns, branch_width),
      reward_NKG=np.array(reward_P, np.float32).reshape(-1, 1, 1),
    ),
    trunk_id_P=at_P,
    step_P=np.array(step_P, np.int32),
    born_P=np.full(len(turns), update_step, np.int64),
  )
  return Turns(groups, np.array(advantage_P, np.float32).reshape(-1, 1))


def share_trunks(
  contexts: Sequence[Sequence[int]],
) -> tuple[list[Sequence[int]], list[int]]:
  """Returns the contexts that begin no other one, and whose trunk is which.

  Args:
    contexts: tokens of each context.

  Returns:
    The trunks, longest first, and for each context the index of the first
    trunk that begins with it.
  """
  # Bytes are compared at once: an episode has many long contexts.
  keys = [np.asarray(context, np.int32).tobytes() for context in contexts]
  kept: list[int] = []
  trunk_of = [0] * len(keys)
  for i in sorted(range(len(keys)), key=lambda i: -len(keys[i])):
    begin = (k for k, j in enumerate(kept) if keys[j].startswith(keys[i]))
    trunk_of[i] = next(begin, len(kept))
    if trunk_of[i] == len(kept):
      kept.append(i)
  return [contexts[i] for i in kept], trunk_of


def _padded(
  rows: Sequence[Sequence[float]], width: int, dtype: type
) -> tuple[np.ndarray, np.ndarray]:
  """Rows padded with zeros at the right, and their lengths."""
  padded = np.zeros((len(rows), width), dtype)
  for row, values in zip(padded, rows, strict=True):
    row[: len(values)] = values
  return padded, np.array([len(x) for x in rows], np.int32)


def _trunks(turns, tokens_NS, length_N) -> Trunks:
  widest = max((len(turn.stem) for turn in turns), default=1)
  stem_NC, stem_length_N = _padded([t.stem for t in turns], widest, np.int32)
  seen_N = np.array([len(turn.context) for turn in turns], np.int32)
  return Trunks(
    tokens_NS=tokens_NS,
    length_N=length_N,
    branch_at_NK=seen_N[:, None],
    stem_NKC=stem_NC[:, None],
    stem_length_NK=stem_length_N[:, None],
    point_id_NK=np.zeros((len(turns), 1), np.uint32),
    is_real_NK=np.ones((len(turns), 1), bool),
  )


def _branches(turns, width):
  tokens_NC, length_N = _padded(
    [[*turn.stem, *turn.tokens] for turn in turns], width, np.int32
  )
  logps_NC, _ = _padded(
    [[*[0.0] * len(turn.stem), *turn.logps] for turn in turns],
    width,
    np.float32,
  )
  stem_N = np.array([len(turn.stem) for turn in turns], np.int32)
  return make_branches(
    tokens_NRC=tokens_NC[:, None],
    stem_length_NR=stem_N[:, None],
    length_NR=length_N[:, None],
    sampler_logp_NRC=logps_NC[:, None],
    # Unused here: only rewards read stopped_NR.
    stopped_NR=np.ones((len(turns), 1), bool),
  )
