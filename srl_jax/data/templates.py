# SPDX-License-Identifier: Apache-2.0
"""Templates word a trajectory as segments of text and control tokens.

A trunk is a `problem` segment followed by one `step` segment per expert step.
A branch begins with a `stem` segment, after which the model writes. Segments
are tokenised one by one (`encode_segment`), so the tokens of a shorter prompt
are a prefix of those of a longer one.

A prompt should have the token ids that it would have if it were tokenised in
one piece. Therefore segments meet at a line break or next to a control token,
and `seams.py` finds out which of two segments the line breaks belong to.
`prompts.py` counts how often the ids are equal.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable
from typing import ClassVar, Literal, Protocol, get_args

from srl_jax.data.chat import ChatFormat
from srl_jax.data.observations import shortened
from srl_jax.data.seams import first_part
from srl_jax.domains import Domain, domain_of
from srl_jax.domains.general import GENERAL
from srl_jax.rewards import format
from srl_jax.tokenizers import (
  Tokenizer,
  TokenizerFolder,
  split_control,
  stop_names,
)
from srl_jax.trajectory import Step, Trajectory

# "plain" is for small models from scratch. "chat" is the checkpoint's own chat
# template. "chatml" is for a tokenizer with ChatML's control tokens and no
# template. "text" has no roles and is for base models.
Name = Literal["plain", "chatml", "chat", "text"]
NAMES: tuple[Name, ...] = get_args(Name)

# "step" asks for the next step only (SRL). "solve" asks for the whole solution
# in one go (RLVR, SFT on trajectories, evaluation in one go).
Task = Literal["step", "solve"]


@dataclasses.dataclass(frozen=True, slots=True)
class Special:
  """A control token such as <|im_end|>; plain text never produces it."""

  name: str


Segment = tuple[str | Special, ...]


class Template(Protocol):
  """The wording of one family of models.

  Attributes:
    gap: the white space between two steps.
  """

  gap: str

  def problem(self, trajectory: Trajectory, task: Task) -> Segment:
    """Returns the head of the trunk: all that comes before the first step."""

  def heading(self, trajectory: Trajectory) -> Segment:
    """Returns what tells steps from the problem whose solution they begin.

    In single steps, the head of the trunk has it.
    """

  def step(self, step: Step, number: int) -> Segment:
    """Returns a step's segment of the trunk; `number` counts from 1."""

  def stem(self, task: Task, number: int, title: str | None = None) -> Segment:
    """Returns the head of a branch; `title`, if given, is the title hint."""

  def action(self, step: Step, number: int, hinted: bool = False) -> str:
    """Returns the expert's step as the model should write it.

    Rewards compare with this text. With `hinted` the stem gives the title
    (paper, footnote 1), so the action leaves it out.
    """

  def end(self) -> Segment:
    """Returns what closes an expert target; it ends in the first of `stop`."""

  def stop(self, task: Task) -> tuple[str, ...]:
    """Returns the tokens that end a branch; expert targets end in the first."""

  def whole(self, trajectory: Trajectory, task: Task, prompt: str) -> str:
    """Renders a prompt again, in one piece, from the user's text in it."""


def titled_action(step: Step, number: int, hinted: bool = False) -> str:
  """Returns number, bold title and text, or the text alone if untitled."""
  text = step.text.strip()
  if hinted or step.title is None:
    return text
  return f"{number}. **{step.title}**\n{text}".rstrip()


