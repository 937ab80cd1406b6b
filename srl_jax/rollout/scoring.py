# SPDX-License-Identifier: Apache-2.0
"""Scores sampled branches on the host.

`score_branches` decodes the completions, passes them with the expert's targets
to a Scorer (which may spread them over worker processes), and returns the
results as arrays. `srl_jax.rewards` defines the rewards. The config or the
domain of the data chooses one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from srl_jax.data.batching import TrunkBatch
from srl_jax.data.templates import Task
from srl_jax.data.trunks import Trunk
from srl_jax.domains import Domain
from srl_jax.rewards import (
  FAILURES,
  Completion,
  RewardConfig,
  RewardContext,
  Scorer,
)
from srl_jax.rewards.format import think_block
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Trajectory
from srl_jax.types import Branches, Scores


def resolve_reward(
  reward: RewardConfig,
  task: Task,
  domains: Mapping[str, Domain],
  stage: str,
) -> RewardConfig:
  """Says what function a stage's reward is, and what it wants of the format.

  Args:
    reward: a stage's reward config.
    task: for the function "domain", "step" takes the domain's reward and
      "solve" its verdict.
    domains: the domains of the data, by name.
    stage: the stage's section in the config, for the error message.

  Raises:
    ValueError: the domains name different rewards.
  """
  function = reward.function
  if function == "domain":
    function = _of_domains(task, domains, stage)
  return dataclasses.replace(reward.for_task(task), function=function)


def _of_domains(task: Task, domains: Mapping[str, Domain], stage: str) -> str:
  """The one reward function of all domains."""
  named: dict[str, list[str]] = {}
  for name, domain in domains.items():
    function = domain.reward if task == "step" else domain.verdict
    named.setdefault(function, []).append(name)
  if len(named) > 1:
    shown = ", ".join(f"{f!r} of {' and '.join(d)}" for f, d in named.items())
    raise ValueError(
      f"the domains of the data have different rewards: {shown}; set "
      f"c.{stage}.reward.function to the one that is meant"
    )
  [function] = named
  return function


def completion_texts(
  branches: Branches, tokenizer: Tokenizer
) -> list[list[Completion]]:
  """Decodes the completions of host branches; returns one list per trunk.

  The stop token that ended a completion is not part of its text.
  """
  n, r = branches.stopped_NR.shape
  return [
    [_completion(branches, (i, j), tokenizer) for j in range(r)]
    for i in range(n)
  ]


def _completion(
  branches: Branches, index: tuple[int, int], tokenizer: Tokenizer
) -> Completion:
  tokens = branches.tokens_NRC[index][branches.is_completion_NRC[index]]
  is_stopped = bool(branches.stopped_NR[index])
  text = tokenizer.decode(tokens[: len(tokens) - is_stopped].tolist())
  return Completion(text, is_stopped, len(tokens))


def score_branches(
  batch: TrunkBatch,
  branches: Branches,
  tokenizer: Tokenizer,
  scorer: Scorer,
  only_NKG: np.ndarray | None = None,
) -> Scores:
  """Scores every branch of the real branch points.

  Args:
    batch: N trunks with the expert's targets.
    branches: host arrays [N, R, ...], R = K * G.
    tokenizer: the tokenizer that decodes the completions.
    scorer: the scorer of the texts.
    only_NKG: True for the branches to score; None for all. The others get the
      values of padding points: NaN, and failure 0.
  """
  rows, points = batch.trunks.is_real_NK.shape
  samples = branches.length_NR.shape[1] // points
  limit = branches.tokens_NRC.shape[2] - batch.trunks.stem_NKC.shape[2]
  places, completions, targets, contexts = [], [], [], []
  for n, trunk in enumerate(batch.sources):
    for k, point in enumerate(trunk.points):
      # All samples share one context, so that it goes to a worker once.
      context = None
      if scorer.wants_context:
        context = reward_context(trunk.trajectory, point.step)
        context = context._replace(max_new_tokens=limit)
      for g in range(samples):
        if only_NKG is not None and not only_NKG[n, k, g]:
          continue
        places.append((n, k, g))
        branch = n, k * samples + g
        completions.append(_completion(branches, branch, tokenizer))
        targets.append(point.target)
        contexts.append(context)
  scored = scorer.score(completions, targets, contexts)
  scores = Scores(
    *(np.full((rows, points, samples), np.nan, np.float32) for _ in range(4)),
    np.zeros((rows, points, samples), np.int32),
  )
  for place, one in zip(places, scored, strict=True):
    scores.reward_NKG[place] = one.reward
    scores.value_NKG[place] = one.value
    scores.thought_chars_NKG[place] = one.thought_chars
    scores.action_chars_NKG[place] = one.action_chars
    scores.failure_NKG[place] = FAILURES.index(one.failure)
  return scores


def score_expert(
  trunk: Trunk,
  task: Task,
  tokenizer: Tokenizer,
  scorer: Scorer,
  max_new_tokens: int,
) -> float:
  """Returns the reward of the expert's own text at a trunk's first point.

  With the task "solve" that is all steps from there on, of which the target is
  only the answer.

  Raises:
    RewardError: the reward function failed.
  """
  point = trunk.points[0]
  text = point.target
  if task == "solve":
    steps = trunk.trajectory.steps[point.step :]
    text = "\n".join(step.text for step in steps)
  text = think_block("As the expert does.") + text
  completion = Completion(text, True, len(tokenizer.encode(text)) + 1)
  context = reward_context(trunk.trajectory, point.step)
  context = context._replace(max_new_tokens=max_new_tokens)
  [scored] = scorer.score([completion], [point.target], [context])
  return scored.reward


def reward_context(trajectory: Trajectory, step: int) -> RewardContext:
  """Returns the reward context of a step, without a completion."""
  return RewardContext(
    thought="",
    problem=trajectory.problem,
    steps=trajectory.steps[:step],
    step=step,
    trajectory_id=trajectory.id,
    domain=trajectory.domain,
    answer=trajectory.answer,
    metadata=trajectory.metadata,
  )
