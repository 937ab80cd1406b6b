# SPDX-License-Identifier: Apache-2.0
"""Prompts of the two protocols, as token ids that fit the model.

The words are those of domains/software/swebench.py. Whatever keeps an instance
from being asked is named, and counts as an answer without a patch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from srl_jax import progress
from srl_jax.data.messages import encode_messages
from srl_jax.data.templates import encode_prompt
from srl_jax.domains.software import swebench
from srl_jax.domains.software.repositories import CloneError, Clones
from srl_jax.domains.software.swebench import Files, Instance
from srl_jax.domains.suite import Problem
from srl_jax.evaluate import evaluator
from srl_jax.evaluate.protocols import Decoding, Protocol
from srl_jax.evaluate.records import Answer
from srl_jax.inference import ReadyModel
from srl_jax.tokenizers import UnspellableError

_ORACLE = Protocol(
  name="oracle",
  source="SRL (arXiv 2510.25992), oracle file edit, as agentless-mini of "
  "SWE-RL (arXiv 2502.18449) does it: greedy",
  mode="solve",
  decodings=(Decoding("greedy"),),
  max_new_tokens=4096,
  verdict=swebench.judge_edits,
  notes=(
    "The prompt holds the Python files that the gold patch changes.",
    "The words of the prompts are our own.",
    "Whether a patch resolves its issue takes the tests, which the official "
    "harness runs (--harness).",
  ),
)
_END_TO_END = dataclasses.replace(
  _ORACLE,
  name="end-to-end",
  source="SRL (arXiv 2510.25992), end to end, as agentless-mini of "
  "SWE-RL (arXiv 2502.18449) does it: greedy",
  notes=(
    f"The model first names up to {swebench.MOST_FILES} files. Each sample "
    "then edits those that it has named.",
    *_ORACLE.notes[1:],
  ),
)
PROTOCOLS = {x.name: x for x in (_ORACLE, _END_TO_END)}


@dataclasses.dataclass(frozen=True)
class Task:
  """What is asked of a model, and where the repositories are.

  Attributes:
    plan: instances, protocol, seed and batch.
    clones: the clones.
    max_file_tokens: most tokens of files in a prompt; files that would go
      beyond are left out. A first file that is longer is shown alone.
    found_files: files to show, by instance, instead of the gold patch's.
  """

  plan: evaluator.Plan
  clones: Clones
  max_file_tokens: int = 60_000
  found_files: Mapping[str, Sequence[str]] | None = None

  @property
  def instances(self) -> Sequence[Instance]:
    """The instances."""
    return self.plan.problems

  @property
  def is_end_to_end(self) -> bool:
    """Whether the model names the files."""
    return self.plan.protocol.name == _END_TO_END.name


class Prompt(NamedTuple):
  """A prompt, or why there is none.

  Attributes:
    refusal: why the question is not put; "" if it is.
    said: the same at length, with what to do.
    tokens: int32 token ids.
    max_new_tokens: limit of the answer.
    found: the files to show, the most important first.
    shown: those of them that it shows, and that an answer may edit.
    left_out: why it does not show the others, by path.
  """

  refusal: str = ""
  said: str = ""
  tokens: np.ndarray = np.zeros(0, np.int32)
  max_new_tokens: int = 0
  found: tuple[str, ...] = ()
  shown: tuple[str, ...] = ()
  left_out: tuple[tuple[str, str], ...] = ()


# The (decoding, sample) pairs of an instance.
Place = tuple[str, int]


def places(protocol: Protocol) -> list[Place]:
  """Returns the samples of an instance, greedy ones first."""
  return [(d.name, i) for d in protocol.decodings for i in range(d.samples)]


def files_prompt(model: ReadyModel, task: Task, instance: Instance) -> Prompt:
  """Returns the prompt that asks which files an issue is about."""
  with _refusals() as refused:
    tree = swebench.tree_of(task.clones, instance)
    if not swebench.source_files(instance, tree):
      return Prompt("no Python file", "the repository has no Python file")
    return _fitted(model, task, swebench.files_prompt(instance, tree))
  return refused[0]


def edits_prompt(
  model: ReadyModel, task: Task, instance: Instance, found: Sequence[str]
) -> Prompt:
  """Returns the prompt that asks for edits.

  Args:
    model: the model.
    task: the task.
    instance: the instance.
    found: one or more files to show, the most important first.
  """
  with _refusals() as refused:
    files = swebench.files_of(task.clones, instance, found)
    blocks, left_out = _blocks(model, task, files)
    if blocks:
      text = swebench.edits_prompt(instance, list(blocks.values()))
      prompt = _fitted(model, task, text)
    else:
      said = "; ".join(f"{path}: {why}" for path, why in left_out.items())
      prompt = Prompt("no file can be shown", said)
    return prompt._replace(
      found=tuple(found),
      shown=tuple(blocks),
      left_out=tuple(left_out.items()),
    )
  return refused[0]._replace(found=tuple(found))


@contextlib.contextmanager
def _refusals() -> Iterator[list[Prompt]]:
  """Within, an instance that cannot be asked ends the block.

  Yields:
    A list that then gets the prompt which says so.
  """
  refused: list[Prompt] = []
  try:
    yield refused
  except CloneError as error:
    refused.append(Prompt(error.kind, str(error)))
  except UnspellableError as error:
    refused.append(Prompt("no tokens for its text", str(error)))


def _blocks(
  model: ReadyModel, task: Task, files: Files
) -> tuple[dict[str, str], dict[str, str]]:
  """Returns files as they are shown, and why others are left out, by path."""
  blocks: dict[str, str] = {}
  left_out = dict(files.unreadable)
  room = task.max_file_tokens
  for path, text in files.texts.items():
    block = swebench.file_block(path, text)
    tokens = len(model.run.tokenizer.encode(block))
    if blocks and tokens > room:
      left_out[path] = "over the limit of tokens"
      continue
    blocks[path] = block
    room -= tokens
  return blocks, left_out


def _fitted(model: ReadyModel, task: Task, text: str) -> Prompt:
  """Returns a prompt with as long an answer as the context has room for."""
  tokens = np.array(encoded(model, text), np.int32)
  room = model.max_positions - len(tokens)
  if room < 1:
    return Prompt(
      "prompt too long",
      f"the prompt of {len(tokens)} tokens is too long for a context of "
      f"{model.max_positions}",
    )
  limit = min(room, task.plan.protocol.max_new_tokens)
  return Prompt(tokens=tokens, max_new_tokens=limit)


def encoded(model: ReadyModel, text: str) -> list[int]:
  """Token ids of a prompt; in the template's words if the model cannot chat."""
  run = model.run
  if model.chat is not None:
    message = {"role": "user", "content": text}
    return encode_messages(model.chat, run.tokenizer, [message])
  trajectory = Problem("prompt", text, "-").trajectory("software")
  return encode_prompt(run.tokenizer, run.template, trajectory, "solve")


