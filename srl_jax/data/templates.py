# SPDX-License-Identifier: Apache-2.0
"""How a trajectory is worded for a model: segments of text and control tokens.

A trunk is `problem` followed by one `step` segment per expert step; a branch
begins with a `stem` and goes on with what the model writes. Segments are
tokenised one by one (`encode_segment`), so that the tokens of a shorter prompt
are a prefix of those of a longer one. Nothing here knows lengths or ids.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

from srl_jax.data.schema import Step, Trajectory

# "step": the next step only (SRL). "solve": the whole solution in one go
# (RLVR, SFT on trajectories, one-go evaluation).
Task = Literal["step", "solve"]


@dataclasses.dataclass(frozen=True, slots=True)
class Special:
  """A control token such as <|im_end|>; plain text never produces it."""

  name: str


Segment = tuple[str | Special, ...]


class Template(Protocol):
  """The wording of one family of models."""

  def problem(self, trajectory: Trajectory, task: Task) -> Segment:
    """Head of the trunk: everything that comes before the first step."""

  def step(self, step: Step, number: int) -> Segment:
    """One more segment of the trunk; `number` counts from 1."""

  def stem(self, task: Task, number: int, title: str | None = None) -> Segment:
    """Given tokens at the head of a branch; with `title`, the title hint."""

  def action(self, step: Step, number: int, hinted: bool = False) -> str:
    """The expert's step as the model should write it and as it is compared.

    hinted: the title was given (paper, footnote 1), so it is left out.
    """

  def stop(self, task: Task) -> tuple[str, ...]:
    """Control tokens that end a branch; expert targets end in the first."""


def titled_action(step: Step, number: int, hinted: bool = False) -> str:
  """Returns number, bold title and text, or the text alone if untitled."""
  text = step.text.strip()
  if hinted or step.title is None:
    return text
  return f"{number}. **{step.title}**\n{text}".rstrip()


@dataclasses.dataclass(frozen=True)
class PlainTemplate:
  """No roles and no instructions: for small models trained from scratch."""

  def problem(self, trajectory: Trajectory, task: Task) -> Segment:
    del task  # The stem tells the tasks apart, so they share their trunks.
    return (trajectory.problem.strip() + "\n",)

  def step(self, step: Step, number: int) -> Segment:
    observation = step.observation
    answer = "" if observation is None else observation.strip() + "\n"
    return (self.action(step, number) + "\n" + answer,)

  def stem(self, task: Task, number: int, title: str | None = None) -> Segment:
    if title is None:
      return (Special(f"<{task}>"),)
    return (f"{number}. **{title}**\n", Special(f"<{task}>"))

  def action(self, step: Step, number: int, hinted: bool = False) -> str:
    return titled_action(step, number, hinted)

  def stop(self, task: Task) -> tuple[str, ...]:
    del task
    return ("</s>",)


_SUBJECT = {
  "math": "mathematics problems",
  "science": "science problems",
  "software": "software engineering issues in a code repository",
}
_STEP_PROMPT = (
  "You are a helpful assistant for {subject}. The user gives you a problem"
  " and the part of its solution that exists so far, which may be empty. Write"
  " the very next step of that solution and nothing after it; do not finish"
  " the whole solution.\nFirst think it through between <think> and </think>:"
  " an informal inner monologue, as long as you need, in which you may explore"
  " and correct yourself. After </think> write that one step in the style of"
  " the steps before it."
)
_AGENT_STEP_PROMPT = (
  "You are a helpful assistant for {subject}. The user gives you an issue and"
  " the most recent actions taken to resolve it, each with what the environment"
  " answered. Choose the very next action, and that one only.\nFirst think it"
  " through between <think> and </think>: an informal inner monologue, as long"
  " as you need. After </think> write exactly one executable action in the form"
  " of the actions before it."
)
_SOLVE_PROMPT = (
  "You are a helpful assistant for {subject}. Reason step by step and give the"
  " final answer in \\boxed{{}}. Scratch work may stand between <think> and"
  " </think> anywhere in your solution."
)
_AGENT_SOLVE_PROMPT = (
  "You are a helpful assistant for {subject}. Resolve the issue that the user"
  " gives you. Scratch work may stand between <think> and </think>."
)


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """ChatML (Qwen): problem and partial solution make up the user's turn."""

  def problem(self, trajectory: Trajectory, task: Task) -> Segment:
    problem = f"Problem:\n{trajectory.problem.strip()}\n"
    if task == "step":
      agent = trajectory.domain == "software"
      problem += "\nRecent actions:\n" if agent else "\nSolution so far:\n"
    return (
      Special("<|im_start|>"),
      "system\n" + system_prompt(trajectory.domain, task),
      Special("<|im_end|>"),
      "\n",
      Special("<|im_start|>"),
      "user\n" + problem,
    )

  def step(self, step: Step, number: int) -> Segment:
    text = self.action(step, number) + "\n"
    if step.observation is not None:
      text += f"\nObservation:\n{step.observation.strip()}\n"
    return (text + "\n",)

  def stem(self, task: Task, number: int, title: str | None = None) -> Segment:
    hint = () if title is None else (f"Next step: {number}. **{title}**\n",)
    return (
      *hint,
      Special("<|im_end|>"),
      "\n",
      Special("<|im_start|>"),
      "assistant\n",
    )

  def action(self, step: Step, number: int, hinted: bool = False) -> str:
    return titled_action(step, number, hinted)

  def stop(self, task: Task) -> tuple[str, ...]:
    del task
    return ("<|im_end|>", "<|endoftext|>")


TEMPLATES: dict[str, Template] = {
  "plain": PlainTemplate(),
  "chat": ChatTemplate(),
}


def system_prompt(domain: str, task: Task) -> str:
  """Returns the system prompt; an unknown domain gets the general wording."""
  agent = domain == "software"
  if task == "step":
    prompt = _AGENT_STEP_PROMPT if agent else _STEP_PROMPT
  else:
    prompt = _AGENT_SOLVE_PROMPT if agent else _SOLVE_PROMPT
  return prompt.format(subject=_SUBJECT.get(domain, "reasoning problems"))


def encode_segment(tokenizer, segment: Segment) -> list[int]:
  """Token ids of a segment; raises ValueError for an unknown control token."""
  tokens: list[int] = []
  for part in segment:
    if isinstance(part, Special):
      tokens.append(tokenizer.special_id(part.name))
    else:
      tokens.extend(tokenizer.encode(part))
  return tokens
