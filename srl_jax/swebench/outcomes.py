# SPDX-License-Identifier: Apache-2.0
"""What became of each sample of each instance, and which patch most gave."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from srl_jax import progress
from srl_jax.domains.software import patches, swebench
from srl_jax.domains.software.swebench import Instance
from srl_jax.evaluate.records import Answer
from srl_jax.swebench.prompts import Place, Prompt, Task, places

NO_EDIT = "no edit in the answer"
NO_CHANGE = "no edit has an effect"
MAJORITY = "majority"


class SampleOutcome(NamedTuple):
  """What became of a sample.

  Attributes:
    instance: id of the instance.
    decoding: "greedy" or "sampled"; MAJORITY if most samples chose it.
    sample: index of the sample.
    patch: the patch; "" if there is none.
    without: why there is no patch; "" if there is one.
    is_asked: whether the model was asked for edits.
    found: files that were to be shown.
    left_out: why some of these were not, by path.
    failures: for each edit "", or why it had no effect.
    changed: the files that the patch changes.
    is_gold: whether the patch makes the gold patch's change.
    is_stopped: whether the model ended its answer.
    tokens: length of the answer in tokens.
    key: what patches share that are the same; () casts no vote.
  """

  instance: str
  decoding: str
  sample: int
  patch: str = ""
  without: str = ""
  is_asked: bool = False
  found: tuple[str, ...] = ()
  left_out: tuple[tuple[str, str], ...] = ()
  failures: tuple[str, ...] = ()
  changed: tuple[str, ...] = ()
  is_gold: bool = False
  is_stopped: bool = False
  tokens: int = 0
  key: tuple[tuple[str, str], ...] = ()

  def json(self) -> dict[str, Any]:
    """Returns what a file says of it; the patch stands elsewhere."""
    return {
      "instance_id": self.instance,
      "decoding": self.decoding,
      "sample": self.sample,
      "without_patch": self.without,
      "found_files": list(self.found),
      "left_out": dict(self.left_out),
      "edits": list(self.failures),
      "changed_files": list(self.changed),
      "is_gold_change": self.is_gold,
      "is_stopped": self.is_stopped,
      "tokens": self.tokens,
    }


def outcomes(
  task: Task,
  prompts: Mapping[str, Mapping[Place, Prompt]],
  answers: Iterable[Answer],
) -> dict[str, list[list[SampleOutcome]]]:
  """Returns what became of all samples.

  Args:
    task: the task.
    prompts: the prompts for edits, by instance and sample.
    answers: the answers to them.

  Returns:
    For "greedy" and "sampled", if there are such, a row for each instance with
    its samples in order; and of several samples MAJORITY, with rows of one.
  """
  by_sample = {(a.problem, (a.decoding, a.sample)): a for a in answers}
  names = [decoding.name for decoding in task.plan.protocol.decodings]
  found: dict[str, list[list[SampleOutcome]]] = {name: [] for name in names}
  count = len(task.instances)
  with progress.task("reading the edits", total=count):
    for number, instance in enumerate(task.instances, 1):
      rows: dict[str, list[SampleOutcome]] = {name: [] for name in names}
      for place in places(task.plan.protocol):
        prompt = prompts[instance.id][place]
        answer = by_sample.get((instance.id, place))
        outcome = _outcome(task, instance, place, prompt, answer)
        rows[place[0]].append(outcome)
      for name, row in rows.items():
        found[name].append(row)
      progress.advance(number, count)
  if len(found.get("sampled", [[]])[0]) > 1:
    found[MAJORITY] = [[majority(row)] for row in found["sampled"]]
  return found


def _outcome(
  task: Task,
  instance: Instance,
  place: Place,
  prompt: Prompt,
  answer: Answer | None,
) -> SampleOutcome:
  decoding, sample = place
  known = SampleOutcome(
    instance.id,
    decoding,
    sample,
    without=prompt.refusal,
    found=prompt.found,
    left_out=prompt.left_out,
  )
  if prompt.refusal:
    return known
  assert answer is not None, f"{instance.id} has no answer {place}"
  made = swebench.attempt(
    answer.text, _with_files(instance, prompt.shown), task.clones
  )
  is_patch = answer.final != ""
  is_voter = is_patch and decoding == "sampled"
  return known._replace(
    patch=answer.final,
    without="" if is_patch else _why_none(made),
    is_asked=True,
    failures=made.failures,
    changed=tuple(sorted(made.new)) if is_patch else (),
    is_gold=answer.is_correct,
    is_stopped=answer.is_stopped,
    tokens=answer.tokens,
    key=patches.code_key(made.old, made.new) if is_voter else (),
  )


def _with_files(instance: Instance, files: tuple[str, ...]) -> Instance:
  return dataclasses.replace(instance, files=files)


def _why_none(made: swebench.Attempt) -> str:
  if not made.failures:
    return NO_EDIT
  return made.objection or NO_CHANGE


def majority(row: Sequence[SampleOutcome]) -> SampleOutcome:
  """Returns the first sample whose patch most samples have.

  Patches are the same if their code is (`patches.code_key`). One that changes
  no code casts no vote. Of patches with as many votes the first wins. If nobody
  votes, there is no patch.
  """
  votes = collections.Counter(x.key for x in row if x.key)
  if not votes:
    return SampleOutcome(
      row[0].instance, MAJORITY, 0, without="no sample has a patch of code"
    )
  most = max(votes.values())
  first = next(x for x in row if votes[x.key] == most)
  return first._replace(decoding=MAJORITY)
