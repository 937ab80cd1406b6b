# SPDX-License-Identifier: Apache-2.0
"""Samples episodes: many problems, many samples, many turns.

At each turn the model sees the problem and its own actions so far, thinks, and
writes the next action. Its thought is dropped. If the domain has an
environment, the environment executes the action, and its observation enters
the context as in the trunks of training. All open episodes take a turn
together. Episodes with the same context share a trunk (turns.py): at the first
turn all samples of a problem, later the samples with the same actions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from srl_jax import progress, sharding
from srl_jax.data.templates import Task, Template, encode_segment
from srl_jax.domains import Domain, Environment, domain_of
from srl_jax.rewards import RewardConfig, format
from srl_jax.rewards.reward import (
  RewardFunction,
  find_function,
  shorten,
  wants_context,
)
from srl_jax.rollout import scoring
from srl_jax.rollout.sampler import Sampler
from srl_jax.rollout.turns import Prompt, sample_turn
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Step, Trajectory


@dataclasses.dataclass(frozen=True)
class Episode:
  """What one sample did at a problem, from the first turn to the last.

  Attributes:
    problem: index of the trajectory.
    sample: index of the sample.
    texts: the model's completions, turn by turn, thoughts included.
    actions: the actions in these texts; one fewer if the last text has none.
    observations: the environment's answer to each action; () without an
      environment.
    ending: "answered" (by a final action), "environment done", "no action",
      "turn limit" or "context full".
    is_correct: whether the environment says that the problem is solved.
      Without an environment, whether the domain's verdict on the actions is 1.
  """

  problem: int
  sample: int
  texts: tuple[str, ...]
  actions: tuple[str, ...]
  observations: tuple[str, ...]
  ending: str
  is_correct: bool


class EpisodeStats(NamedTuple):
  """The work that sampling took.

  Attributes:
    completions: number of completions: the turns of all episodes.
    context_tokens: tokens in the contexts of all completions.
    trunk_tokens: the context tokens that were run; equal contexts share a
      trunk.
  """

  completions: int
  context_tokens: int
  trunk_tokens: int


def sample_episodes(
  sampler: Sampler,
  params: Any,
  trajectories: Sequence[Trajectory],
  *,
  task: Task,
  samples: int,
  turns: int,
  context_turns: int,
  rows_per_batch: int,
  max_positions: int,
  key: jax.Array,
  template: Template,
  tokenizer: Tokenizer,
) -> tuple[list[Episode], EpisodeStats]:
  """Lets the model solve problems; all processes get all episodes.

  The random numbers of a completion follow from key, problem, task, turn and
  sample, so other episodes change at most how its logits are rounded. Each
  environment lives in one process, which sends its observations to the others.

  Args:
    sampler: a sampler with one sample per branch point.
    params: the model's parameters.
    trajectories: the problems; the model does not see the expert's steps.
    task: "step" for one step per turn; "solve" for one action that is the
      whole solution.
    samples: episodes per problem.
    turns: maximal number of turns of an episode.
    context_turns: how many of the last actions the model sees; 0 for all. See
      TrunkConfig.
    rows_per_batch: episodes decoded together.
    max_positions: the model's context length in tokens.
    key: random key.
    template: the wording of the prompts.
    tokenizer: the tokenizer.

  Returns:
    The episodes, with all samples of the first problem first, then those of
    the second and so on; and the work that they took.

  Raises:
    RuntimeError: an environment or a verdict failed. The message names the
      domain, the problem and the action.
    ValueError: a verdict cannot be imported.
  """
  everything = _begin(trajectories, task, samples, template, tokenizer)
  open_ = list(everything)
  totals = np.zeros(3, np.int64)
  with contextlib.ExitStack() as stack:
    for episode in everything:
      stack.callback(episode.leave_environment)
    for turn in range(turns):
      stem = encode_segment(tokenizer, template.stem(task, turn + 1))
      room = max_positions - sampler.config.max_new_tokens - len(stem)
      prompts = []
      for episode in open_:
        prompt = episode.prompt(f"{task}/{turn}", context_turns)
        if len(prompt.tokens) > room:
          episode.ending = "context full"
        else:
          prompts.append(prompt)
      open_ = _judged(open_)
      if not open_:
        break
      _note(everything, turn, turns)
      texts, trunk_tokens = sample_turn(
        sampler,
        params,
        prompts,
        key,
        stem=stem,
        step=turn,
        most_equal=samples,
        rows_per_batch=rows_per_batch,
        tokenizer=tokenizer,
      )
      shown = sum(len(prompt.tokens) for prompt in prompts)
      totals += len(texts), shown, trunk_tokens
      _act(open_, texts, task, turn, template, tokenizer)
      open_ = _judged(open_)
    for episode in open_:
      episode.ending = "turn limit"
    _judged(open_)
  stats = EpisodeStats(*map(int, totals))
  return [episode.ended() for episode in everything], stats


def _note(episodes: Sequence[_Open], turn: int, turns: int) -> None:
  """Says the turn, and the score of the episodes that have ended."""
  ended = [episode for episode in episodes if episode.ending]
  right = sum(episode.is_correct for episode in ended)
  score = f"{right} of {len(ended)} right so far" if ended else ""
  if turns == 1:
    progress.note(score)
    return
  number = f"turn {turn + 1} of {turns}"
  progress.note(", ".join(filter(None, (number, score))), turns - turn - 1)


@dataclasses.dataclass
class _Open:
  """An episode under way.

  Attributes:
    owner: index of the process in which its environment lives.
    head: tokens of the problem.
    segments: tokens of each action so far, with the observation after it.
    environment: the environment, from the first action to the end of the
      episode; None in all processes but the owner.
  """

  problem: int
  sample: int
  trajectory: Trajectory
  domain: Domain
  verdict: RewardFunction | None
  owner: int
  head: list[int]
  segments: list[list[int]] = dataclasses.field(default_factory=list)
  texts: list[str] = dataclasses.field(default_factory=list)
  actions: list[str] = dataclasses.field(default_factory=list)
  observations: list[str] = dataclasses.field(default_factory=list)
  environment: Environment | None = None
  ending: str = ""
  is_correct: bool = False

  def prompt(self, turn_name: str, context_turns: int) -> Prompt:
    """The context of the next turn; turn_name names its random numbers."""
    name = f"{self.trajectory.id}/{turn_name}/{self.sample}"
    tokens = list(self.head)
    for segment in self.segments[-context_turns:]:  # [-0:] is all of them.
      tokens += segment
    return Prompt(
      self.trajectory, np.array(tokens, np.int32), zlib.crc32(name.encode())
    )

  def ended(self) -> Episode:
    """The finished episode."""
    return Episode(
      problem=self.problem,
      sample=self.sample,
      texts=tuple(self.texts),
      actions=tuple(self.actions),
      observations=tuple(self.observations),
      ending=self.ending,
      is_correct=self.is_correct,
    )

  def execute(self) -> tuple[str, bool]:
    """Executes the last action; returns (observation, whether it is over)."""
    if self.environment is None:
      self.environment = self.domain.environment()
      self.environment.reset(self.trajectory)
    observation, is_over = self.environment.step(self.actions[-1])
    if not isinstance(observation, str):
      raise TypeError(
        f"step() returned the observation {observation!r}; it must be a string"
      )
    return observation, bool(is_over)

  def judge(self) -> bool:
    """Whether the problem is solved; an episode without actions solves none."""
    if self.domain.environment:
      if self.environment is None:
        return False
      is_solved = bool(self.environment.solved())
      environment, self.environment = self.environment, None
      environment.close()
      return is_solved
    if not self.actions or self.trajectory.answer is None:
      return False
    more = {}
    if wants_context(self.verdict):
      thoughts = [format.split_lenient(text).thought for text in self.texts]
      context = scoring.reward_context(self.trajectory, 0)
      more["context"] = context._replace(thought="\n".join(thoughts))
    solution = "\n".join(self.actions)
    return self.verdict(solution, self.trajectory.answer, **more) >= 1

  def leave_environment(self) -> None:
    """Closes the environment if a failure has left it open."""
    if self.environment is not None:
      with contextlib.suppress(Exception):
        self.environment.close()

  def failure(self) -> str:
    """The error message for the exception that is being handled."""
    what = "environment" if self.domain.environment else "verdict"
    action = shorten(self.actions[-1])
    return (
      f"the {what} of the domain {self.domain.name!r} failed at the problem "
      f"{self.trajectory.id!r} with the action {action}; it raised:\n"
      f"{traceback.format_exc(limit=-3).rstrip()}"
    )


def _begin(trajectories, task, samples, template, tokenizer) -> list[_Open]:
  episodes = []
  for problem, trajectory in enumerate(trajectories):
    domain = domain_of(trajectory)
    verdict = None
    if domain.environment is None:
      verdict = find_function(RewardConfig(function=domain.verdict))
    head = encode_segment(tokenizer, template.problem(trajectory, task))
    for sample in range(samples):
      owner = len(episodes) % jax.process_count()
      episodes.append(
        _Open(problem, sample, trajectory, domain, verdict, owner, head)
      )
  return episodes


def _act(
  episodes: Sequence[_Open],
  texts: Sequence[str],
  task: Task,
  turn: int,
  template: Template,
  tokenizer: Tokenizer,
) -> None:
  """Extracts the actions from the texts and executes them."""
  for episode, text in zip(episodes, texts, strict=True):
    episode.texts.append(text)
    action = format.split_lenient(text).action
    if action:
      episode.actions.append(action)
    else:
      episode.ending = "no action"
  acting = [episode for episode in episodes if not episode.ending]
  executed = [episode for episode in acting if episode.domain.environment]
  answers = _on_owners(executed, _Open.execute)
  for episode, (observation, is_over) in zip(executed, answers, strict=True):
    episode.observations.append(observation)
    if is_over:
      episode.ending = "environment done"
  for episode in acting:
    action = episode.actions[-1]
    if task == "solve" or episode.domain.is_final(action):
      episode.ending = "answered"
    if not episode.ending:
      observation = episode.observations[-1] if episode.observations else None
      segment = template.step(Step(action, observation=observation), turn + 1)
      episode.segments.append(encode_segment(tokenizer, segment))


def _judged(episodes: Sequence[_Open]) -> list[_Open]:
  """Judges the episodes that have ended and returns the others."""
  ended = [episode for episode in episodes if episode.ending]
  verdicts = _on_owners(ended, _Open.judge)
  for episode, is_correct in zip(ended, verdicts, strict=True):
    episode.is_correct = is_correct
  return [episode for episode in episodes if not episode.ending]


def _on_owners(
  episodes: Sequence[_Open], call: Callable[[_Open], Any]
) -> list[Any]:
  """Calls a function in each episode's owner; all processes get the results.

  Raises:
    RuntimeError: the function failed in some process.
  """
  results: dict[int, Any] = {}
  failure, cause = "", None
  for number, episode in enumerate(episodes):
    if episode.owner == jax.process_index():
      try:
        results[number] = call(episode)
      except Exception as error:
        failure, cause = episode.failure(), error
        break
  everywhere = sharding.gather_objects((results, failure))
  for failure in filter(None, (failure for _, failure in everywhere)):
    raise RuntimeError(failure) from cause
  merged = {n: x for results, _ in everywhere for n, x in results.items()}
  return [merged[number] for number in range(len(episodes))]
