# SPDX-License-Identifier: Apache-2.0
"""Evaluates whole solutions of problems.

The model finds a solution in one of two modes. "turns" is what SRL trains: at
each turn the model sees the problem and its own earlier actions, thinks and
writes the next action, and its thought is dropped. In the mode "solve" the
model writes everything in one go, with its thoughts left in context. The
results can differ a lot, so both are reported by default.

Every number comes with an interval over problems.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from srl_jax import progress, strict
from srl_jax.data.templates import Template, encode_segment
from srl_jax.evaluate.estimates import Estimate, share
from srl_jax.evaluate.protocols import Protocol, changed, find_protocol
from srl_jax.evaluate.summary import estimates, solve_rates
from srl_jax.rollout.episodes import Episode, EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request
from srl_jax.rollout.stream import Stream
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Trajectory

Mode = Literal["turns", "solve"]
# Slots of a row, unless there are too few prompts for as many rows.
_USUAL_SLOTS = 8


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """What is measured before and after training.

  Attributes:
    before: whether to measure before training, too; several runs that start
      from the same model need that once.
    modes: how the model finds whole solutions: "turns" (step by step, thoughts
      dropped), "solve" (in one go) or both.
    problems: number of problems of the test split to solve; 0 for all.
    samples: solutions per problem for avg@n and pass@k; 0 for greedy only.
    temperature: temperature of these samples and of the sampled single steps.
      Greedy decoding is always reported too.
    max_turns: number of turns after which a solution without a final answer
      ends; also that of an answer to a suite turn by turn.
    max_turn_tokens: maximal length of each turn, and of a single step, in
      tokens.
    max_solve_tokens: maximal length of a solution in one go, in tokens.
    step_trajectories: number of test trajectories for the step metrics; 0 for
      all.
    answers_per_batch: number of completions decoded together: solutions,
      answers to suites, and single steps.
    suites: suites of problems to answer before and after training, as names,
      NAME=PATH, or paths of files of your own; see docs/evaluation.md.
    suites_folder: folder with files named after suites, such as aime24.jsonl;
      what it lacks is fetched from the Hugging Face hub.
    protocol: name of the rules of prompts, decoding and grading of suites.
    suite_samples: sampled answers per problem of a suite; 0 for greedy only,
      -1 for as many as the protocol says.
    suite_tokens: maximal length of an answer to a suite, in tokens; 0 for what
      the protocol says.
    suites_every_update_steps: update steps between greedy evaluations on a part
      of each suite during training; 0 for none.
    suites_problems: number of problems of each suite in that part.
  """

  before: bool = True
  modes: tuple[Mode, ...] = ("turns", "solve")
  problems: int = 0
  samples: int = 0
  temperature: float = 1.0
  max_turns: int = 16
  max_turn_tokens: int = 256
  max_solve_tokens: int = 1024
  step_trajectories: int = 0
  answers_per_batch: int = 64
  suites: tuple[str, ...] = ()
  suites_folder: str = ""
  protocol: str = "paper"
  suite_samples: int = -1
  suite_tokens: int = 0
  suites_every_update_steps: int = 0
  suites_problems: int = 32

  def __post_init__(self):
    find_protocol(self.protocol)
    strict.check_numbers(
      self,
      problems="[0, )",
      samples="[0, )",
      temperature="(0, )",
      max_turns="[1, )",
      max_turn_tokens="[1, )",
      max_solve_tokens="[1, )",
      step_trajectories="[0, )",
      answers_per_batch="[1, )",
      suite_samples="[-1, )",
      suite_tokens="[0, )",
      suites_every_update_steps="[0, )",
      suites_problems="[1, )",
    )

  def suite_protocol(self) -> Protocol:
    """The protocol of suites, with the changes that are asked for."""
    protocol = find_protocol(self.protocol)
    sampling = {} if self.suite_samples < 0 else {"samples": self.suite_samples}
    limits = {"max_new_tokens": self.suite_tokens} if self.suite_tokens else {}
    if protocol.mode == "turns":
      limits["max_turns"] = self.max_turns
    return changed(protocol, sampling, **limits)


def rows_and_slots(
  together: int, prompts: int, samples: int
) -> tuple[int, int]:
  """How many prompts, and samples of each, are decoded at a time.

  All samples of a prompt share its row; those beyond its slots wait.

  Args:
    together: completions decoded together, at most.
    prompts: number of prompts.
    samples: samples of each.
  """
  slots = min(samples, together, max(_USUAL_SLOTS, together // prompts))
  return min(together // slots, prompts), slots


def solve_problems(
  make_stream: Callable[..., Stream],
  trajectories: Sequence[Trajectory],
  *,
  mode: Mode,
  samples: int,
  temperature: float,
  config: EvalConfig,
  context_turns: int,
  template: Template,
  tokenizer: Tokenizer,
  max_positions: int,
  done: Sequence[Episode] = (),
  keep: Callable[[Episode], None] = lambda _: None,
) -> list[Episode]:
  """Lets the model solve problems; all processes get all episodes.

  Args:
    make_stream: a function (task, rows=, slots=, trunk_width=) -> stream that
      stops where the template says.
    trajectories: problems with reference answers, or of a domain with an
      environment.
    mode: "turns" or "solve".
    samples: solutions per problem.
    temperature: sampling temperature; 0 for greedy decoding.
    config: the limits of turns and tokens.
    context_turns: how many of the last actions the model sees in the mode
      "turns"; 0 for all.
    template: the wording of the prompts.
    tokenizer: the tokenizer.
    max_positions: the model's context length in tokens.
    done: episodes that an earlier attempt has had.
    keep: called with each other episode as it ends.

  Returns:
    The episodes, with all samples of the first problem first, then those of
    the second and so on.

  Raises:
    ValueError: the limits leave no room for any problem.
    RecurringError: an environment or a verdict failed.
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
  rules = EpisodeRules(
    task=task,
    turns=turns,
    context_turns=context_turns,
    max_positions=max_positions,
    request=functools.partial(
      Request, max_new_tokens=limit, temperature=temperature
    ),
    template=template,
    tokenizer=tokenizer,
  )
  every = list(itertools.product(range(len(trajectories)), range(samples)))
  had = {(episode.problem, episode.sample) for episode in done}
  wanted = [pair for pair in every if pair not in had]
  if not wanted:
    return sorted(done, key=lambda x: (x.problem, x.sample))
  heads = [
    encode_segment(tokenizer, template.problem(trajectory, task))
    for trajectory in trajectories
  ]
  # With room for actions behind the problem, the trunks need not grow soon.
  longest = max(map(len, heads), default=0) + len(stem)
  rows, slots = rows_and_slots(
    config.answers_per_batch,
    # In turns, the samples of a problem soon have contexts of their own.
    *((len(every), 1) if mode == "turns" else (len(trajectories), samples)),
  )
  stream = make_stream(
    task,
    rows=rows,
    slots=slots,
    trunk_width=min(2 * longest, max_positions),
  )
  progress.advance(len(done), len(every))
  episodes = list(done)
  right = sum(episode.is_correct or 0 for episode in done)
  found = sample_episodes(stream, trajectories, wanted, rules)
  with contextlib.closing(found):
    for episode in found:
      keep(episode)
      episodes.append(episode)
      right += episode.is_correct or 0
      progress.advance(len(episodes), len(every))
      progress.note(f"right so far {right}/{len(episodes)}")
  return sorted(episodes, key=lambda x: (x.problem, x.sample))


def summarise(
  episodes: Sequence[Episode], problems: int, samples: int
) -> dict[str, Estimate]:
  """Returns avg@n, and unbiased pass@k for k = 2, 4, ... n, over problems.

  With one sample per problem the only entry is "accuracy". Problems of which an
  episode has no verdict are left out; if there are any, "no verdict" is their
  share.
  """
  correct = np.zeros(problems, np.int64)
  is_judged = np.ones(problems, bool)
  for episode in episodes:
    if episode.is_correct is None:
      is_judged[episode.problem] = False
    else:
      correct[episode.problem] += episode.is_correct
  correct = correct[is_judged]
  if samples == 1:
    found = {"accuracy": share(correct)}
  else:
    found = estimates(solve_rates(correct, samples))
  if not is_judged.all():
    found["no verdict"] = share(~is_judged)
  return found
