# SPDX-License-Identifier: Apache-2.0
"""The interpreter of the register task agrees with Python itself."""

from srl_jax.domains.lookup.experts import HARD_BUGS, HARD_CALL
from srl_jax.domains.lookup.repository import (
  KEYS,
  VALUES,
  Interpreter,
  draw,
  files,
)
from srl_jax.domains.randomness import Draws
from srl_jax.domains.software.sandbox import Sandbox
from srl_jax.domains.software.workspace import archive
from tests.domains.software.marks_for_tests import needs_sandbox


@needs_sandbox
def test_python_gives_what_the_interpreter_gives():
  given = set()
  with Sandbox() as sandbox:
    for index in range(4):
      repository = draw("train", 1, index, HARD_CALL, HARD_BUGS[index % 3])
      shell = Interpreter(repository)
      draws = Draws("edits", index)
      for _ in range(6):
        given.add(shell.step("!")[0])
        modules = files(repository, shell.tables)
        assert run(sandbox, modules) == shell.step("!")[0] + "\n"
        name = draws.choice(repository.call)
        shell.step(f"{name}={draws.choice(KEYS)}{draws.choice(VALUES)}")
  # Not the same answer throughout.
  assert len(given) > 1


def run(sandbox, modules):
  packed = archive({path: text.encode() for path, text in modules.items()})
  assert sandbox.run(["tar", "-xf", "-"], packed).succeeded
  # No bytecode: files change within the second that its time stamps resolve.
  ran = sandbox.run(["python3", "-B", "check.py"])
  return ran.output.decode()