@dataclasses.dataclass(frozen=True)
class PlainTemplate:
  """No roles and no instructions, for small models trained from scratch.

  Attributes:
    shorten: what becomes of an observation before it is shown.
  """

  gap: ClassVar[str] = "\n"

  shorten: Callable[[str], str] = str

  def problem(self, trajectory: Trajectory, task: Task) -> Segment:
    del task  # The stem tells the tasks apart, so both share their trunks.
    return (trajectory.problem.strip() + "\n",)

  def heading(self, trajectory: Trajectory) -> Segment:
    del trajectory
    return ()

  def step(self, step: Step, number: int) -> Segment:
    answer = ""
    if step.observation is not None:
      answer = self.shorten(step.observation.strip()) + "\n"
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
  """A chat template: the user's turn holds the problem and the steps so far."""

  gap: ClassVar[str] = "\n\n"

  def __init__(
    self,
    chat: ChatFormat,
    control: Collection[str],
    stops: Iterable[str] = (),
    cut: int = len(gap),
    shorten: Callable[[str], str] = str,
  ):
    """Cuts the chat format around the user's text.

    Args:
      chat: the format, which gives the text around the user's.
      control: names of control tokens. They are control tokens in the format
        and plain text in the user's text.
      stops: control tokens that end a branch, besides the format's own.
      cut: how many characters of the gap end a segment (seams.py).
      shorten: what becomes of an observation before it is shown.

    Raises:
      ValueError: the format cannot be cut.
    """
    self._chat, self._control, self._shorten = chat, control, shorten
    self._closing, self._opening = self.gap[:cut], self.gap[cut:]
    # System prompt -> the text before the user's text.
    self._heads: dict[str, str] = {}
    chat.leave_thinking_to_the_model()
    _, self._tail = chat.cut(GENERAL.step_prompt)
    # A second system prompt checks that the tail does not depend on it.
    self._head(GENERAL.solve_prompt)
    self._end = self._turn_end()
    self._stops = tuple(dict.fromkeys([self._end[-1].name, *stops]))

  @property
  def chat(self) -> ChatFormat:
    """The chat format, for conversations that are not cut (messages.py)."""
    return self._chat

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
    text = f"Problem:\n{trajectory.problem.strip()}"
    if task == "step":
      text += f"\n\n{domain.steps_heading}"
    head = self._head(system_prompt(domain, task))
    return (*self._segment(head), text + self._closing)

  def heading(self, trajectory: Trajectory) -> Segment:
    text = domain_of(trajectory).steps_heading
    return (self._opening + text + self._closing,)

  def step(self, step: Step, number: int) -> Segment:
    text = self.action(step, number)
    if step.observation is not None:
      observation = self._shorten(step.observation.strip())
      text += f"\n\nObservation:\n{observation}".rstrip()
    return (self._opening + text + self._closing,)

  def stem(self, task: Task, number: int, title: str | None = None) -> Segment:
    # The user's text must end in a word: many formats trim white space off it.
    if task == "solve":
      words = f"Write the {'rest of the ' if number > 1 else ''}solution."
    elif title is None:
      words = "Write the next step."
    else:
      words = f"Next step: {number}. **{title}**"
    return (self._opening + words, *self._segment(self._tail))

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


CHATML = (
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
  name: Name,
  tokenizer: Tokenizer,
  checkpoint: TokenizerFolder | None = None,
  observation_tokens: int = 0,
) -> Template:
  """Returns the template of a name.

  Args:
    name: one of NAMES.
    tokenizer: the tokenizer, which knows the control tokens.
    checkpoint: the tokenizer's folder; "chat" and "text" need one.
    observation_tokens: how many tokens of an observation are shown, of head
      and tail (observations.py); 0 for all.

  Raises:
    ValueError: "chat" or "text" without a checkpoint; a checkpoint without a
      template, or with one that cannot be cut.
  """
  shorten = functools.partial(
    shortened, tokenizer=tokenizer, tokens=observation_tokens
  )
  if name == "plain":
    return PlainTemplate(shorten)
  cut = first_part(tokenizer, ChatTemplate.gap)
  stops = stop_names(checkpoint, tokenizer) if checkpoint else ()
  if name == "chatml":
    if "<|endoftext|>" in tokenizer.control_names:
      stops = ("<|endoftext|>", *stops)
    chat = ChatFormat(CHATML, {}, "chatml")
    control = tokenizer.control_names.union(_CHATML_CONTROL)
    return ChatTemplate(chat, control, stops, cut, shorten)
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
  control = tokenizer.control_names
  origin = str(checkpoint.folder)
  chat = ChatFormat(source, special_tokens, origin, other_names(control))
  return ChatTemplate(chat, control, stops, cut, shorten)


def other_names(control: Collection[str]) -> str:
  """Returns what c.template could be in place of "chat", for messages."""
  has_chatml = set(_CHATML_CONTROL) <= set(control)
  return "'chatml' or 'text'" if has_chatml else "'text'"


def system_prompt(domain: Domain, task: Task) -> str:
  """Returns a domain's system prompt for a task."""
  return domain.step_prompt if task == "step" else domain.solve_prompt


def to_segment(text: str, control: Collection[str]) -> Segment:
  """Splits a rendered prompt at the names of its control tokens."""
  parts = enumerate(split_control(text, control))
  return tuple(Special(part) if i % 2 else part for i, part in parts if part)


def encode_written(tokenizer, text: str) -> list[int]:
  """Returns the token ids of what a model writes, or should write.

  Think tags are control tokens where the model has them as such; other names
  of control tokens are text.
  """
  tags = {format.THINK_OPEN, format.THINK_CLOSE} & tokenizer.control_names
  return encode_segment(tokenizer, to_segment(text, tags))


def encode_prompt(
  tokenizer, template: Template, trajectory: Trajectory, task: Task
) -> list[int]:
  """Returns the token ids of a problem and the stem of its first answer."""
  return [
    *encode_segment(tokenizer, template.problem(trajectory, task)),
    *encode_segment(tokenizer, template.stem(task, 1)),
  ]


def encode_segment(tokenizer, segment: Segment) -> list[int]:
  """Returns the token ids of a segment; adjacent texts are joined first.

  Raises:
    ValueError: the tokenizer does not know a control token.
  """
  tokens: list[int] = []
  for kind, parts in itertools.groupby(segment, type):
    if kind is Special:
      tokens.extend(tokenizer.special_id(part.name) for part in parts)
    else:
      tokens.extend(tokenizer.encode("".join(parts)))
  return tokens
