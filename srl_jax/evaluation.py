# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model on suites: prompts, answers, verdicts, numbers.

The command `python -m srl_jax.evaluate` and runs use this. What is particular
to a suite or a protocol is declared in domains/ and evaluate/protocols.py; the
answers of a folder are those of evaluate/journal.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from srl_jax import progress, sharding
from srl_jax.data.messages import encode_messages
from srl_jax.data.suites import find_file, parse_suites, read_problems
from srl_jax.data.templates import encode_segment
from srl_jax.domains.suite import Problem
from srl_jax.evaluate.answering import Question, answer_questions
from srl_jax.evaluate.compare import Result
from srl_jax.evaluate.estimates import Estimate
from srl_jax.evaluate.journal import Journal, group
from srl_jax.evaluate.protocols import Decoding, Protocol
from srl_jax.evaluate.records import Answer
from srl_jax.evaluate.thoughts import interventions, share_changed
from srl_jax.inference import ReadyModel
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.episodes import Episode, sample_episodes

# Samples of a problem that are decoded together; the others wait for a slot.
_MOST_SLOTS = 8


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a model is evaluated on.

  Attributes:
    problems: the problems of all suites; each names its suite.
    domains: domain of each suite, by name.
    protocol: how they are put, decoded and judged.
    seed: seed of all samples.
    answers_per_batch: answers decoded together.
  """

  problems: Sequence[Problem]
  domains: Mapping[str, str]
  protocol: Protocol
  seed: int = 0
  answers_per_batch: int = 64


def read_suites(
  names: str, folder: str = "", limit: int = 0
) -> tuple[list[Problem], dict[str, str]]:
  """Reads the problems of suites.

  Args:
    names: names and paths, as `parse_suites` reads them.
    folder: a folder with the suites' files; see `find_file`.
    limit: number of problems of each suite, from its beginning; 0 for all.

  Returns:
    The problems, and the domain of each suite.

  Raises:
    ValueError: a suite is unknown or its file cannot be used.
  """
  problems: list[Problem] = []
  domains: dict[str, str] = {}
  for suite, path in parse_suites(names):
    file = find_file(suite, path, folder)
    found = read_problems(suite, file, lambda x: progress.say(f"warning: {x}"))
    problems += found[: limit or None]
    domains[suite.name] = suite.domain
  return problems, domains


def fitted(model: ReadyModel, plan: Plan) -> Plan:
  """Returns a plan whose answers fit the model's context.

  Raises:
    ValueError: a problem leaves no room for an answer.
  """
  protocol = plan.protocol
  longest = max(
    (_question(model, plan, problem) for problem in plan.problems),
    key=lambda question: len(question.tokens),
  )
  room = model.max_positions - len(longest.tokens)
  if room < 1:
    raise ValueError(
      f"problem {longest.problem.id!r} of {longest.problem.suite} is "
      f"{len(longest.tokens)} tokens long, which leaves no room for an answer "
      f"in a context of {model.max_positions} tokens; leave the suite out"
    )
  limit = min(protocol.max_new_tokens, room)
  return dataclasses.replace(
    plan, protocol=dataclasses.replace(protocol, max_new_tokens=limit)
  )


def evaluate_suites(
  model: ReadyModel, plan: Plan, out: pathlib.Path
) -> list[Result]:
  """Lets a model answer suites; goes on where an earlier call was ended.

  All processes take part, and the first one keeps the answers.

  Args:
    model: the model.
    plan: a `fitted` plan.
    out: folder of the answers.

  Returns:
    A result for each suite; in all processes but the first, nothing.

  Raises:
    ValueError: the folder holds another evaluation, or the protocol needs a
      chat template and the model has none.
  """
  facts = _facts(model, plan)
  with contextlib.ExitStack() as stack:
    journal = None
    if jax.process_index() == 0:
      journal = stack.enter_context(Journal(out, facts, plan.problems))
    for decoding in plan.protocol.decodings:
      if plan.protocol.mode == "turns":
        _answer_by_turns(model, plan, decoding, journal)
      else:
        _answer_in_one_go(model, plan, decoding, journal)
  if journal is None:
    return []
  return group(model.name, facts, plan.problems, journal.answers)


def _facts(model: ReadyModel, plan: Plan) -> dict[str, Any]:
  """What the answers depend on, as JSON."""
  protocol = dataclasses.asdict(plan.protocol)
  del protocol["wording"], protocol["verdict"]
  checksum = hashlib.sha256(repr(plan.problems).encode()).hexdigest()
  suites = list(dict.fromkeys(problem.suite for problem in plan.problems))
  return {
    "model": model.name,
    "weights": model.fingerprint(),
    "template": type(model.run.template).__name__,
    "suites": {
      suite: sum(problem.suite == suite for problem in plan.problems)
      for suite in suites
    },
    "problems_sha256": checksum,
    "protocol": protocol | {"differences": list(plan.protocol.differences())},
    "seed": plan.seed,
  }


def _question(model: ReadyModel, plan: Plan, problem: Problem) -> Question:
  messages = plan.protocol.messages(problem)
  run = model.run
  if messages is not None:
    if model.chat is None:
      raise ValueError(
        f"the protocol {plan.protocol.name!r} puts problems as chat messages, "
        f"and {model.name} has no chat template; use --protocol=paper or turns"
      )
    return Question(
      problem, encode_messages(model.chat, run.tokenizer, messages)
    )
  task = "step" if plan.protocol.mode == "turns" else "solve"
  trajectory = problem.trajectory(plan.domains[problem.suite])
  tokens = [
    *encode_segment(run.tokenizer, run.template.problem(trajectory, task)),
    *encode_segment(run.tokenizer, run.template.stem(task, 1)),
  ]
  return Question(problem, tokens)


def _answer_in_one_go(
  model: ReadyModel, plan: Plan, decoding: Decoding, journal: Journal | None
) -> None:
  slots = min(decoding.samples, _MOST_SLOTS)

  def make_stream(longest: int):
    return model.stream(
      rows=max(1, plan.answers_per_batch // slots),
      slots=slots,
      key=model.key(plan.seed, decoding.name),
      trunk_width=longest,
    )

  answer_questions(
    make_stream,
    [_question(model, plan, problem) for problem in plan.problems],
    decoding,
    max_new_tokens=plan.protocol.max_new_tokens,
    journal=journal,
    judge=plan.protocol.judge,
    tokenizer=model.run.tokenizer,
  )


def _answer_by_turns(
  model: ReadyModel, plan: Plan, decoding: Decoding, journal: Journal | None
) -> None:
  """Answers some problems at a time; the journal gets these together."""
  [done, *_] = sharding.gather_objects(
    {
      (a.suite, a.problem)
      for a in (journal.answers if journal else ())
      if a.decoding == decoding.name and a.sample == decoding.samples - 1
    }
  )
  left = [p for p in plan.problems if (p.suite, p.id) not in done]
  at_once = max(1, plan.answers_per_batch // decoding.samples)
  with progress.task(f"{decoding.name} answers, turn by turn", total=len(left)):
    for first in range(0, len(left), at_once):
      part = left[first : first + at_once]
      for answer in _by_turns(model, plan, decoding, part):
        if journal:
          journal.add(answer)
      progress.advance(first + len(part), len(left))


def _by_turns(
  model: ReadyModel, plan: Plan, decoding: Decoding, problems: Sequence[Problem]
) -> Iterator[Answer]:
  """Yields the answers; the last sample of a problem comes last."""
  run, protocol = model.run, plan.protocol
  sampling = SamplingConfig(
    samples=1,
    max_new_tokens=protocol.max_new_tokens,
    temperature=decoding.temperature,
    top_p=decoding.top_p,
    top_k=decoding.top_k,
  )
  with jax.set_mesh(run.mesh):
    episodes, _ = sample_episodes(
      run.sampler(sampling, "step"),
      model.params,
      [problem.trajectory(plan.domains[problem.suite]) for problem in problems],
      task="step",
      samples=decoding.samples,
      turns=protocol.max_turns,
      context_turns=0,
      rows_per_batch=plan.answers_per_batch,
      max_positions=model.max_positions,
      key=model.key(plan.seed, decoding.name),
      template=run.template,
      tokenizer=run.tokenizer,
    )
  for episode in episodes:
    yield _answer_of(model, plan, decoding, problems[episode.problem], episode)


def _answer_of(
  model: ReadyModel,
  plan: Plan,
  decoding: Decoding,
  problem: Problem,
  episode: Episode,
) -> Answer:
  final, is_correct = plan.protocol.judge("\n".join(episode.actions), problem)
  encode = model.run.tokenizer.encode
  return Answer(
    suite=problem.suite,
    problem=problem.id,
    decoding=decoding.name,
    sample=episode.sample,
    text="\n\n".join(episode.texts),
    tokens=sum(len(encode(text)) + 1 for text in episode.texts),
    is_stopped=episode.ending == "answered",
    final=final,
    is_correct=is_correct,
    turns=episode.texts,
  )


def intervene(
  model: ReadyModel,
  plan: Plan,
  results: Sequence[Result],
  out: pathlib.Path,
  most: int,
) -> dict[str, dict[str, Estimate]]:
  """Measures how often answers change if a think block is changed.

  The model goes on greedily after the changed block. It also goes on after the
  block as it was, which says how often an answer changes for no reason.

  Args:
    model: the model.
    plan: the plan of the results.
    results: the answers; each problem's first one is used.
    out: folder of the continuations.
    most: number of problems of each suite that are used.

  Returns:
    For each suite and kind of intervention the share of changed answers;
    suites without think blocks are left out.
  """
  asked: dict[tuple[str, str], tuple[str, str, str]] = {}
  questions = []
  by_id = {(p.suite, p.id): p for p in plan.problems}
  for result in results:
    firsts = {a.problem: a for a in reversed(result.answers) if a.sample == 0}
    for answer in [firsts[p.id] for p in result.problems][:most]:
      question = _question(model, plan, by_id[answer.suite, answer.problem])
      for i, change in enumerate(interventions(answer.text, seed=plan.seed)):
        name = f"{answer.problem}/{i}"
        asked[answer.suite, name] = answer.problem, change.kind, answer.final
        tokens = model.run.tokenizer.encode(change.prefix)
        questions.append(
          Question(
            dataclasses.replace(question.problem, id=name),
            [*question.tokens, *tokens],
            change.prefix,
          )
        )
  if not questions:
    return {}
  longest = max(len(question.tokens) for question in questions)
  limit = min(plan.protocol.max_new_tokens, model.max_positions - longest)
  facts = _facts(model, plan) | {"interventions": most}
  with Journal(out, facts, [q.problem for q in questions]) as journal:
    answer_questions(
      lambda width: model.stream(
        rows=plan.answers_per_batch,
        slots=1,
        key=model.key(plan.seed, "interventions"),
        trunk_width=width,
      ),
      questions,
      Decoding("greedy"),
      max_new_tokens=max(limit, 1),
      journal=journal,
      judge=plan.protocol.judge,
      tokenizer=model.run.tokenizer,
    )
    return _changed(asked, journal.answers)


def _changed(
  asked: Mapping[tuple[str, str], tuple[str, str, str]],
  answers: Sequence[Answer],
) -> dict[str, dict[str, Estimate]]:
  """The shares of changed answers, by suite and kind of intervention."""
  rows: dict[tuple[str, str], dict[str, list[tuple[str, str]]]] = {}
  for answer in answers:
    problem, kind, before = asked[answer.suite, answer.problem]
    of_kind = rows.setdefault((answer.suite, kind), {})
    of_kind.setdefault(problem, []).append((before, answer.final))
  found: dict[str, dict[str, Estimate]] = {}
  for (suite, kind), of_kind in sorted(rows.items()):
    originals = [[before for before, _ in row] for row in of_kind.values()]
    continued = [[after for _, after in row] for row in of_kind.values()]
    share = share_changed(originals, continued)
    found.setdefault(suite, {})[f"changed, block {kind}"] = share
  return found
