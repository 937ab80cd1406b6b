# SPDX-License-Identifier: Apache-2.0
"""What episodes earn, and what is known of a round of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from srl_jax.rollout.episodes import Episode
from srl_jax.trajectory import Trajectory


class EpisodeRound(NamedTuple):
  """Episodes of a round of sampling, by problem, and what sampling took."""

  problems: list[Trajectory]
  episodes: list[list[Episode]]
  rollout_s: float


def as_rewarded(episode: Episode) -> Episode:
  """The episode, not solved by an answer that the token limit cut off.

  Evaluation counts such answers, as others do. Training must not: a model that
  is rewarded for them never learns to stop. What an environment has executed
  counts as it is.
  """
  if episode.is_correct and not episode.observations:
    is_solved = episode.drawn[-1].is_stopped
    return dataclasses.replace(episode, is_correct=is_solved)
  return episode


def is_judged(episode: Episode) -> bool:
  """Whether the episode has a verdict; its environment may not have told."""
  return episode.is_correct is not None


def rewards_of(episodes: Sequence[Episode]) -> list[float]:
  """Returns the rewards of the episodes that have a verdict."""
  return [float(x.is_correct) for x in episodes if is_judged(x)]


def is_differing(episodes: Sequence[Episode]) -> bool:
  """Whether some episodes of a problem solve it and others do not."""
  return len(set(rewards_of(episodes))) > 1


def _mean_reward(episodes: Sequence[Episode]) -> float:
  if rewards := rewards_of(episodes):
    return float(np.mean(rewards))
  raise RuntimeError(
    f"none of {len(episodes)} episodes has a verdict: their environments could "
    "not tell; see the log for why, then start the run again"
  )


def sampling_metrics(
  rounds: Sequence[EpisodeRound], kept: int
) -> dict[str, float]:
  """Returns what is known of an update step before its update.

  Raises:
    RuntimeError: no episode has a verdict.
  """
  problems = [x for round_ in rounds for x in round_.episodes]
  episodes = [episode for of_problem in problems for episode in of_problem]
  turns = sum(len(episode.texts) for episode in episodes)
  cut = sum(not turn.is_stopped for x in episodes for turn in x.drawn)
  tokens = sum(episode.tokens for episode in episodes)
  return {
    "reward": _mean_reward(episodes),
    "no_verdict": float(np.mean([not is_judged(x) for x in episodes])),
    "completion_tokens": tokens / max(1, turns),
    "turns": turns / len(episodes),
    "cut_turns": cut / max(1, turns),
    "groups_sampled": float(len(problems)),
    "groups_kept": float(kept),
    "kept_share": kept / len(problems),
    "differing_share": float(np.mean([is_differing(x) for x in problems])),
    "rounds": float(len(rounds)),
    "tokens_sampled": float(tokens),
    "rollout_s": sum(round_.rollout_s for round_ in rounds),
  }
