# SPDX-License-Identifier: Apache-2.0
"""How a trajectory is worded for a model: segments of text and control tokens.

A trunk is `problem` followed by one `step` segment per expert step; a branch
begins with a `stem` and goes on with what the model writes. Segments are
tokenised one by one (`encode_segment`), so that the tokens of a shorter prompt
are a prefix of those of a longer one. Nothing here knows lengths or ids.

So that a prompt has the ids that it would have in one piece, no segment begins
with white space, and each ends in a line break, or before or after a control
token: byte-level BPE (Qwen, Llama 3) never merges across the end of a run of
line breaks. `prompts.py` counts how often that holds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable
from typing import Literal, Protocol, get_args

from srl_jax.data.chat import ChatFormat
from srl_jax.domains import Domain, domain_of
from srl_jax.domains.general import GENERAL
from srl_jax.tokenizers import (
  Tokenizer,
  TokenizerFolder,
  split_control,
  stop_names,
)
from srl_jax.trajectory import Step, Trajectory

# "plain": for small models from scratch. "chat": the checkpoint's own chat
# template. "chatml": ChatML, for a tokenizer that has its control tokens but no
# template. "text": no roles, for base models.
Name = Literal["plain", "chatml", "chat", "text"]
NAMES: tuple[Name, ...] = get_args(Name)

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

  def end(self) -> Segment:
    """What closes an expert target; the first of `stop` is at its end."""

  def stop(self, task: Task) -> tuple[str, ...]:
    """Control tokens that end a branch; expert targets end in the first."""

  def whole(self, trajectory: Trajectory, task: Task, prompt: str) -> str:
    """A prompt, worded anew in one piece from the user's text in it."""


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

  def end(self) -> Segment:
    return (Special("</s>"),)

  def stop(self, task: Task) -> tuple[str, ...]:
    del task
    return ("</s>",)

  def whole(self, trajectory: Trajectory, task: Task, prompt: str) -> str:
    del trajectory, task
    return prompt


class ChatTemplate:
  """Problem and partial solution make up the user's turn of a chat."""

  def __init__(
    self, chat: ChatFormat, control: Collection[str], stops: Iterable[str] = ()
  ):
    """Cuts the format.

    Args:
      chat: what stands around the texts.
      control: names of control tokens; elsewhere than in a user's text they
        are control.
      stops: control tokens that end a branch, besides the format's own.

    Raises:
      ValueError: the format cannot be cut.
    """
    self._chat, self._control = chat, control
    # What stands before the user's text, by system prompt.
    self._heads: dict[str, str] = {}
    _, self._tail = chat.cut(GENERAL.step_prompt)
    # Another prompt shows whether the tail is the same for all.
    self._head(GENERAL.solve_prompt)
    if self._tail.rfind("<think>") > self._tail.rfind("</think>"):
      raise chat.error(
        "opens the think block itself (it ends in <think>), which the model "
        "has to do for its thought to be seen"
      )
    self._end = self._turn_end()
    self._stops = tuple(dict.fromkeys([self._end[-1].name, *stops]))

  def _turn_end(self) -> Segment:
    parts = self._segment(self._chat.ending())
    for i, part in enumerate(parts):
      if isinstance(part, Special):
        return parts[: i + 1]
    name = self._chat.special_tokens.get("eos_token")
    if name not in self._control:
      raise self._chat.error(
        "ends the assistant's turn without a control token, and there is no "
        "eos_token in tokenizer_config.json"
      )
    return (Special(name),)

  def _segment(self, text: str) -> Segment:
    return to_segment(text, self._control)

  def _head(self, system: str) -> str:
    if system not in self._heads:
      self._heads[system], tail = self._chat.cut(system)
      if tail != self._tail:
        raise self._chat.error(
          "writes the system message after the user's text"
        )
    return self._heads[system]

  def problem(self, trajectory: Trajectory, task: Task) -> Segment:
    domain = domain_of(trajectory)
    text = f"Problem:\n{trajectory.problem.strip()}\n\n"
    if task == "step":
      text += f"{domain.steps_heading}\n\n"
    head = self._head(system_prompt(domain, task))
    return (*self._segment(head), text)

  def step(self, step: Step, number: int) -> Segment:
    text = self.action(step, number)
    if step.observation is not None:
      text += f"\n\nObservation:\n{step.observation.strip()}"
    return (text + "\n\n",)

  def stem(self, task: Task, number: int, title: str | None = None) -> Segment:
    # Words come last, for many formats trim white space off the user's text.
    if task == "solve":
      words = "Write the solution."
    elif title is None:
      words = "Write the next step."
    else:
      words = f"Next step: {number}. **{title}**"
    return (words, *self._segment(self._tail))

  def action(self, step: Step, number: int, hinted: bool = False) -> str:
    return titled_action(step, number, hinted)

  def end(self) -> Segment:
    return self._end

  def stop(self, task: Task) -> tuple[str, ...]:
    del task
    return self._stops

  def whole(self, trajectory: Trajectory, task: Task, prompt: str) -> str:
    system = system_prompt(domain_of(trajectory), task)
    end = len(prompt) - len(self._tail)
    return self._chat.prompt(system, prompt[len(self._head(system)) : end])


