# SPDX-License-Identifier: Apache-2.0
"""An expert trajectory: a problem and the steps to its solution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


class RecordError(ValueError):
  """One record cannot be used; `field` names the place, the text the cure."""

  def __init__(self, field: str, problem: str):
    super().__init__(f"field {field!r}: {problem}")
    self.field = field
    self.problem = problem


def check_characters(text: str, path: str) -> None:
  """Raises RecordError if a text holds half a surrogate pair."""
  try:
    text.encode("utf-8")
  except UnicodeEncodeError as error:
    raise RecordError(
      path,
      f"has half a surrogate pair at character {error.start}, which no"
      " tokenizer can read; repair or remove it",
    ) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
  """One action of the expert.

  Attributes:
    text: the action itself, without number and title.
    title: a short imperative name of the step; None if it has none.
    observation: what the environment answered to the action; "" if it
      answered nothing, None if there is no environment.
    thought: the expert's inner monologue before the action; None if unknown.
    is_target: whether models learn the step; otherwise it is only shown in the
      context of later ones.
  """

  text: str
  title: str | None = None
  observation: str | None = None
  thought: str | None = None
  is_target: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Trajectory:
  """A problem and the expert's steps to its solution (paper section 3).

  Attributes:
    id: name that is unique in its dataset; the random numbers of the
      trajectory's samples derive from it.
    domain: name of the field of problems; see srl_jax.domains.
    problem: the question as the user would ask it.
    steps: the expert's actions, in order; never empty.
    answer: the reference answer, for answer rewards and evaluation.
    metadata: other facts worth keeping; never shown to a model.
  """

  id: str
  domain: str
  problem: str
  steps: tuple[Step, ...]
  answer: str | None = None
  metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not self.id:
      raise RecordError("id", "is empty; give every trajectory its own name")
    if not self.problem.strip():
      raise RecordError("problem", "is empty; write the question there")
    if not self.steps:
      raise RecordError("steps", "is empty; at least one step is needed")
    for number, step in enumerate(self.steps):
      if not (step.text.strip() or (step.title or "").strip()):
        raise RecordError(
          f"steps[{number}].text", "is empty and so is the title; remove it"
        )
