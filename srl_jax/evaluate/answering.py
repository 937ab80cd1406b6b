# SPDX-License-Identifier: Apache-2.0
"""Lets a model answer the problems of suites, and has the answers judged.

Answers are judged in worker processes while the devices decode the next ones,
and each goes into the journal at once. What the journal has is not sampled
again: an answer depends on nothing but its problem, its index and the seed.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from srl_jax import progress, sharding
from srl_jax.domains import domain_of
from srl_jax.domains.suite import Problem
from srl_jax.evaluate.journal import Journal
from srl_jax.evaluate.judges import JudgeError, JudgeFunction, Judges
from srl_jax.evaluate.protocols import Decoding
from srl_jax.evaluate.records import Answer
from srl_jax.rollout.completions import complete
from srl_jax.rollout.episodes import Episode, EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request, Sampled
from srl_jax.rollout.stream import Stream
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Trajectory


class Question(NamedTuple):
  """A problem as the model sees it.

  Attributes:
    problem: the problem.
    tokens: token ids of the prompt, and of the prefix.
    prefix: text with which its answer is made to begin.
    max_new_tokens: limit of its answer, if it is lower than that of all; 0 if
      not.
    samples: indices of the samples that are asked for; () for all.
  """

  problem: Problem
  tokens: Sequence[int]
  prefix: str = ""
  max_new_tokens: int = 0
  samples: tuple[int, ...] = ()

  def point_id(self) -> int:
    """Names the random numbers of its answers."""
    return zlib.crc32(f"{self.problem.suite}/{self.problem.id}".encode())


def answer_questions(
  make_stream: Callable[[int], Stream],
  questions: Sequence[Question],
  decoding: Decoding,
  *,
  max_new_tokens: int,
  journal: Journal | None,
  judge: JudgeFunction,
  tokenizer: Tokenizer,
) -> None:
  """Samples and judges what the journal lacks; all processes take part.

  Args:
    make_stream: a function (longest prompt in tokens) -> stream.
    questions: the problems.
    decoding: how answers are drawn.
    max_new_tokens: limit of each answer, stop token included.
    journal: gets the answers; None in all processes but the first.
    judge: judges a text; must be importable.
    tokenizer: the tokenizer.

  Raises:
    JudgeError: an answer could not be judged. All others that were sampled so
      far are in the journal, as after any other error.
  """
  done = _done(journal, decoding)
  requests = dict(_requests(questions, decoding, max_new_tokens, done))
  if not requests:
    return
  total = sum(len(request.samples) for request in requests)
  stream = make_stream(max(len(r.tokens) for r in requests))
  what = f"{decoding.name} answers to {len(requests)} problems"
  with _judging(journal, judge, what, total) as answers:
    for sampled in complete(stream, requests):
      question = requests[sampled.request]
      text = question.prefix + tokenizer.decode(sampled.written)
      answers.judge(
        text,
        question.problem,
        _maker(question.problem, decoding.name, sampled, text),
      )


def answer_by_turns(
  make_stream: Callable[[], Stream],
  problems: Sequence[Problem],
  trajectories: Sequence[Trajectory],
  decoding: Decoding,
  *,
  rules: EpisodeRules,
  journal: Journal | None,
  judge: JudgeFunction,
) -> None:
  """Samples episodes that the journal lacks; all processes take part.

  An environment decides whether its problem is solved; all other answers are
  judged, as text of the actions. An answer of which an environment cannot tell
  is not kept, so the next call samples it again.

  Args:
    make_stream: makes a stream.
    problems: the problems.
    trajectories: the same as trajectories.
    decoding: how many samples are drawn; `rules` says how.
    rules: how episodes go.
    journal: gets the answers; None in all processes but the first.
    judge: judges a text; must be importable.

  Raises:
    JudgeError: as in `answer_questions`, or an environment could not tell
      whether its problem is solved.
    RecurringError: an environment failed.
  """
  done = _done(journal, decoding)
  wanted = [
    (n, g)
    for n, problem in enumerate(problems)
    for g in range(decoding.samples)
    if (problem.suite, problem.id, g) not in done
  ]
  if not wanted:
    return
  what = f"{decoding.name} answers, turn by turn"
  with contextlib.ExitStack() as stack:
    answers = stack.enter_context(_judging(journal, judge, what, len(wanted)))
    episodes = sample_episodes(make_stream(), trajectories, wanted, rules)
    unjudged = []
    for episode in stack.enter_context(contextlib.closing(episodes)):
      problem = problems[episode.problem]
      if episode.is_correct is None:
        unjudged.append(problem.id)
        continue
      make = _maker_by_turns(problem, decoding.name, episode)
      if domain_of(trajectories[episode.problem]).environment:
        final = episode.actions[-1] if episode.actions else ""
        answers.add(make(final=final, is_correct=episode.is_correct))
      else:
        answers.judge("\n".join(episode.actions), problem, make)
    if unjudged:
      raise JudgeError(
        f"{len(unjudged)} of {len(wanted)} answers have no verdict, the first "
        f"to the problem {unjudged[0]!r}: their environments could not tell. "
        "All others are kept; see the log, then run this again",
        passes=True,
      )


def _done(
  journal: Journal | None, decoding: Decoding
) -> set[tuple[str, str, int]]:
  """What the first process's journal has: (suite, problem, sample)."""
  [done, *_] = sharding.gather_objects(
    {
      (a.suite, a.problem, a.sample)
      for a in (journal.answers if journal else ())
      if a.decoding == decoding.name
    }
  )
  return done


