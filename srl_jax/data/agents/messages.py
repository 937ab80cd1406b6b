# SPDX-License-Identifier: Apache-2.0
"""Turns the messages of a recorded agent into the steps of a trajectory.

What is no action of the expert is left out and counted in the metadata:
messages without an action and calls that no tool takes (with the answers to
them), notes to oneself by a tool `think` (which join the next thought), and
what SWE-agent or SWE-smith adds where the agent was cut off or gave up.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from srl_jax.data.agents.values import with_line_feeds
from srl_jax.domains.software import foreign
from srl_jax.domains.software.actions import Action, ActionError, render
from srl_jax.trajectory import (
  RecordError,
  Step,
  Trajectory,
  check_characters,
)

Role = Literal["user", "agent", "tool"]


class Message(NamedTuple):
  """One message of a recorded conversation between agent and environment.

  Attributes:
    role: who speaks; "tool" is the environment, and so is "user" once the
      agent has begun.
    text: what is said.
    where: the message's place in the record, for errors.
    reasoning: what the agent thought besides the text.
    actions: the agent's actions, if they are recorded apart from the text.
    call_ids: ids of these actions; () without ids.
    bad_call: why a call beside the actions is none that a tool takes.
    answers: ids of the actions that a tool answers; () if it names none.
    fallback: the action, if the text holds none in the agent's spelling.
    is_target: whether the agent's actions are to be learnt.
  """

  role: Role
  text: str
  where: str
  reasoning: str = ""
  actions: tuple[Action, ...] = ()
  call_ids: tuple[str, ...] = ()
  bad_call: RecordError | None = None
  answers: tuple[str, ...] = ()
  fallback: Action | None = None
  is_target: bool = True


class Facts(NamedTuple):
  """What a record says about its trajectory besides the messages.

  Attributes:
    id: the trajectory's own name; "" if it has none.
    task: name of the task; "" if unknown.
    problem: the issue, for records whose messages do not hold it.
    resolved: whether the tests pass in the end; None if unknown.
    model: the expert.
  """

  id: str = ""
  task: str = ""
  problem: str = ""
  resolved: bool | None = None
  model: str = ""


def to_trajectory(
  messages: Sequence[Message], facts: Facts, default_id: str
) -> Trajectory:
  """Builds a trajectory of the domain "software".

  The metadata say `task`, `resolved` ("true" or "false"), `model`, `cut_off`
  (what ended it instead of the expert), `turns_without_action` (how many were
  left out) and `bad_call` (what is wrong with the first call that no tool
  takes), where they are known or not 0.

  Raises:
    RecordError: there is no action, no problem, or a text that cannot be
      written in the grammar or read by tokenizers.
  """
  begin = next(
    (i for i, m in enumerate(messages) if m.role == "agent"), len(messages)
  )
  if begin == len(messages):
    raise RecordError(
      "messages",
      "are none of an agent; roles are system, user, assistant, tool",
    )
  asked = "\n\n".join(m.text for m in messages[:begin])
  problem = issue_of(with_line_feeds(asked if asked.strip() else facts.problem))
  check_characters(problem, "problem")
  acts = _Acts(messages[begin:])
  metadata = {
    "task": facts.task,
    "resolved": "" if facts.resolved is None else str(facts.resolved).lower(),
    "model": facts.model,
    "cut_off": acts.cut_off,
    "turns_without_action": str(acts.empty_turns or ""),
    "bad_call": str(acts.bad_call or ""),
  }
  name = facts.id or (
    default_id if facts.task in default_id else f"{facts.task}@{default_id}"
  )
  for key, value in {**metadata, "id": name}.items():
    check_characters(value, key)
  return Trajectory(
    id=name,
    domain="software",
    problem=problem,
    steps=acts.steps(),
    metadata={key: value for key, value in metadata.items() if value},
  )


@dataclasses.dataclass
class _Act:
  """A step under way."""

  action: Action
  thought: str
  where: str
  call_id: str
  is_target: bool
  answers: list[str] = dataclasses.field(default_factory=list)


# Parameters in which tools take what the agent says, and what is no action.
_SAID_BY = {"finish": "message", "think": "thought"}
_CUT_OFF = re.compile(r"\s*(Exit due to [a-z ]+?)\s*")
# What SWE-agent 0.7 notes as the last action then; the agent may give up, too.
_EXIT = re.compile(r"exit_(?:api|context|cost|error|forfeit|format)")
# What SWE-smith writes instead of such a message.
_WRITTEN_FOR_IT = (
  "Since we have successfully fixed the issue and verified it works, let's"
  " submit the changes:"
)


class _Acts:
  """The acts in the messages from the agent's first one on."""

  def __init__(self, messages: Sequence[Message]):
    self.cut_off = ""
    self.empty_turns = 0
    self.bad_call: RecordError | None = None
    self._acts: list[_Act] = []
    self._turn: list[_Act] = []  # The latest message's calls, notes included.
    self._without_id: list[str] = []  # What was answered to them.
    self._notes: list[str] = []
    messages = [m._replace(text=with_line_feeds(m.text)) for m in messages]
    agents = [m.text for m in messages if m.role == "agent" and not m.actions]
    has_calls = any(m.actions for m in messages)
    read = foreign.spelling_of(agents, has_fences=not has_calls)
    for message in messages:
      if message.role != "agent":
        self._answer(message)
        continue
      self._end_turn()
      try:
        self._act(message, read)
      except ActionError as error:
        raise RecordError(message.where, str(error)) from None
    self._end_turn()
    self._end(messages[0].where)

  def _act(
    self, message: Message, read: Callable[[str], foreign.Spelled]
  ) -> None:
    text, actions = message.text, message.actions
    if message.bad_call:
      self.bad_call = self.bad_call or message.bad_call
      if not actions:
        self.empty_turns += 1
        return
    if not actions:
      text, actions = read(message.text)
    if not actions and message.fallback is not None:
      actions = (message.fallback,)
    if ending := _ending(message.text, (message.fallback, *actions)):
      self.cut_off = ending
      return
    thoughts = [*self._notes, message.reasoning, text]
    ids = message.call_ids or ("",) * len(actions)
    if len(set(ids)) < len(ids):
      ids = ("",) * len(ids)  # They do not tell the calls apart.
    for action, call_id in zip(actions, ids, strict=True):
      said = _SAID_BY.get(action.name, "")
      thoughts.append(action.values.get(said, ""))
      action = foreign.canonical(action)
      self._turn.append(
        _Act(action, "", message.where, call_id, message.is_target)
      )
    acts = [act for act in self._turn if act.action.name != "think"]
    if not acts:
      # Notes wait for the next action; words without any are left out.
      if actions:
        self._notes = [thought_of(thoughts)]
      else:
        self.empty_turns += 1
      return
    self._notes = []
    acts[0].thought = thought_of(thoughts)
    self._acts += acts

  def _answer(self, message: Message) -> None:
    texts = [observation_of(text) for text in _responses(message.text)]
    ids = set(message.answers) - {""}
    named = [act for act in self._turn if act.call_id in ids]
    if not named:
      # Calls of several messages may be answered after the last of them.
      named = [
        act for act in self._acts if act.call_id in ids and not act.answers
      ][-1:]
    for act in named:
      act.answers += texts
    if not named and not (ids and any(act.call_id for act in self._turn)):
      self._without_id += texts

  def _end_turn(self) -> None:
    """Gives answers without ids to the calls, in their order.

    All are the last action's if there are fewer of them than calls, and so is
    what is left over.
    """
    left = self._without_id
    calls = [act for act in self._turn if not act.answers]
    if len(calls) <= len(left):
      for act in calls:
        act.answers.append(left.pop(0))
    acts = [act for act in self._turn if act.action.name != "think"]
    if acts:
      acts[-1].answers += left
    self._turn, self._without_id = [], []

  def _end(self, where: str) -> None:
    last = self._acts[-1] if self._acts else None
    if last and last.action.name == "submit":
      if last.thought == _WRITTEN_FOR_IT:
        self.cut_off = "Exit due to cost limit"
        self._acts.pop()
    elif last:
      before = foreign.before_submission(last.action)
      if before == "":
        last.action = Action("submit")
      elif before:
        last.action = Action("bash", (("command", before),))
        submit = _Act(Action("submit"), "", last.where, "", last.is_target)
        self._acts.append(submit)
    if not self._acts:
      raise self.bad_call or RecordError(
        where,
        "and the messages after it hold no action; read are tool_calls,"
        " <tool_call>..</tool_call>, <function=NAME>..</function>,"
        " <command>..</command> and blocks between lines of ```",
      )

  def steps(self) -> tuple[Step, ...]:
    steps = []
    for number, act in enumerate(self._acts, 1):
      try:
        text = render(act.action)
      except ActionError as error:
        raise RecordError(act.where, str(error)) from None
      check_characters(text, act.where)
      check_characters(act.thought, act.where)
      observation = "\n\n".join(act.answers) if act.answers else None
      if observation is None and number < len(self._acts):
        observation = ""
      steps.append(
        Step(
          text,
          observation=observation,
          thought=act.thought or None,
          is_target=act.is_target,
        )
      )
    return tuple(steps)


