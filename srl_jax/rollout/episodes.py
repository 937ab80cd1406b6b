# SPDX-License-Identifier: Apache-2.0
"""Samples episodes: many problems, many samples, many turns.

At each turn the model sees the problem and its own actions so far, thinks, and
writes the next action. Its thought is dropped. If the domain has an
environment, the environment executes the action, and its observation enters
the context as in the trunks of training.

An episode whose action is executed asks the stream for its next turn, and one
that is judged makes room for another, so that short episodes wait for no long
ones. Where `Domain.environment_waits`, the model goes on with other episodes
while environments act, and fast environments wait for no slow ones. Equal
contexts are run once where they meet on the stream: those of all samples of a
problem at the first turn, later those of samples with the same actions. Of a
context that goes on from one that a row still has, only what is new is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax

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
from srl_jax.rollout.calls import Calls
from srl_jax.rollout.completions import Completions
from srl_jax.rollout.requests import Request, Sampled
from srl_jax.rollout.stream import Stream
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
    is_correct: whether the environment says that the problem is solved; None
      if it cannot tell. Without an environment, whether the domain's verdict on
      the actions is 1.
    tokens: length of the texts in tokens, stop tokens included.
    drawn: the tokens of the texts with their prompts, turn by turn.
  """

  problem: int
  sample: int
  texts: tuple[str, ...]
  actions: tuple[str, ...]
  observations: tuple[str, ...]
  ending: str
  is_correct: bool | None
  tokens: int
  drawn: tuple[Sampled, ...] = dataclasses.field(
    default=(), repr=False, compare=False
  )


@dataclasses.dataclass(frozen=True)
class EpisodeRules:
  """How episodes go.

  Attributes:
    task: "step" for one step per turn; "solve" for one action that is the
      whole solution.
    turns: maximal number of turns of an episode.
    context_turns: how many of the last actions the model sees; 0 for all. See
      TrunkConfig.
    max_positions: most tokens of a context and the turn behind it, at most the
      model's context length.
    request: a function (tokens=, point_id=) -> request, which says how turns
      are drawn.
    template: the wording of the prompts.
    tokenizer: the tokenizer.
    is_elastic: whether a turn may have fewer tokens than `request` gives it,
      where the context leaves less; if not, the episode ends there.
    has_verdicts: whether the domain's verdict decides where there is no
      environment; if not, nothing is correct there.
  """

  task: Task
  turns: int
  context_turns: int
  max_positions: int
  request: Callable[..., Request]
  template: Template
  tokenizer: Tokenizer
  is_elastic: bool = False
  has_verdicts: bool = True


def sample_episodes(
  stream: Stream,
  trajectories: Sequence[Trajectory],
  wanted: Iterable[tuple[int, int]],
  rules: EpisodeRules,
) -> Iterator[Episode]:
  """Lets the model solve problems; yields episodes as they end.

  The random numbers of a completion follow from the stream's key, problem,
  task, turn and sample, so other episodes change at most how its logits are
  rounded, as does the time that environments in threads take. As many episodes
  are open as can be decoded together. All processes get all episodes in the
  same order. Each environment lives in one process, which sends its
  observations to the others. Where `Domain.environment_waits`, it has a thread
  of its own, and as many act at the same time as there are cores.

  Args:
    stream: samples the turns; no other requests may be under way.
    trajectories: the problems; the model does not see the expert's steps.
    wanted: (index of the problem, sample) of each episode, in the order in
      which they begin.
    rules: how they go.

  Raises:
    RecurringError: an environment or a verdict failed. The message names the
      domain, the problem and the action.
    ValueError: a verdict cannot be imported.
  """
  posed = [_pose(trajectory, rules) for trajectory in trajectories]
  waiting = enumerate(wanted)
  completions = Completions(stream)
  calls: Calls[_Open] = Calls(_Open.failure, _Open.leave_environment)
  under_way: dict[Request, _Open] = {}
  ready: list[_Open] = []
  open_: set[_Open] = set()
  with contextlib.closing(calls):
    while True:
      free = stream.capacity - len(open_)
      for number, name in itertools.islice(waiting, free):
        owner = number % jax.process_count()
        ready.append(_Open(*name, posed[name[0]], owner))
      open_.update(ready)
      if not open_:
        return
      for episode in ready:
        if request := episode.ask(rules):
          under_way[request] = episode
          completions.submit(request)
        else:
          episode.begin(calls)
      ready = []
      for sampled in completions.advance(more_follow=True):
        episode = under_way.pop(sampled.request)
        episode.read(sampled, rules)
        if not episode.begin(calls):
          ready.append(episode)
      # The devices wait for nobody while they have an episode to go on with.
      for episode, answer in calls.collect(wait=not (under_way or ready)):
        if episode.ending:
          episode.is_correct = answer
          calls.end(episode)
          if episode.drawn:
            stream.release(episode.drawn[-1].request)
          open_.remove(episode)
          yield episode.ended()
          continue
        episode.observe(*answer, rules)
        if not episode.begin(calls):
          ready.append(episode)


class _Posed(NamedTuple):
  """A problem as it is posed; `verdict` is None if it decides nothing."""

  trajectory: Trajectory
  domain: Domain
  verdict: RewardFunction | None
  head: list[int]


