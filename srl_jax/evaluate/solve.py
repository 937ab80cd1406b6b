# SPDX-License-Identifier: Apache-2.0
"""Evaluation: single steps against the expert's, and whole solutions.

Whole solutions are found in one of two ways. "turns" is what SRL trains: the
model sees the problem and its own earlier actions, thinks, writes the next
action, and its thought is dropped. "solve" lets it write everything in one
go, with its thoughts left in context. The two can differ a lot, so both can
be reported; the first is the default.

Every number comes with a bootstrap interval over problems.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from srl_jax.data.templates import Template, encode_segment
from srl_jax.evaluate.estimates import Estimate, bootstrap, pass_at_k
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.episodes import Episode, EpisodeStats, sample_episodes
from srl_jax.rollout.sampler import Sampler
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Trajectory

Mode = Literal["turns", "solve"]


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is measured before and after training.

  Attributes:
    modes: how whole solutions are found: "turns" (step by step, thoughts
      dropped), "solve" (in one go) or both.
    problems: how many problems of the test split; 0 for all.
    samples: solutions per problem for avg@n and pass@k; 0 for greedy only.
    temperature: temperature of those samples, and of the sampled single steps
      (greedy decoding is always reported too).
    max_turns: turns after which a solution without a final answer ends.
    max_turn_tokens: limit of each turn, and of a single step, in tokens.
    max_solve_tokens: limit of a solution in one go, in tokens.
    step_trunks: how many test trajectories the step metrics use; 0 for all.
    rows_per_batch: solutions or trunks decoded together.
  """

  modes: tuple[Mode, ...] = ("turns", "solve")
  problems: int = 0
  samples: int = 0
  temperature: float = 1.0
  max_turns: int = 16
  max_turn_tokens: int = 256
  max_solve_tokens: int = 1024
  step_trunks: int = 0
  rows_per_batch: int = 64


def solve_problems(
  make_sampler: Callable[[SamplingConfig, str], Sampler],
  params: Any,
  trajectories: Sequence[Trajectory],
  *,
  mode: Mode,
  samples: int,
  temperature: float,
  config: EvalConfig,
  context_turns: int,
  key: jax.Array,
  template: Template,
  tokenizer: Tokenizer,
  max_positions: int,
) -> tuple[list[Episode], EpisodeStats]:
  """Lets the model solve problems; all processes get all episodes.

  Args:
    make_sampler: (sampling config, task) to a compiled sampler.
    params: parameters.
    trajectories: problems with reference answers, or of a domain with an
      environment.
    mode: "turns" or "solve".
    samples: solutions per problem.
    temperature: 0 for greedy.
    config: limits.
    context_turns: how many of the last actions "turns" shows; 0 for all.
    key: random key.
    template: wording.
    tokenizer: tokens.
    max_positions: the model's context length in tokens.

  Returns:
    See sample_episodes.

  Raises:
    ValueError: the limits leave no room for any problem.
    RuntimeError: an environment or a verdict failed.
  """
  task = "step" if mode == "turns" else "solve"
  turns = config.max_turns if mode == "turns" else 1
  limit = config.max_turn_tokens if mode == "turns" else config.max_solve_tokens
  stem = encode_segment(tokenizer, template.stem(task, 1))
  if max_positions - limit - len(stem) < 1:
    name = "max_turn_tokens" if mode == "turns" else "max_solve_tokens"
    raise ValueError(
      f"solutions of up to {limit} tokens leave no room for a problem in a "
      f"context of {max_positions} tokens (c.model.max_positions); lower "
      f"c.evaluate.{name}, or leave {mode!r} out of c.evaluate.modes"
    )
  sampling = SamplingConfig(
    samples=1, max_new_tokens=limit, temperature=temperature
  )
  return sample_episodes(
    make_sampler(sampling, task),
    params,
    trajectories,
    task=task,
    samples=samples,
    turns=turns,
    context_turns=context_turns,
    rows_per_batch=config.rows_per_batch,
    max_positions=max_positions,
    key=key,
    template=template,
    tokenizer=tokenizer,
  )


def summarise(
  episodes: Sequence[Episode], problems: int, samples: int
) -> dict[str, Estimate]:
  """Accuracy over problems: avg@n, and unbiased pass@k for k = 2, 4, ... n.

  With one sample per problem the only entry is "accuracy".
  """
  correct = np.zeros(problems, np.int64)
  for episode in episodes:
    correct[episode.problem] += episode.is_correct
  if samples == 1:
    return {"accuracy": bootstrap(correct)}
  summary = {f"avg@{samples}": bootstrap(correct / samples)}
  k = 2
  while k <= samples:
    terms = [pass_at_k(int(c), samples, k) for c in correct]
    summary[f"pass@{k}"] = bootstrap(terms)
    k *= 2
  return summary