def _ending(text: str, actions: Iterable[Action | None]) -> str:
  """What ended the work instead of the expert; "" if a message is no end."""
  if match := _CUT_OFF.fullmatch(text):
    return match[1]
  commands = (a.values.get("command", a.name).strip() for a in actions if a)
  return next(filter(_EXIT.fullmatch, commands), "")


_THINK_TAGS = re.compile(r"\s*</?think>\s*")
_LABEL = re.compile(r"\A(?:THOUGHT|Thought|DISCUSSION)\b:?\s*")


def thought_of(parts: Iterable[str]) -> str:
  """Joins what the expert said, without tags of thought and labels.

  Templates put the tags around the thought themselves.
  """
  cleaned = (_THINK_TAGS.sub("\n\n", part).strip() for part in parts)
  bare = (_LABEL.sub("", part) for part in cleaned)
  return with_line_feeds("\n\n".join(filter(None, bare)))


_RESPONSES = re.compile(
  r"\s*<tool_response>\n?(.*?)\n?</tool_response>\s*", re.DOTALL
)
_NEXT_RESPONSE = re.compile(r"\n?</tool_response>\s*<tool_response>\n?")


def _responses(text: str) -> list[str]:
  """Parts the answers that Qwen's template makes one message of the user."""
  match = _RESPONSES.fullmatch(text)
  return _NEXT_RESPONSE.split(match[1]) if match else [text]


