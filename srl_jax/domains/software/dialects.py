# SPDX-License-Identifier: Apache-2.0
"""How agents write actions and what they are answered, in public dialects.

swe-smith       tools bash, str_replace_editor and submit, in the grammar of
                actions.py; the shell keeps its state; no label before
                observations, as in the trajectories that are read. The first
                submit is answered by a review, the second one ends the work
swe-smith-once  the same, and the first submit ends the work
mini            mini-swe-agent's: one block of bash, no state between blocks,
                the exit code in the observation; the agent prints its patch
                itself
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from srl_jax.domains.software.actions import Action, find
from srl_jax.domains.software.editor import Editor
from srl_jax.domains.software.sandbox import Ran, Sandbox

TOOLS = ("bash", "str_replace_editor", "submit")
NO_OUTPUT = "Your command ran successfully and did not produce any output."
_SWE_SMITH_CHARACTERS = 70_000
_MINI_CHARACTERS = 10_000
_MARK = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
_BLOCKS = re.compile(
  r"```mswea_bash_command\s*\n(.*?)\n```"
  r"|<mswea_bash_command>(.*?)</mswea_bash_command>",
  re.DOTALL,
)

# A shell that begins where the one before has ended. It keeps its state also
# where a command exits, or sets a trap of its own.
_KEEP = """(declare -p; declare -f; alias -p; printf "cd -- %q\\n" "$PWD") \
  > /tmp/.shell 2> /dev/null"""
_SHELL = f"""
shopt -s expand_aliases
if [ -r /tmp/.shell ]; then . /tmp/.shell 2> /dev/null; fi
trap '{_KEEP}' EXIT
eval "$(cat)"
set -- $?
{_KEEP}
exit $1
"""
# What SWE-smith's agents were answered, word for word: models know it from
# their training.
_CHANGES = "git add --all && git diff --cached"
_REVIEW = """\
Thank you for your work on this issue. Please carefully follow the steps below \
to help review your changes.

1. If you made any changes to your code after running the reproduction script, \
please run the reproduction script again.
  If the reproduction script is failing, please revisit your changes and make \
sure they are correct.
  If you have already removed your reproduction script, please ignore this step.