@dataclasses.dataclass(eq=False)
class _Open:
  """An episode under way.

  Attributes:
    owner: index of the process in which its environment lives.
    segments: tokens of each action so far, with the observation after it.
    environment: the environment, from the first action to the end of the
      episode; None in all processes but the owner.
  """

  problem: int
  sample: int
  posed: _Posed
  owner: int
  segments: list[list[int]] = dataclasses.field(default_factory=list)
  texts: list[str] = dataclasses.field(default_factory=list)
  drawn: list[Sampled] = dataclasses.field(default_factory=list)
  actions: list[str] = dataclasses.field(default_factory=list)
  observations: list[str] = dataclasses.field(default_factory=list)
  tokens: int = 0
  environment: Environment | None = None
  ending: str = ""
  is_correct: bool | None = False

  @property
  def domain(self) -> Domain:
    """The domain of its problem."""
    return self.posed.domain

  def ask(self, rules: EpisodeRules) -> Request | None:
    """Returns the request for the next turn; None if it has no room."""
    turn = len(self.texts)
    tokens = list(self.posed.head)
    for segment in self.segments[-rules.context_turns :]:  # [-0:] is all.
      tokens += segment
    stem = rules.template.stem(rules.task, turn + 1)
    tokens += encode_segment(rules.tokenizer, stem)
    name = f"{self.posed.trajectory.id}/{rules.task}/{turn}/{self.sample}"
    request = rules.request(tokens=tokens, point_id=zlib.crc32(name.encode()))
    room = rules.max_positions - len(tokens)
    if room < (1 if rules.is_elastic else request.max_new_tokens):
      self.ending = "context full"
      return None
    limit = min(request.max_new_tokens, room)
    return dataclasses.replace(request, max_new_tokens=limit)

  def read(self, sampled: Sampled, rules: EpisodeRules) -> None:
    """Takes what the model wrote, and the action in it."""
    text = rules.tokenizer.decode(sampled.written)
    self.texts.append(text)
    self.drawn.append(sampled)
    self.tokens += len(sampled.tokens)
    action = format.split_lenient(text).action
    if not action:
      self.ending = "no action"
      return
    self.actions.append(action)
    if not self.domain.environment:
      self._go_on(rules)

  def begin(self, calls: Calls[_Open]) -> bool:
    """Begins to execute the last action, or to judge what has ended.

    Returns:
      False if there is nothing to call: the model has the next turn.
    """
    has_environment = self.domain.environment is not None
    in_thread = has_environment and self.domain.environment_waits
    is_executed = len(self.observations) == len(self.actions)
    if self.ending:
      call = _Open.judge
    elif has_environment and not is_executed:
      call = _Open.execute
    else:
      return False
    calls.begin(self, call, owner=self.owner, in_thread=in_thread)
    return True

  def observe(
    self, observation: str, is_over: bool, rules: EpisodeRules
  ) -> None:
    """Takes what the environment answered to the last action."""
    self.observations.append(observation)
    if is_over:
      self.ending = "environment done"
    self._go_on(rules)

  def _go_on(self, rules: EpisodeRules) -> None:
    """Ends after a final action or the last turn, or extends the context."""
    action = self.actions[-1]
    if rules.task == "solve" or self.domain.is_final(action):
      self.ending = "answered"
    elif not self.ending and len(self.texts) == rules.turns:
      self.ending = "turn limit"
    if not self.ending:
      observation = self.observations[-1] if self.observations else None
      step = Step(action, observation=observation)
      segment = rules.template.step(step, len(self.actions))
      self.segments.append(encode_segment(rules.tokenizer, segment))

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
      tokens=self.tokens,
      drawn=tuple(self.drawn),
    )

  def execute(self) -> tuple[str, bool]:
    """Executes the last action; returns (observation, whether it is over)."""
    if self.environment is None:
      self.environment = self.domain.environment()
      self.environment.reset(self.posed.trajectory)
    observation, is_over = self.environment.step(self.actions[-1])
    if not isinstance(observation, str):
      raise TypeError(
        f"step() returned the observation {observation!r}; it must be a string"
      )
    return observation, bool(is_over)

  def judge(self) -> bool | None:
    """Whether the problem is solved; an episode without actions solves none."""
    if self.domain.environment:
      if self.environment is None:
        return False
      is_solved = self.environment.solved()
      environment, self.environment = self.environment, None
      environment.close()
      return None if is_solved is None else bool(is_solved)
    trajectory, verdict = self.posed.trajectory, self.posed.verdict
    if verdict is None or not self.actions or trajectory.answer is None:
      return False
    more = {}
    if wants_context(verdict):
      thoughts = [format.split_lenient(text).thought for text in self.texts]
      context = scoring.reward_context(trajectory, 0)
      more["context"] = context._replace(thought="\n".join(thoughts))
    score = verdict("\n".join(self.actions), trajectory.answer, **more)
    return bool(score >= 1)  # Also of a number of numpy.

  def leave_environment(self) -> None:
    """Closes the environment if it is open."""
    if self.environment is not None:
      self.environment.close()

  def failure(self) -> str:
    """The error message for the exception that is being handled."""
    what = "environment" if self.domain.environment else "verdict"
    action = shorten(self.actions[-1])
    return (
      f"the {what} of the domain {self.domain.name!r} failed at the problem "
      f"{self.posed.trajectory.id!r} with the action {action}; it raised:\n"
      f"{traceback.format_exc(limit=-3).rstrip()}"
    )


def _pose(trajectory: Trajectory, rules: EpisodeRules) -> _Posed:
  domain = domain_of(trajectory)
  verdict = None
  if domain.environment is None and rules.has_verdicts:
    verdict = find_function(RewardConfig(function=domain.verdict))
  problem = rules.template.problem(trajectory, rules.task)
  head = encode_segment(rules.tokenizer, problem)
  return _Posed(trajectory, domain, verdict, head)