_OBSERVATION = re.compile(
  r"\A\s*(?:OBSERVATION:|Observation:|E(?:XECUTION|xecution)"
  r" (?:RESULT|output) of \[[^\]\n]*\]:)[ ]?\n?"
)


_SURROGATE = re.compile("[\ud800-\udfff]")


def observation_of(text: str) -> str:
  """Returns what the environment answered, without the label before it.

  Line ends become line feeds, and halves of surrogate pairs, which no
  tokenizer can read, U+FFFD.
  """
  text = _OBSERVATION.sub("", with_line_feeds(text))
  return _SURROGATE.sub("\ufffd", text)


# How others mark the issue in the first message, and where the code is.
_ISSUES = (
  re.compile(
    r"^<(pr_description|issue_description|github_issue)>(?P<issue>.*)</\1>$",
    re.DOTALL | re.MULTILINE,
  ),
  re.compile(r"\bISSUE:\n(?P<issue>.*)\n\s*INSTRUCTIONS:\n", re.DOTALL),
  re.compile(
    r"\APlease solve this issue: (?P<issue>.*)\n\nYou can execute bash"
    r" commands",
    re.DOTALL,
  ),
)
_LEAD = re.compile(r"\A\s*Consider the following PR description:\n")
_FOLDERS = (
  re.compile(r"<uploaded_files>\s*(?P<folder>/\S*)\s*</uploaded_files>"),
  re.compile(r"^\(Current directory: (?P<folder>/[^)\n]*)\)", re.MULTILINE),
)


def issue_of(text: str) -> str:
  """Returns the issue in the first message, and where the code is.

  The message as a whole, if it marks no issue.
  """
  marked = list(filter(None, (p.search(text) for p in _ISSUES)))
  if not marked:
    return text.strip()
  found = min(marked, key=re.Match.start)  # Others stand in the issue itself.
  issue = _LEAD.sub("", found["issue"]).strip()
  folder = next(filter(None, (p.search(text) for p in _FOLDERS)), None)
  if folder is None:
    return issue
  return f"The repository is in {folder['folder']}.\n\n{issue}"


def is_solved(record: Mapping[str, object]) -> bool | None:
  """Whether a record says that its tests pass; None if it does not say."""
  for name in ("resolved", "target", "reward", "is_resolved", "success"):
    value = record.get(name)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
      value = value.strip().lower() == "true"
    # NaN, as pandas writes it, is no number.
    if isinstance(value, (bool, int, float)) and value == value:
      return value >= 1
  return None
