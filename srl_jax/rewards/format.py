# SPDX-License-Identifier: Apache-2.0
"""Splits what the model wrote into its thought and its action.

The paper gives a reward of -1 to output that "breaks the format" (section
3.3) and does not say what that is. Training is strict here, because it is
what teaches the format; evaluation is lenient, because the paper shows several
think blocks in one answer (section 4.3). What an action is worth is not this
file's business.
"""

from __future__ import annotations

import re
from typing import NamedTuple

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
THINK_TAG = re.compile(f"{THINK_OPEN}|{THINK_CLOSE}")

# Around thoughts and actions only these are trimmed, so that a device program
# can do the same on code points.
WHITESPACE = " \t\r\n"

# The first that applies, in this order, is reported; "" stands for none.
# Arrays hold the index in here, so 0 is a format that is whole.
FAILURES = (
  "",
  "not_stopped",  # cut by the length limit, not ended by a stop token
  "no_thought",  # does not begin with <think>
  "thought_not_closed",
  "several_thoughts",  # more think tags than the one pair
  "empty_thought",
  "empty_action",
)


def think_block(thought: str) -> str:
  """Returns a thought as the model should write it."""
  return f"{THINK_OPEN}{thought}{THINK_CLOSE}"


class Parsed(NamedTuple):
  """The parts of a completion, trimmed; failure is one of FAILURES."""

  thought: str
  action: str
  failure: str


def split(text: str, stopped: bool) -> Parsed:
  """Splits a completion in training; strict.

  Allowed is: one closed think block at the start, with a thought in it, then
  an action, then the stop token; white space may stand between.

  Args:
    text: the completion, without its stop token.
    stopped: whether a stop token ended it.

  Returns:
    The parts; both are empty where the format is broken.
  """
  failure, thought, action = _strict(text.strip(WHITESPACE), stopped)
  return Parsed("", "", failure) if failure else Parsed(thought, action, "")


def _strict(text: str, stopped: bool) -> tuple[str, str, str]:
  if not stopped:
    return "not_stopped", "", ""
  if not text.startswith(THINK_OPEN):
    return "no_thought", "", ""
  thought, close, action = text[len(THINK_OPEN) :].partition(THINK_CLOSE)
  if not close:
    return "thought_not_closed", "", ""
  if THINK_OPEN in thought or THINK_OPEN in action or THINK_CLOSE in action:
    return "several_thoughts", "", ""
  thought, action = thought.strip(WHITESPACE), action.strip(WHITESPACE)
  if not thought:
    return "empty_thought", "", ""
  return ("" if action else "empty_action"), thought, action


_AT_TAGS = re.compile(f"({THINK_TAG.pattern})")


def split_lenient(text: str) -> Parsed:
  """Splits a completion at evaluation: think blocks may stand anywhere.

  The action is what stands outside of them. A block that never closes goes
  on to the end. A lone </think> closes a block that began with the text, as
  with prompts that end in <think>.

  Returns:
    The parts; failure is "" or "empty_action".
  """
  thoughts: list[str] = []
  actions: list[str] = []
  inside = seen = False
  for part in _AT_TAGS.split(text):
    if part == THINK_OPEN:
      inside = seen = True
    elif part == THINK_CLOSE:
      if not seen:
        thoughts, actions = actions, []
      inside, seen = False, True
    else:
      (thoughts if inside else actions).append(part)
  thought = "\n".join(t.strip(WHITESPACE) for t in thoughts)
  action = "".join(actions).strip(WHITESPACE)
  return Parsed(
    thought.strip(WHITESPACE), action, "" if action else "empty_action"
  )
