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
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from srl_jax import progress, sharding
from srl_jax.domains.suite import Problem
from srl_jax.evaluate.journal import Journal
from srl_jax.evaluate.judges import JudgeFunction, Judges
from srl_jax.evaluate.protocols import Decoding
from srl_jax.evaluate.records import Answer
from srl_jax.rollout.requests import Request, Sampled
from srl_jax.rollout.stream import Stream, complete
from srl_jax.tokenizers import Tokenizer


class Question(NamedTuple):
  """A problem as the model sees it.

  Attributes:
    problem: the problem.
    tokens: token ids of the prompt, and of the prefix.
    prefix: text with which its answer is made to begin.
    max_new_tokens: limit of its answer, if it is lower than that of all; 0 if
      not.
  """

  problem: Problem
  tokens: Sequence[int]
  prefix: str = ""
  max_new_tokens: int = 0

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
  [done, *_] = sharding.gather_objects(
    {
      (a.suite, a.problem, a.sample)
      for a in (journal.answers if journal else ())
      if a.decoding == decoding.name
    }
  )
  requests = dict(_requests(questions, decoding, max_new_tokens, done))
  if not requests:
    return
  total = sum(len(request.samples) for request in requests)
  stream = make_stream(max(len(r.tokens) for r in requests))
  stop_ids = frozenset(stream.stop_ids)
  before = len(journal.answers) if journal else 0
  right = 0

  def keep(answers: Iterator[Answer]) -> None:
    nonlocal right
    for answer in answers:
      journal.add(answer)
      right += answer.is_correct
      progress.note(f"right so far {right}/{len(journal.answers) - before}")

  with contextlib.ExitStack() as stack:
    what = f"{decoding.name} answers to {len(requests)} problems"
    stack.enter_context(progress.task(what, total=total))
    judges = stack.enter_context(Judges(judge)) if journal else None
    try:
      for count, sampled in enumerate(complete(stream, requests), start=1):
        progress.advance(count, total)
        if judges:
          question = requests[sampled.request]
          text = question.prefix + _text(sampled, tokenizer, stop_ids)
          make = _maker(question.problem, decoding.name, sampled, text)
          judges.put(text, question.problem, make)
          keep(judges.take())
      if judges:
        keep(judges.take(0))
    except Exception:
      if judges:
        keep(judges.take_good())
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
      for g in range(decoding.samples)
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


def _text(sampled: Sampled, tokenizer: Tokenizer, stop_ids: frozenset) -> str:
  tokens = sampled.tokens
  if tokens and tokens[-1] in stop_ids:
    tokens = tokens[:-1]
  return tokenizer.decode(tokens)


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