class _Answers:
  """Puts answers into a journal as they are judged; without one, it counts."""

  def __init__(
    self, journal: Journal | None, judges: Judges | None, total: int
  ):
    self._journal, self._judges, self._total = journal, judges, total
    self._count = self._kept = self._right = 0

  def judge(
    self, text: str, problem: Problem, make: Callable[..., Answer]
  ) -> None:
    """Has a text judged; `make` makes an answer of the verdict."""
    self._advance()
    if self._judges:
      self._judges.put(text, problem, make)
      self.keep(self._judges.take())

  def add(self, answer: Answer) -> None:
    """Adds an answer that needs no judge."""
    self._advance()
    if self._journal:
      self.keep([answer])

  def keep(self, answers: Iterable[Answer]) -> None:
    """Puts answers into the journal."""
    for answer in answers:
      self._journal.add(answer)
      self._kept += 1
      self._right += answer.is_correct
      progress.note(f"right so far {self._right}/{self._kept}")

  def _advance(self) -> None:
    self._count += 1
    progress.advance(self._count, self._total)


@contextlib.contextmanager
def _judging(
  journal: Journal | None, judge: JudgeFunction, what: str, total: int
) -> Iterator[_Answers]:
  """Names the task; at its end, and after an error, judges what is left."""
  with contextlib.ExitStack() as stack:
    stack.enter_context(progress.task(what, total=total))
    judges = stack.enter_context(Judges(judge)) if journal else None
    answers = _Answers(journal, judges, total)
    try:
      yield answers
      if judges:
        answers.keep(judges.take(0))
    except Exception:
      if judges:
        answers.keep(judges.take_good())
      raise


def _requests(
  questions: Sequence[Question],
  decoding: Decoding,
  max_new_tokens: int,
  done: set,
) -> Iterator[tuple[Request, Question]]:
  # Long prompts first: trunks are then as wide at once as they will be.
  for question in sorted(questions, key=lambda q: -len(q.tokens)):
    problem = question.problem
    samples = [
      g
      for g in question.samples or range(decoding.samples)
      if (problem.suite, problem.id, g) not in done
    ]
    if samples:
      yield (
        Request(
          question.tokens,
          point_id=question.point_id(),
          samples=samples,
          max_new_tokens=min(
            question.max_new_tokens or max_new_tokens, max_new_tokens
          ),
          temperature=decoding.temperature,
          top_k=decoding.top_k,
          top_p=decoding.top_p,
        ),
        question,
      )


def _maker(
  problem: Problem, decoding: str, sampled: Sampled, text: str
) -> Callable[..., Answer]:
  return functools.partial(
    Answer,
    suite=problem.suite,
    problem=problem.id,
    decoding=decoding,
    sample=sampled.sample,
    text=text,
    tokens=len(sampled.tokens),
    is_stopped=sampled.is_stopped,
  )


def _maker_by_turns(
  problem: Problem, decoding: str, episode: Episode
) -> Callable[..., Answer]:
  # By the limit of turns, of the context, or of the tokens of a turn.
  is_cut = episode.ending in ("turn limit", "context full") or not all(
    sampled.is_stopped for sampled in episode.drawn[-1:]
  )
  return functools.partial(
    Answer,
    suite=problem.suite,
    problem=problem.id,
    decoding=decoding,
    sample=episode.sample,
    text="\n\n".join(episode.texts),
    tokens=episode.tokens,
    is_stopped=not is_cut,
    turns=episode.texts,
    observations=episode.observations,
  )
