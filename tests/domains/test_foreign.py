# SPDX-License-Identifier: Apache-2.0
"""Actions that other agents wrote are read as they were meant."""

import pytest

from srl_jax.domains.software.actions import Action
from srl_jax.domains.software.foreign import (
  before_submission,
  canonical,
  from_shell,
  spelling_of,
)


def bash(command):
  return Action("bash", (("command", command),))


def read(*texts):
  """What the last text says, in the spelling of all of them."""
  return spelling_of(texts)(texts[-1])


FENCES = [
  ("Look.\n```\nls\n```", "Look.\n", [bash("ls")]),
  ("```bash\nls -l\npwd\n```\nDone.", "\nDone.", [bash("ls -l\npwd")]),
  # The last block is the action, and a block with a word lies in another.
  ("```\nls\n```\nor\n```\npwd\n```", "```\nls\n```\nor\n", [bash("pwd")]),
  (
    "```\ncat <<E\n```python\n1\n```\nE\n```",
    "",
    [bash("cat <<E\n```python\n1\n```\nE")],
  ),
  ("```python\n1\n```", "```python\n1\n```", []),
  ("```\n\n```", "", []),
  ("```\nls", "```\nls", []),
  ("inline ```ls``` code", "inline ```ls``` code", []),
]


@pytest.mark.parametrize(("text", "rest", "actions"), FENCES)
def test_the_last_block_between_fences_is_the_action(text, rest, actions):
  assert read("```\nls\n```", "```\nls\n```", text) == (rest, tuple(actions))


def test_an_agent_keeps_to_the_spelling_that_most_of_its_messages_have():
  tagged = "<function=submit>\n</function>"
  fenced = "```\nls\n```"
  assert not read(tagged, tagged, fenced).actions
  assert not read(fenced, fenced, tagged).actions
  # In doubt the tags, which no prose has, unlike blocks of code.
  assert read(fenced, tagged).actions == (Action("submit"),)
  assert read(fenced, f"{fenced}\n{tagged}").actions == (Action("submit"),)
  spelled = read("Look.\n<command>\nls\n</command>")
  assert spelled == ("Look.\n", (bash("ls"),))


SHELL = [
  ("ls -l", bash("ls -l")),
  ("submit\n", Action("submit")),
  (
    "str_replace_editor view /a.py --view_range 1 -1",
    Action(
      "str_replace_editor",
      (("command", "view"), ("path", "/a.py"), ("view_range", "[1, -1]")),
    ),
  ),
  (
    "str_replace_editor str_replace '/a b.py' --old_str 'x = '\"'\"'1'\"'\"''"
    " --new_str ''",
    Action(
      "str_replace_editor",
      (
        ("command", "str_replace"),
        ("path", "/a b.py"),
        ("old_str", "x = '1'"),
        ("new_str", ""),
      ),
    ),
  ),
  # As argparse reads it.
  (
    "str_replace_editor str_replace /p --old_str=\"a=1\" --new_str ''",
    Action(
      "str_replace_editor",
      (
        ("command", "str_replace"),
        ("path", "/p"),
        ("old_str", "a=1"),
        ("new_str", ""),
      ),
    ),
  ),
  # The shell of the agent got these as they are, and complained.
  *(
    (line, bash(line))
    for line in (
      "str_replace_editor view",
      "str_replace_editor view /a.py 1 20",
      "str_replace_editor view /a.py --view_range 1",
      "str_replace_editor view /a.py --view_range a b",
      "str_replace_editor view /a.py --view_range=1 20",
      "str_replace_editor view /a.py -- x",
      "str_replace_editor view /a.py '--a b' x",
      "str_replace_editor view /a.py --x 1 --x 2",
      "str_replace_editor create /a.py --file_text 'open",
    )
  ),
]


@pytest.mark.parametrize(("line", "action"), SHELL)
def test_a_line_of_the_shell_is_a_call_of_a_tool_or_a_command(line, action):
  assert from_shell(line) == action


def test_tools_that_do_the_same_have_one_name():
  assert canonical(Action("execute_bash", (("cmd", "ls"),))) == bash("ls")
  started = (("command", "C-c"), ("is_input", "true"))
  assert canonical(Action("terminal", started)) == Action("bash", started)
  assert canonical(Action("finish", (("message", "Done."),))) == Action(
    "submit"
  )
  edit = (("command", "view"), ("path", "/a"))
  assert canonical(Action("file_editor", edit)) == Action(
    "str_replace_editor", edit
  )
  other = Action("search", (("cmd", "x"),))
  assert canonical(other) == other


def test_only_the_shell_submits_by_printing():
  line = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
  assert before_submission(bash(f"{line} && cat a.patch")) == ""
  assert (
    before_submission(bash(f"sed -i s/a/b/ f && {line}")) == "sed -i s/a/b/ f"
  )
  for other in ("ls", "grep -r COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT ."):
    assert before_submission(bash(other)) is None
  assert before_submission(Action("run", (("command", line),))) is None