2. Remove your reproduction script (if you haven't done so already).
3. If you have modified any TEST files, please revert them to the state they \
had before you started fixing the issue.
  You can do this with `git checkout -- /path/to/test/file.py`. Use below \
<diff> to find the files you need to revert.
4. Run the submit command again to confirm.

Here is a list of all of your changes:

<diff>
{changes}
</diff>"""


class ActionResult(NamedTuple):
  """What an action has led to.

  Attributes:
    observation: the answer to the agent.
    ran: what came of the command; None if none ran.
    submits: whether the agent has ended its work.
    patch: the patch that the agent gave; None if its files are to be compared.
    is_format_error: whether there was no action in the text.
  """

  observation: str
  ran: Ran | None = None
  submits: bool = False
  patch: bytes | None = None
  is_format_error: bool = False


class Dialect(Protocol):
  """Reads and carries out the actions of one episode.

  Attributes:
    instructions: says to a model how to write actions.
    submits_files: whether the files are what is submitted, so that work counts
      without a submission, too; if not, the agent prints its patch.
  """

  instructions: str
  submits_files: bool

  def __init__(self, sandbox: Sandbox, wall_s: float) -> None:
    """Carries actions out in a sandbox, each within a limit of time."""

  def act(self, text: str) -> ActionResult:
    """Carries out the one action in a text.

    Raises:
      SandboxError: the sandbox has ended.
    """


class SweSmithOnce:
  """The tools of SWE-smith's agent, for agents that submit once."""

  instructions = """\
The repository is in /testbed. An action is one call of a tool, written as
<function=NAME>
<parameter=KEY>VALUE</parameter>
</function>
Values of old_str, new_str and file_text stand on lines of their own. Tools:
bash: runs `command`. The shell keeps its folder and variables; nothing goes on
  in the background; nobody can type.
str_replace_editor: `command` is view (a directory, or a file with `view_range`
  [first, last]), create (`file_text`), str_replace (`old_str`, which must stand
  in the file just once, and `new_str`), insert (`new_str` after the line
  `insert_line`) or undo_edit. `path` begins with /.
submit: ends the work; the state of the files is what counts."""
  submits_files = True

  def __init__(self, sandbox: Sandbox, wall_s: float) -> None:
    """See Dialect."""
    self._sandbox, self._wall_s = sandbox, wall_s
    self._editor = Editor(sandbox)

  def act(self, text: str) -> ActionResult:
    """See Dialect. Words around the action are the agent's own business."""
    actions = [found.action for found in find(text)]
    if text.strip() == "submit":
      actions = [Action("submit")]
    if len(actions) != 1:
      return ActionResult(
        f"There are {len(actions)} actions in your answer; write exactly one."
        f"\n{self.instructions}",
        is_format_error=True,
      )
    action = actions[0]
    if action.name == "submit":
      return self._submit()
    if action.name == "str_replace_editor":
      return ActionResult(_cut(self._editor.run(action.values)))
    if action.name != "bash":
      return ActionResult(
        f"There is no tool {action.name!r}; use one of {', '.join(TOOLS)}.",
        is_format_error=True,
      )
    if "command" not in action.values:
      return ActionResult(
        "The tool bash needs the parameter `command`.", is_format_error=True
      )
    return self._bash(action.values["command"])

  def _submit(self) -> ActionResult:
    return ActionResult("", submits=True)

  def _bash(self, command: str) -> ActionResult:
    ran = _run(self._sandbox, _SHELL, command, self._wall_s)
    text = _shown(ran)
    if why := _why_ended(ran, self._wall_s):
      text += f"\n{why}"
    return ActionResult(_cut(text) or NO_OUTPUT, ran)


class SweSmith(SweSmithOnce):
  """The tools of SWE-smith's agent, which has it review its changes."""

  instructions = SweSmithOnce.instructions.replace(
    "submit: ends the work", "submit: shows your changes; again, ends the work"
  )
  _is_reviewed = False

  def _submit(self) -> ActionResult:
    if self._is_reviewed:
      return super()._submit()
    self._is_reviewed = True
    ran = _run(self._sandbox, 'eval "$(cat)"', _CHANGES, self._wall_s)
    return ActionResult(_cut(_REVIEW.format(changes=_shown(ran))))


class Mini:
  """mini-swe-agent's single block of bash."""

  instructions = f"""\
The repository is in /testbed. An action is one block of bash:
```mswea_bash_command
COMMAND
```
Each block runs in a shell of its own in /testbed; nothing goes on in the
background; nobody can type. Write exactly one block. When you are done, write
your changes to a file with `git diff`, look at it, and submit it by the block
```mswea_bash_command
echo {_MARK} && cat patch.txt
```"""
  submits_files = False

  def __init__(self, sandbox: Sandbox, wall_s: float) -> None:
    """See Dialect."""
    self._sandbox, self._wall_s = sandbox, wall_s

  def act(self, text: str) -> ActionResult:
    """See Dialect."""
    blocks = [a or b for a, b in _BLOCKS.findall(text)]
    if len(blocks) != 1:
      return ActionResult(
        "Format error:\n\n<error>\nExpected exactly 1 action, found"
        f" {len(blocks)}.\n</error>\n\n{self.instructions}",
        is_format_error=True,
      )
    command = blocks[0].strip()
    ran = _run(self._sandbox, 'eval "$(cat)"', command, self._wall_s)
    output = _shown(ran)
    first = output.lstrip().partition("\n")[0]
    if first.strip() == _MARK and ran.succeeded:
      patch = ran.output.lstrip().partition(b"\n")[2]
      return ActionResult("", ran, submits=True, patch=patch)
    return ActionResult(_tagged(output, ran, self._wall_s), ran)


DIALECTS: dict[str, type[Dialect]] = {
  "swe-smith": SweSmith,
  "swe-smith-once": SweSmithOnce,
  "mini": Mini,
}


def _run(sandbox: Sandbox, script: str, command: str, wall_s: float) -> Ran:
  # Some texts of models hold halves of surrogate pairs, or NUL, which a shell
  # complains about.
  text = command.replace("\0", "").encode(errors="replace")
  return sandbox.run(["bash", "-c", script], text, wall_s=wall_s)


def _shown(ran: Ran) -> str:
  """What a command wrote, with line feeds, as models know it from training."""
  return ran.output.decode(errors="replace").replace("\r\n", "\n")


def _why_ended(ran: Ran, wall_s: float) -> str:
  """Says to an agent what has ended its command; "" if it ended by itself."""
  if not ran.cause:
    return f"The command was ended by {ran.signal}." if ran.signal else ""
  limits = {
    "wall time": f"it took more than {wall_s:g} seconds. Nobody can type here,"
    " so do not run what waits for input",
    "output": f"it wrote more than {len(ran.output)} bytes",
    "memory": "memory ran out",
  }
  return f"The command was ended because {limits[ran.cause]}."


def _cut(text: str) -> str:
  if len(text) <= _SWE_SMITH_CHARACTERS:
    return text
  left_out = len(text) - _SWE_SMITH_CHARACTERS
  return (
    f"{text[:_SWE_SMITH_CHARACTERS]}<response clipped><NOTE>{left_out} more"
    " characters are not shown. Use head, tail or grep, or write the output to"
    " a file.</NOTE>"
  )


def _tagged(output: str, ran: Ran, wall_s: float) -> str:
  """An observation in mini-swe-agent's tags."""
  status = -1 if ran.cause else ran.status
  head = f"<returncode>{status}</returncode>\n"
  if why := _why_ended(ran, wall_s):
    head = f"<exception>{why}</exception>\n{head}"
  if len(output) < _MINI_CHARACTERS:
    return f"{head}<output>\n{output}</output>"
  half = _MINI_CHARACTERS // 2
  left_out = len(output) - _MINI_CHARACTERS
  return (
    f"{head}<warning>\nThe output was too long. Use head, tail, sed or grep to"
    " see less of it, or write it to a file.\n</warning>"
    f"<output_head>\n{output[:half]}\n</output_head>\n<elided_chars>\n{left_out}"
    f" characters elided\n</elided_chars>\n<output_tail>\n{output[-half:]}\n"
    "</output_tail>"
  )
