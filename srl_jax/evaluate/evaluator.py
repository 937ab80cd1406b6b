# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model on suites: prompts, answers, verdicts, numbers.

The command `srl_jax evaluate` and runs use this. What is particular
to a suite or a protocol is declared in domains/ and evaluate/protocols.py; the
answers of a folder are those of evaluate/journal.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from srl_jax import progress
from srl_jax.data.messages import encode_messages
from srl_jax.data.suites import find_file, parse_suites, read_problems
from srl_jax.data.templates import encode_prompt
from srl_jax.domains import find_domain
from srl_jax.domains.suite import Problem
from srl_jax.evaluate import rules
from srl_jax.evaluate.answering import (
  Question,
  answer_by_turns,
  answer_questions,
)
from srl_jax.evaluate.compare import RULES, Result
from srl_jax.evaluate.journal import Journal, group
from srl_jax.evaluate.judges import JudgeFunction, domain_verdict
from srl_jax.evaluate.protocols import Decoding, Protocol, our_verdict
from srl_jax.evaluate.solve import rows_and_slots
from srl_jax.inference import ReadyModel
from srl_jax.processes.failures import RecurringError
from srl_jax.rollout.episodes import EpisodeRules
from srl_jax.rollout.requests import Request


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a model is evaluated on.

  Attributes:
    problems: the problems of all suites; each names its suite.
    domains: domain of each suite, by name.
    protocol: rules of prompts, decoding and grading.
    seed: seed of all samples.
    answers_per_batch: answers decoded together.
    context_turns: how many of the last actions the model sees, turn by turn;
      0 for all.
    longest_tokens: length of the longest prompt; `fitted` finds it.
  """

  problems: Sequence[Problem]
  domains: Mapping[str, str]
  protocol: Protocol
  seed: int = 0
  answers_per_batch: int = 64
  context_turns: int = 0
  longest_tokens: int = 0


def read_suites(
  names: str, folder: str = "", limit: int = 0, domain: str = ""
) -> tuple[list[Problem], dict[str, str]]:
  """Reads the problems of suites.

  Args:
    names: names and paths, as `parse_suites` reads them.
    folder: a folder with the suites' files; see `find_file`.
    limit: number of problems of each suite, from its beginning; 0 for all.
    domain: c.data.domain. Files of one's own are of it, unless it is "" or has
      an environment, whose problems no such file holds; then of "math".

  Returns:
    The problems, and the domain of each suite.

  Raises:
    ValueError: a suite is unknown or its file cannot be used.
  """
  # It may bring suites.
  own = domain if domain and not find_domain(domain).environment else "math"
  problems: list[Problem] = []
  domains: dict[str, str] = {}
  for suite, path in parse_suites(names):
    with progress.task(f"looking for the suite {suite.name}"):
      file = find_file(suite, path, folder)
    found = read_problems(suite, file, progress.warn)
    problems += found[: limit or None]
    domains[suite.name] = suite.domain or own
  return problems, domains


def fitted(model: ReadyModel, plan: Plan) -> Plan:
  """Returns a plan whose answers fit the model's context.

  Raises:
    ValueError: a problem leaves no room for an answer.
  """
  protocol = plan.protocol
  longest = max(
    (question(model, plan, problem) for problem in plan.problems),
    key=lambda asked: len(asked.tokens),
  )
  room = model.max_positions - len(longest.tokens)
  if room < 1:
    raise ValueError(
      f"problem {longest.problem.id!r} of {longest.problem.suite} is "
      f"{len(longest.tokens)} tokens long, which leaves no room for an answer "
      f"in a context of {model.max_positions} tokens; leave the suite out"
    )
  limit = min(protocol.max_new_tokens, room)
  if protocol.mode == "turns":
    # Each turn has what its own context leaves.
    limit = protocol.max_new_tokens
  return dataclasses.replace(
    plan,
    protocol=dataclasses.replace(protocol, max_new_tokens=limit),
    longest_tokens=len(longest.tokens),
  )


def most_bytes(model: ReadyModel, plan: Plan) -> int:
  """Returns what keys and values take if a batch of answers is at its limit.

  They grow with the answers, so most evaluations take less; while they grow,
  one layer's old ones are still there.

  Args:
    model: the model.
    plan: a `fitted` plan of answers in one go.
  """
  sizes = [
    rows_and_slots(plan.answers_per_batch, len(plan.problems), x.samples)
    for x in plan.protocol.decodings
  ]
  return max(
    model.cache_bytes(
      rows=rows,
      slots=slots,
      trunk_width=plan.longest_tokens,
      cache_width=plan.protocol.max_new_tokens + 1,
    )
    for rows, slots in sizes
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
    JudgeError: an answer could not be judged.
    RecurringError: the devices have too little memory.
  """
  found = facts(model, plan)
  with contextlib.ExitStack() as stack:
    stack.enter_context(memory_errors(plan.answers_per_batch))
    journal = None
    if jax.process_index() == 0:
      journal = stack.enter_context(
        Journal(out, found, plan.problems, judge_of(plan))
      )
    for decoding in plan.protocol.decodings:
      if plan.protocol.mode == "turns":
        _answer_by_turns(model, plan, decoding, journal)
      else:
        _answer_in_one_go(model, plan, decoding, journal)
  if journal is None:
    return []
  return group(model.name, found, plan.problems, journal.answers)


def answered(model: ReadyModel, plan: Plan, out: pathlib.Path) -> int:
  """Returns how many answers a folder has, before anything is sampled.

  Raises:
    ValueError: the folder holds another evaluation, or is damaged.
    JudgeError: an answer could not be judged anew.
  """
  if jax.process_index() != 0:
    return 0
  found = facts(model, plan)
  with Journal(out, found, plan.problems, judge_of(plan)) as journal:
    return len(journal.answers)


