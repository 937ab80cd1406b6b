# SPDX-License-Identifier: Apache-2.0
"""Has a model answer the prompts for files and for edits, into journals."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from srl_jax import progress, sharding
from srl_jax.domains.software import edits, patches, swebench
from srl_jax.domains.software.swebench import Instance
from srl_jax.domains.suite import Problem
from srl_jax.evaluate import evaluator
from srl_jax.evaluate.answering import Question, answer_questions
from srl_jax.evaluate.journal import FACTS, Journal
from srl_jax.evaluate.judges import JudgeFunction
from srl_jax.evaluate.protocols import Decoding
from srl_jax.evaluate.records import Answer
from srl_jax.evaluate.solve import rows_and_slots
from srl_jax.inference import ReadyModel
from srl_jax.rewards import format
from srl_jax.rollout.stream import Stream
from srl_jax.swebench import prompts
from srl_jax.swebench.prompts import PROTOCOLS, Place, Prompt, Task

# What words the prompts and judges the answers.
_RULES = [
  pathlib.Path(module.__file__)
  for module in (swebench, edits, patches, prompts, format)
]


def check_folder(model: ReadyModel, task: Task, out: pathlib.Path) -> None:
  """Refuses, before anything is sampled, a folder that holds something else.

  Raises:
    ValueError: it holds an evaluation on other suites, or by other rules.
  """
  if jax.process_index() != 0:
    return
  if (out / FACTS).exists():
    raise ValueError(
      f"{out} holds an evaluation of srl_jax evaluate, whose tables "
      "would be overwritten; give this one a folder of its own"
    )
  with Journal(out / "edits", facts(model, task), _problems(task.instances)):
    pass


def prompts_for_edits(
  model: ReadyModel, task: Task, out: pathlib.Path
) -> dict[str, dict[Place, Prompt]]:
  """Returns the prompts for edits, by instance and sample.

  End to end the model is first asked for the files. What keeps instances from
  being asked is said; all processes take part.

  Args:
    model: the model.
    task: the task.
    out: folder of the answers which name files.

  Raises:
    ValueError: no instance can be asked.
  """
  if not task.is_end_to_end:
    found = prompts.oracle_prompts(model, task)
    firsts = [(name, next(iter(x.values()))) for name, x in found.items()]
    _check_some(task, firsts)
    _say_memory(model, task, firsts)
    return found
  asked = prompts.files_prompts(model, task)
  _check_some(task, list(asked.items()))
  _say_memory(model, task, list(asked.items()))
  answers = ask_for_files(model, task, asked, out)
  found = prompts.named_prompts(model, task, asked, answers)
  places = [
    (f"{name}, {decoding} answer {sample}", prompt)
    for name, of_name in found.items()
    if not asked[name].refusal
    for (decoding, sample), prompt in of_name.items()
  ]
  for line in _refusals(task, places, "answers", "asked for edits"):
    progress.warn(line)
  _say_memory(model, task, places)
  return found


def _check_some(task: Task, asked: Sequence[tuple[str, Prompt]]) -> None:
  """Says which instances cannot be asked, and why.

  Raises:
    ValueError: none can.
  """
  lines = _refusals(task, asked, "instances", "asked")
  if all(prompt.refusal for _, prompt in asked):
    raise ValueError("\n".join(lines))
  for line in lines:
    progress.warn(line)


def _refusals(
  task: Task, asked: Sequence[tuple[str, Prompt]], what: str, how: str
) -> list[str]:
  """Returns lines about prompts that are not put, or leave little room.

  Args:
    task: the task.
    asked: names and prompts.
    what: what the names are of.
    how: what they are not.
  """
  refused: dict[str, list[str]] = {}
  for name, prompt in asked:
    if prompt.refusal:
      refused.setdefault(prompt.refusal, []).append(f"{name}: {prompt.said}")
  lines = [
    f"{len(said)} of {len(asked)} {what} are not {how} ({kind}), and have no "
    f"patch: {said[0]}"
    for kind, said in refused.items()
  ]
  limit = task.plan.protocol.max_new_tokens
  short = sum(0 < prompt.max_new_tokens < limit for _, prompt in asked)
  if short:
    lines.append(
      f"the context leaves {short} of {len(asked)} {what} less than {limit} "
      "tokens for an answer"
    )
  return lines


def _say_memory(
  model: ReadyModel, task: Task, asked: Sequence[tuple[str, Prompt]]
) -> None:
  """Says what the keys and values of a batch take at most."""
  longest = max(len(prompt.tokens) for _, prompt in asked)
  if not longest:
    return
  plan = dataclasses.replace(task.plan, longest_tokens=longest)
  size = evaluator.most_bytes(model, plan)
  progress.say(
    f"memory: {model.param_bytes() / 1e9:.1f} GB for the model, and up to "
    f"{size / 1e9:.1f} GB for {plan.answers_per_batch} answers at once to "
    f"prompts of up to {longest} tokens (--answers_per_batch, "
    "--max_file_tokens)"
  )


def ask_for_files(
  model: ReadyModel,
  task: Task,
  asked: Mapping[str, Prompt],
  out: pathlib.Path,
) -> list[Answer]:
  """Asks which files the issues are about; all processes take part.

  Args:
    model: the model.
    task: the task.
    asked: the prompts by instance.
    out: folder of the answers.

  Returns:
    All answers, in every process.
  """
  questions = [
    Question(
      instance,
      asked[instance.id].tokens,
      max_new_tokens=asked[instance.id].max_new_tokens,
    )
    for instance in task.instances
    if not asked[instance.id].refusal
  ]
  by_decoding = dict.fromkeys(task.plan.protocol.decodings, questions)
  judge = functools.partial(swebench.judge_files, clones=task.clones)
  return _answered(model, task, by_decoding, judge, out)


def ask_for_edits(
  model: ReadyModel,
  task: Task,
  asked: Mapping[str, Mapping[Place, Prompt]],
  out: pathlib.Path,
) -> list[Answer]:
  """Asks for edits; all processes take part.

  Args:
    model: the model.
    task: the task.
    asked: the prompts by instance and sample.
    out: folder of the answers.

  Returns:
    All answers, in every process.
  """
  questions = {
    decoding: [
      question
      for instance in task.instances
      for question in _edit_questions(
        instance, asked[instance.id], decoding.name
      )
    ]
    for decoding in task.plan.protocol.decodings
  }
  verdict = task.plan.protocol.verdict
  judge = functools.partial(verdict, clones=task.clones)
  return _answered(model, task, questions, judge, out)


def _edit_questions(
  instance: Instance, asked: Mapping[Place, Prompt], decoding: str
) -> list[Question]:
  """Returns a question for each different prompt of a decoding's samples."""
  samples: dict[tuple[str, ...], list[int]] = {}
  by_files: dict[tuple[str, ...], Prompt] = {}
  for (name, sample), prompt in asked.items():
    if name == decoding and not prompt.refusal:
      samples.setdefault(prompt.shown, []).append(sample)
      by_files[prompt.shown] = prompt
  return [
    Question(
      dataclasses.replace(instance, files=files),
      prompt.tokens,
      max_new_tokens=prompt.max_new_tokens,
      samples=tuple(samples[files]),
    )
    for files, prompt in by_files.items()
  ]