def oracle_prompts(
  model: ReadyModel, task: Task
) -> dict[str, dict[Place, Prompt]]:
  """Returns the prompts for edits of the files that are known.

  They are those of `task.found_files`, or else those of the gold patch.
  """
  found = {}
  count = len(task.instances)
  with progress.task("reading files for the prompts", total=count):
    for number, instance in enumerate(task.instances, 1):
      prompt = _oracle_prompt(model, task, instance)
      found[instance.id] = dict.fromkeys(places(task.plan.protocol), prompt)
      progress.advance(number, count)
  return found


def _oracle_prompt(model: ReadyModel, task: Task, instance: Instance) -> Prompt:
  files = swebench.gold_files(instance)
  if task.found_files is not None:
    files = task.found_files.get(instance.id, ())
    if not files:
      return Prompt("no files found", "--found_files names no file for it")
  elif not instance.answer.strip():
    return Prompt("no gold patch", "its row has no patch")
  elif not files:
    return Prompt("no gold files", "its patch changes no Python file")
  return edits_prompt(model, task, instance, files)


def files_prompts(model: ReadyModel, task: Task) -> dict[str, Prompt]:
  """Returns the prompts that ask which files the issues are about."""
  found = {}
  count = len(task.instances)
  with progress.task("listing files for the prompts", total=count):
    for number, instance in enumerate(task.instances, 1):
      found[instance.id] = files_prompt(model, task, instance)
      progress.advance(number, count)
  return found


def named_prompts(
  model: ReadyModel,
  task: Task,
  asked: Mapping[str, Prompt],
  answers: Iterable[Answer],
) -> dict[str, dict[Place, Prompt]]:
  """Returns the prompts for edits of the files that the model has named.

  Args:
    model: the model.
    task: the task.
    asked: what `files_prompts` returned.
    answers: the answers to these.
  """
  named: dict[tuple[str, Place], tuple[str, ...]] = {
    (a.problem, (a.decoding, a.sample)): tuple(
      filter(None, a.final.split("\n"))
    )
    for a in answers
  }
  found: dict[str, dict[Place, Prompt]] = {}
  count = len(task.instances)
  with progress.task("reading files for the prompts", total=count):
    for number, instance in enumerate(task.instances, 1):
      refused = asked[instance.id] if asked[instance.id].refusal else None
      make = functools.cache(
        functools.partial(_named_prompt, model, task, instance)
      )
      found[instance.id] = {
        # Samples that have named the same files share a prompt.
        place: refused or make(named[instance.id, place])
        for place in places(task.plan.protocol)
      }
      progress.advance(number, count)
  return found


def _named_prompt(
  model: ReadyModel, task: Task, instance: Instance, files: tuple[str, ...]
) -> Prompt:
  if not files:
    return Prompt("no file named", "no line of the answer is a path")
  return edits_prompt(model, task, instance, files)
