# SPDX-License-Identifier: Apache-2.0
"""Changes think blocks of answers and lets the model go on from there.

evaluate/thoughts.py makes the changes and says what they mean; this file has
the continuations sampled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from srl_jax import progress, sharding
from srl_jax.data.templates import encode_written
from srl_jax.evaluate import evaluator
from srl_jax.evaluate.answering import Question, answer_questions
from srl_jax.evaluate.compare import Result
from srl_jax.evaluate.estimates import Estimate
from srl_jax.evaluate.journal import Journal
from srl_jax.evaluate.protocols import Decoding
from srl_jax.evaluate.records import Answer
from srl_jax.evaluate.thoughts import interventions, share_changed
from srl_jax.inference import ReadyModel


class _Changed(NamedTuple):
  """An answer, what is done to it, and what the model goes on from."""

  answer: Answer
  kind: str
  question: Question


def check(plan: evaluator.Plan) -> None:
  """Refuses plans whose answers are none of one go.

  Raises:
    ValueError: the protocol answers turn by turn.
  """
  if plan.protocol.mode == "turns":
    raise ValueError(
      "--interventions go on from a think block in the middle of an answer, "
      "and the protocol 'turns' drops thoughts after each turn; use another "
      "protocol, or leave --interventions out"
    )


def intervene(
  model: ReadyModel,
  plan: evaluator.Plan,
  results: Sequence[Result],
  out: pathlib.Path,
  most: int,
) -> dict[str, dict[str, Estimate]]:
  """Measures how often answers change if a think block is changed.

  The model goes on greedily after the changed block. It also goes on after the
  block as it was, which says how often an answer changes for no reason. All
  processes take part.

  Args:
    model: the model.
    plan: the plan of the results.
    results: what `evaluate_suites` returned; each problem's first answer is
      used.
    out: folder of the continuations.
    most: number of problems of each suite that are used.

  Returns:
    For each suite and kind of intervention the share of changed answers;
    suites without think blocks are left out, and in all processes but the
    first all are.
  """
  found = list(_questions(model, plan, results, most))
  # Process 0 alone has the answers.
  questions = sharding.gather_objects([x.question for x in found])[0]
  if not questions:
    progress.say("no answer has a think block to change")
    return {}
  judge = evaluator.judge_of(plan)
  with contextlib.ExitStack() as stack:
    stack.enter_context(evaluator.memory_errors(plan.answers_per_batch))
    journal = None
    if jax.process_index() == 0:
      facts = evaluator.facts(model, plan) | {"interventions": most}
      problems = [asked.problem for asked in questions]
      journal = stack.enter_context(Journal(out, facts, problems, judge))
    answer_questions(
      lambda width: model.stream(
        rows=min(plan.answers_per_batch, len(questions)),
        slots=1,
        key=model.key(plan.seed, "interventions"),
        trunk_width=width,
      ),
      questions,
      Decoding("greedy"),
      max_new_tokens=plan.protocol.max_new_tokens,
      journal=journal,
      judge=judge,
      tokenizer=model.run.tokenizer,
    )
    return _shares(found, journal.answers) if journal else {}


def _questions(
  model: ReadyModel,
  plan: evaluator.Plan,
  results: Sequence[Result],
  most: int,
) -> Iterator[_Changed]:
  """Yields the changed answers of all suites."""
  for result in results:
    firsts = {a.problem: a for a in reversed(result.answers) if a.sample == 0}
    for problem in result.problems[:most]:
      answer = firsts[problem.id]
      prompt = evaluator.question(model, plan, problem)
      asked = []
      for i, change in enumerate(interventions(answer.text, seed=plan.seed)):
        prefix = encode_written(model.run.tokenizer, change.prefix)
        named = dataclasses.replace(problem, id=f"{problem.id}/{i}")
        # The limit is that of the whole answer, as it was before.
        limit = plan.protocol.max_new_tokens - len(prefix)
        question = Question(
          named, [*prompt.tokens, *prefix], change.prefix, limit
        )
        asked.append(_Changed(answer, change.kind, question))
      # A block that ends where the limit is leaves nothing to compare.
      if all(x.question.max_new_tokens > 0 for x in asked):
        yield from asked


def _shares(
  changed: Sequence[_Changed], answers: Sequence[Answer]
) -> dict[str, dict[str, Estimate]]:
  """The shares of changed answers, by suite and kind of intervention."""
  before = {
    (x.question.problem.suite, x.question.problem.id): x for x in changed
  }
  rows: dict[tuple[str, str], dict[str, list[tuple[str, str]]]] = {}
  for answer in answers:
    original, kind, _ = before[answer.suite, answer.problem]
    of_kind = rows.setdefault((answer.suite, kind), {})
    pairs = of_kind.setdefault(original.problem, [])
    pairs.append((original.final, answer.final))
  found: dict[str, dict[str, Estimate]] = {}
  for (suite, kind), of_kind in sorted(rows.items()):
    originals = [[first for first, _ in row] for row in of_kind.values()]
    continued = [[after for _, after in row] for row in of_kind.values()]
    share = share_changed(originals, continued)
    found.setdefault(suite, {})[f"changed, block {kind}"] = share
  return found