def _answered(
  model: ReadyModel,
  task: Task,
  questions: Mapping[Decoding, Sequence[Question]],
  judge: JudgeFunction,
  out: pathlib.Path,
) -> list[Answer]:
  """Has questions answered into a journal; returns all that it holds."""
  plan = task.plan
  with contextlib.ExitStack() as stack:
    stack.enter_context(evaluator.memory_errors(plan.answers_per_batch))
    journal = None
    if jax.process_index() == 0:
      journal = stack.enter_context(
        Journal(out, facts(model, task), _problems(task.instances))
      )
      if journal.answers:
        progress.say(f"going on after {len(journal.answers)} answers in {out}")
    for decoding in plan.protocol.decodings:
      answer_questions(
        _stream_maker(model, plan, decoding, questions[decoding], out.name),
        questions[decoding],
        decoding,
        max_new_tokens=plan.protocol.max_new_tokens,
        journal=journal,
        judge=judge,
        tokenizer=model.run.tokenizer,
      )
    found = list(journal.answers) if journal else []
  return sharding.gather_objects(found)[0]


def _stream_maker(
  model: ReadyModel,
  plan: evaluator.Plan,
  decoding: Decoding,
  questions: Sequence[Question],
  purpose: str,
) -> Callable[[int], Stream]:
  """Returns a function (longest prompt in tokens) -> stream."""
  # Slots of a row are for samples that share its prompt.
  most = max((len(x.samples) for x in questions), default=0)
  rows, slots = rows_and_slots(
    plan.answers_per_batch, max(len(questions), 1), most or decoding.samples
  )
  key = model.key(plan.seed, f"{purpose} {decoding.name}")
  return lambda width: model.stream(
    rows=rows, slots=slots, key=key, trunk_width=width
  )


def facts(model: ReadyModel, task: Task) -> dict[str, Any]:
  """Returns what the answers depend on, as JSON."""
  found = evaluator.facts(
    model,
    task.plan,
    PROTOCOLS[task.plan.protocol.name],
    # The template is in it; all other words are in the rules.
    prompts=[prompts.encoded(model, "Issue")],
    files=_RULES,
  )
  found["max_file_tokens"] = task.max_file_tokens
  if task.found_files is not None:
    files = {name: list(x) for name, x in task.found_files.items()}
    found["found_files"] = files
  return found


def _problems(instances: Iterable[Instance]) -> list[Problem]:
  """Returns instances as what journals hold."""
  names = [field.name for field in dataclasses.fields(Problem)]
  return [Problem(*(getattr(x, name) for name in names)) for x in instances]