@contextlib.contextmanager
def memory_errors(answers_per_batch: int) -> Iterator[None]:
  """Within, an error that says that memory has run out says what to change.

  Args:
    answers_per_batch: answers decoded together.

  Raises:
    RecurringError: memory has run out.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise RecurringError(
      "the devices have too little memory for the model and the keys and "
      f"values of {answers_per_batch} answers at once; give a lower "
      "--answers_per_batch or --max_new_tokens (in a run, a lower "
      "c.evaluate.answers_per_batch), or spread the model over more devices. "
      "What is answered is kept. It was said: "
      f"{str(error).splitlines()[0]}"
    ) from error


def facts(
  model: ReadyModel,
  plan: Plan,
  standard: Protocol | None = None,
  *,
  prompts: Iterable[Sequence[int]] | None = None,
  files: Iterable[pathlib.Path] = rules.FILES,
) -> dict[str, Any]:
  """Returns what the answers depend on, as JSON.

  Args:
    model: the model.
    plan: the plan.
    standard: the unchanged protocol; by default the one of the plan's name.
    prompts: token ids in which template, tokenizer and wording are; by default
      those of `question`.
    files: source files of the rules that judge answers.
  """
  protocol = dataclasses.asdict(plan.protocol)
  for name in ("wording", "verdict", "notes"):
    del protocol[name]
  functions = _verdicts(plan)
  if functions:
    protocol["verdicts"] = functions
  if plan.protocol.mode == "turns":
    protocol["context_turns"] = plan.context_turns
  protocol[RULES] = rules.checksum(functions.values(), files)
  checksum = hashlib.sha256(repr(plan.problems).encode()).hexdigest()
  if prompts is None:
    prompts = (question(model, plan, x).tokens for x in plan.problems)
  of_prompts = hashlib.sha256(repr(model.stop_ids).encode())
  for tokens in prompts:
    of_prompts.update(np.asarray(tokens, np.int64).tobytes())
  suites = list(dict.fromkeys(problem.suite for problem in plan.problems))
  found = {
    "model": model.name,
    "weights": model.checksum,
    "template": type(model.run.template).__name__,
    "suites": {
      suite: sum(problem.suite == suite for problem in plan.problems)
      for suite in suites
    },
    "problems_sha256": checksum,
    "prompts_sha256": of_prompts.hexdigest(),
    "protocol": protocol | {"differences": plan.protocol.differences(standard)},
    "seed": plan.seed,
  }
  # As it will be read again: lists for tuples.
  return json.loads(json.dumps(found))


def judge_of(plan: Plan) -> JudgeFunction:
  """Returns the protocol's verdict; domains' own ones go before ours."""
  functions = _verdicts(plan)
  if not functions:
    return plan.protocol.verdict
  return functools.partial(domain_verdict, functions)


def _verdicts(plan: Plan) -> dict[str, str]:
  """Returns the verdicts of domains that replace ours, by suite."""
  if plan.protocol.verdict is not our_verdict:
    return {}
  found = {
    suite: find_domain(name).verdict for suite, name in plan.domains.items()
  }
  return {suite: name for suite, name in found.items() if name != "answer"}


def question(model: ReadyModel, plan: Plan, problem: Problem) -> Question:
  """Returns a problem as the model sees it.

  Raises:
    ValueError: the protocol needs a chat template and the model has none.
  """
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
  return Question(
    problem, encode_prompt(run.tokenizer, run.template, trajectory, task)
  )


def _answer_in_one_go(
  model: ReadyModel, plan: Plan, decoding: Decoding, journal: Journal | None
) -> None:
  rows, slots = rows_and_slots(
    plan.answers_per_batch, len(plan.problems), decoding.samples
  )

  def make_stream(longest: int):
    return model.stream(
      rows=rows,
      slots=slots,
      key=model.key(plan.seed, decoding.name),
      trunk_width=longest,
    )

  answer_questions(
    make_stream,
    [question(model, plan, problem) for problem in plan.problems],
    decoding,
    max_new_tokens=plan.protocol.max_new_tokens,
    journal=journal,
    judge=judge_of(plan),
    tokenizer=model.run.tokenizer,
  )


def _answer_by_turns(
  model: ReadyModel, plan: Plan, decoding: Decoding, journal: Journal | None
) -> None:
  protocol, run = plan.protocol, model.run
  answers = len(plan.problems) * decoding.samples
  answer_by_turns(
    lambda: model.stream(
      rows=min(plan.answers_per_batch, answers),
      slots=1,
      key=model.key(plan.seed, decoding.name),
      task="step",
      # With room for actions, so that the trunks need not grow soon.
      trunk_width=min(2 * plan.longest_tokens, model.max_positions),
    ),
    plan.problems,
    [
      problem.trajectory(plan.domains[problem.suite])
      for problem in plan.problems
    ],
    decoding,
    rules=EpisodeRules(
      task="step",
      turns=protocol.max_turns,
      context_turns=plan.context_turns,
      max_positions=model.max_positions,
      request=functools.partial(
        Request,
        max_new_tokens=protocol.max_new_tokens,
        temperature=decoding.temperature,
        top_k=decoding.top_k,
        top_p=decoding.top_p,
      ),
      template=run.template,
      tokenizer=run.tokenizer,
      is_elastic=True,
      has_verdicts=False,
    ),
    journal=journal,
    judge=judge_of(plan),
  )
