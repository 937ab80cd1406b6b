# SPDX-License-Identifier: Apache-2.0
"""Actions as other agents write them, read into the form of actions.py.

  spelling   an action in the text of a message      used by
  tool_call  each <tool_call>..</tool_call>          Qwen, Hermes
  function   the first <function=NAME>..</function>  SWE-smith, R2E-Gym
  command    the last <command>ls</command>          SWE-agent 0.7
  fence      the last block between lines of ```     SWE-agent, mini-swe-agent

Where a text spells several, the agents named here ran that one, and all of the
first form. Inside its tags is the call as JSON (Hermes, Qwen) or in the form of
the second (Qwen3-Coder). An agent keeps to one spelling, so that a block of
code in its thoughts is no action, and neither is what stands in a think block.

Tools that do the same under other names get one name (`canonical`).
"""

from __future__ import annotations

import collections
import json
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from srl_jax.domains.software.actions import Action, find

_NAMES = {
  "Bash": "bash",
  "execute_bash": "bash",
  "file_editor": "str_replace_editor",
  "finish": "submit",
  "str_replace_based_edit_tool": "str_replace_editor",
  "terminal": "bash",
}
_PARAMETERS = {("bash", "cmd"): "command"}
# What says nothing about what the action does.
_DROPPED = {("bash", "is_input", "false")}
_DROPPED_NAMES = {"security_risk"}
# What mini-swe-agent prints to end its work.
_SUBMISSION = re.compile(
  r"(?:^|&&|;|\n)\s*echo\s+['\"]?"
  r"(?:COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT|MINI_SWE_AGENT_FINAL_OUTPUT)"
)

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_COMMAND = re.compile(
  r"<(command|mswea_bash_command)>\n?(.*?)\n?</\1>", re.DOTALL
)
_FENCE = re.compile(r"^```([^\s`]*)[^\S\n]*$", re.MULTILINE)
_SHELLS = {"", "bash", "console", "mswea_bash_command", "sh", "shell"}


class Spelled(NamedTuple):
  """The actions of a message, and its text without them."""

  text: str
  actions: tuple[Action, ...]


def canonical(action: Action) -> Action:
  """Returns an action under the names of SWE-agent's tools.

  These are `bash` with `command`, `str_replace_editor` and `submit`. Tools
  that they do not have keep their names. Lines of values end in line feeds.
  """
  name = _NAMES.get(action.name, action.name)
  if name == "submit":
    return Action(name)
  return Action(
    name,
    tuple(
      (_PARAMETERS.get((name, key), key), value.replace("\r\n", "\n"))
      for key, value in action.parameters
      if key not in _DROPPED_NAMES and (name, key, value) not in _DROPPED
    ),
  )


def before_submission(action: Action) -> str | None:
  """What a command does before it prints the line that ends mini's work.

  Returns:
    The command without that; "" if it does nothing else before, and None if it
    does not print the line.
  """
  command = action.values.get("command", "")
  match = _SUBMISSION.search(command) if action.name == "bash" else None
  return match and command[: match.start()].strip()


def from_shell(command: str) -> Action:
  """Returns the action of a line of SWE-agent's shell.

  SWE-agent flattens calls of its tools to lines such as
  `str_replace_editor view /a.py --view_range 1 20`. All others are bash's.
  """
  if command.strip() == "submit":
    return Action("submit")
  if command.startswith("str_replace_editor "):
    try:
      parameters = _flags(shlex.split(command)[1:])
      return Action("str_replace_editor", parameters)
    except ValueError:
      pass  # The tool could not read it either.
  return Action("bash", (("command", command),))


def _flags(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
  """Reads `view /a.py --view_range 1 20`; ValueError for another form."""
  command, path, *rest = words
  parameters = [("command", command), ("path", path)]
  while rest:
    flag, equals, value = rest.pop(0).partition("=")
    if not flag.startswith("--") or (equals and flag == "--view_range"):
      raise ValueError(f"{flag!r} is no flag, or takes two values")
    if flag == "--view_range":
      first, last, *rest = rest
      value = json.dumps([int(first), int(last)])
    elif not equals:
      value, *rest = rest
    parameters.append((flag[2:], value))
  return tuple(parameters)


# How mini-swe-agent answers texts with several actions or none; it ran nothing.
REFUSED = "Please always provide EXACTLY ONE action"


def spelling_of(
  texts: Iterable[str], has_fences: bool = True
) -> Callable[[str], Spelled]:
  """Returns how the actions in an agent's messages are read.

  It is the spelling of most of them, and that of a text is the first in the
  table above in which it holds an action: agents that write tags write blocks
  of code beside them. Without `has_fences` a block is no action of any agent.
  """
  spellings = _SPELLINGS if has_fences else _SPELLINGS[:-1]
  counts = collections.Counter(
    next((read for read in spellings if read(text).actions), None)
    for text in texts
  )
  return max(spellings, key=lambda read: counts[read])


def _tool_call(text: str) -> Spelled:
  try:
    actions = [x for m in _CALL.finditer(text) for x in _called(m[1])]
  except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
    return Spelled(text, ())  # Servers cannot read it either, and run none.
  return Spelled(_CALL.sub("", text), tuple(actions))


def _called(text: str) -> list[Action]:
  """The calls between the tags; an error of many kinds for something else."""
  is_json = text.lstrip().startswith("{")
  if not is_json and (found := [one.action for one in find(text)]):
    return found
  call = json.loads(text)
  arguments = call.get("arguments") or {}
  if isinstance(arguments, str):
    arguments = json.loads(arguments)
  return [Action.of_call(call["name"], arguments)]


def _function(text: str) -> Spelled:
  found = list(find(text))
  for one in reversed(found):
    text = text[: one.start] + text[one.end :]
  return Spelled(text, tuple(one.action for one in found[:1]))


def _command(text: str) -> Spelled:
  actions = [from_shell(match[2]) for match in _COMMAND.finditer(text)]
  return Spelled(_COMMAND.sub("", text), tuple(actions[-1:]))


def without_commands(text: str) -> str:
  """Returns a text without the actions that it spells, in whatever form."""
  for read in _SPELLINGS:
    spelled = read(text)
    if spelled.actions:
      return spelled.text
  return text


def _fence(text: str) -> Spelled:
  # A fence with a word opens a block, also inside of another.
  depth, start, last = 0, None, None
  for match in _FENCE.finditer(text):
    if depth and not match[1]:
      depth -= 1
      if not depth:
        last = (start, match)
      continue
    if not depth:
      start = match
    depth += 1
  if last is None or last[0][1] not in _SHELLS:
    return Spelled(text, ())
  begin, end = last
  command = text[begin.end() + 1 : end.start()].removesuffix("\n")
  rest = text[: begin.start()] + text[end.end() :]
  return Spelled(rest, (from_shell(command),) if command.strip() else ())


def _after_thought(read: Callable[[str], Spelled]) -> Callable[[str], Spelled]:
  """Reads what follows the think block in which a text begins."""

  def read_after(text: str) -> Spelled:
    thought, tag, rest = text.partition("</think>")
    spelled = read(rest)
    # Some prompts open the block. Without, the tag may be part of an action.
    if tag and (spelled.actions or thought.lstrip().startswith("<think>")):
      return Spelled(thought + tag + spelled.text, spelled.actions)
    return read(text)

  return read_after


_SPELLINGS = tuple(
  map(_after_thought, (_tool_call, _function, _command, _fence))
)
