# SPDX-License-Identifier: Apache-2.0
"""What agents write is read as their own tools read it, and answered so."""

import dataclasses

import pytest

from srl_jax.domains.software.actions import Action, render
from srl_jax.domains.software.dialects import Mini, SweSmith, SweSmithOnce
from srl_jax.domains.software.launchers import Limits
from srl_jax.domains.software.sandbox import Sandbox
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import CONFIG

pytestmark = needs_sandbox


def shell(command):
  return render(Action("bash", (("command", command),)))


def mini(command):
  return f"THOUGHT: so.\n\n```mswea_bash_command\n{command}\n```"


def test_a_block_ends_at_a_fence_on_a_line_of_its_own(sandbox):
  outcome = Mini(sandbox, 10).act(mini("echo '```python' && echo '``` x'"))
  assert outcome.ran.output == b"```python\n``` x\n"
  two = mini("echo 1") + "\n" + mini("echo 2")
  assert Mini(sandbox, 10).act(two).is_format_error


@pytest.mark.parametrize("dialect", [SweSmith, Mini])
def test_a_shell_that_a_signal_ended_is_said_so(sandbox, dialect):
  write = shell if dialect is SweSmith else mini
  ended = "The command was ended by the signal SIGKILL, as at the limit of CPU"
  assert ended in dialect(sandbox, 10).act(write("kill -9 $$")).observation
  # What the shell itself reports is shown as it is.
  shown = dialect(sandbox, 10).act(write("sh -c 'kill -9 $$'; true"))
  assert "ended by" not in shown.observation


@pytest.mark.parametrize(
  ("wall_s", "status"), [(None, -9), (1.0, -9), (40.0, 0)]
)
def test_a_command_with_more_time_has_more_cpu_in_proportion(wall_s, status):
  limits = Limits(wall_s=10, cpu_s=1)
  with Sandbox(dataclasses.replace(CONFIG, limits=limits)) as sandbox:
    code = "import time\nwhile time.process_time() < 1.5: pass"
    ran = sandbox.run([CONFIG.interpreter, "-c", code], wall_s=wall_s)
  assert ran.status == status


def test_output_is_shown_with_plain_line_ends(sandbox):
  command = "printf 'a\\r\\nb\\r\\n'"
  assert SweSmith(sandbox, 10).act(shell(command)).observation == "a\nb\n"
  assert "\r" not in Mini(sandbox, 10).act(mini(command)).observation


def test_a_trap_does_not_keep_the_shell_from_keeping_its_state(sandbox):
  dialect = SweSmith(sandbox, 10)
  trapped = dialect.act(shell("trap 'echo bye' EXIT; cd /tmp; A=1; false"))
  assert (trapped.observation, trapped.ran.status) == ("bye\n", 1)
  assert dialect.act(shell("pwd; echo $A")).observation == "/tmp\n1\n"
  assert dialect.act(shell("cd /; exit 3")).ran.status == 3
  assert dialect.act(shell("pwd")).observation == "/\n"


def test_changes_are_reviewed_once_before_they_are_submitted():
  with Sandbox(CONFIG) as sandbox:
    dialect = SweSmith(sandbox, 10)
    dialect.act(shell("git init -q; printf 'one\\r\\n' > a; echo {} > b"))
    review = dialect.act("submit")
    # As in the trajectories of SWE-smith, once read.
    assert review.observation.startswith(
      "Thank you for your work on this issue. Please carefully follow the steps"
      " below to help review your changes.\n\n1. If you made"
    )
    assert review.observation.endswith("@@ -0,0 +1 @@\n+{}\n\n</diff>")
    assert "<diff>\ndiff --git a/a b/a\nnew file" in review.observation
    assert not review.submits
    dialect.act(shell("rm b"))
    assert dialect.act("submit").submits
    assert SweSmithOnce(sandbox, 10).act("submit").submits