_CHATML = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content"
  " + '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CHATML_CONTROL = ("<|im_start|>", "<|im_end|>")
_TEXT = (
  "{{ bos_token }}{% for m in messages %}{{ m.content + {'system': '\n\n',"
  " 'user': '\n', 'assistant': ''}[m.role] }}{% endfor %}"
)


def make_template(
  name: Name, tokenizer: Tokenizer, checkpoint: TokenizerFolder | None = None
) -> Template:
  """Returns the wording of a name.

  Args:
    name: see Name.
    tokenizer: knows the control tokens.
    checkpoint: what the tokenizer belongs to; "chat" and "text" need one.

  Raises:
    ValueError: the checkpoint has no template, or one that cannot be cut.
  """
  if name == "plain":
    return PlainTemplate()
  stops = stop_names(checkpoint, tokenizer) if checkpoint else ()
  if name == "chatml":
    if "<|endoftext|>" in tokenizer.control_names:
      stops = ("<|endoftext|>", *stops)
    chat = ChatFormat(_CHATML, {}, "chatml")
    return ChatTemplate(chat, _CHATML_CONTROL, stops)
  if checkpoint is None:
    raise ValueError(
      f"c.template={name!r} is for the tokenizer of a checkpoint; set "
      "c.tokenizer.kind='huggingface' and c.tokenizer.path to its folder, or "
      "c.template to 'plain' (small models from scratch) or 'chatml'"
    )
  special_tokens = dict(checkpoint.special_tokens)
  source = checkpoint.chat_template
  if name == "text":
    source, special_tokens["bos_token"] = _TEXT, checkpoint.first_token()
  if source is None:
    raise ValueError(
      f"{checkpoint.folder} has no chat template (chat_template in "
      "tokenizer_config.json, or chat_template.jinja), as base models have "
      "none; set c.template='text'"
    )
  chat = ChatFormat(source, special_tokens, str(checkpoint.folder))
  return ChatTemplate(chat, tokenizer.control_names, stops)


def system_prompt(domain: Domain, task: Task) -> str:
  """Returns the system prompt of a task."""
  return domain.step_prompt if task == "step" else domain.solve_prompt


def to_segment(text: str, control: Collection[str]) -> Segment:
  """Splits a rendered prompt; each control token's name is one."""
  parts = enumerate(split_control(text, control))
  return tuple(Special(part) if i % 2 else part for i, part in parts if part)


def encode_segment(tokenizer, segment: Segment) -> list[int]:
  """Token ids of a segment; texts that touch are one text.

  Raises ValueError for an unknown control token.
  """
  tokens: list[int] = []
  for kind, parts in itertools.groupby(segment, type):
    if kind is Special:
      tokens.extend(tokenizer.special_id(part.name) for part in parts)
    else:
      tokens.extend(tokenizer.encode("".join(parts)))
  return tokens
