# SPDX-License-Identifier: Apache-2.0
"""Runs command lines in processes that start quickly, for tests.

The packages are imported once; each command then is a process of its own, with
the real command line, that is forked from there. To take the interpreter down
in an orderly way would take ten times as long as to refuse bad input.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping

# Grain comes first because it warns of a JAX before 0.11 when it is imported.
_SERVER = """
import grain, importlib, json, os, sys
module = importlib.import_module(sys.argv[1])
for line in sys.stdin:
  arguments, path = json.loads(line)
  child = os.fork()
  if not child:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["main", *arguments]
    status = 0
    try:
      getattr(module, "command", module.main)()
    except SystemExit as end:
      status = end.code or 0
      if isinstance(status, str):
        status = print(status, file=sys.stderr) or 1
    except BaseException:
      import traceback
      traceback.print_exc()
      status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  _, status = os.waitpid(child, 0)
  print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Server:
  """Runs command lines of one module."""

  def __init__(self, process: subprocess.Popen, output: pathlib.Path):
    """Takes a server's process and the file for what commands say."""
    self._process, self._output = process, output

  def __call__(self, *arguments: object) -> tuple[int, str]:
    """Returns the status and what was said."""
    request = json.dumps([list(map(str, arguments)), str(self._output)])
    self._process.stdin.write(request + "\n")
    self._process.stdin.flush()
    status = int(self._process.stdout.readline())
    return status, self._output.read_text()


@contextlib.contextmanager
def serve(
  module: str, output: pathlib.Path, environment: Mapping[str, str]
) -> Iterator[Server]:
  """Yields a server of a module's `command`, or else of its `main`."""
  with subprocess.Popen(
    [sys.executable, "-c", _SERVER, module],
    env=environment,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    yield Server(process, output)
    process.stdin.close()


def error_of(status: int, said: str, wanted: int = 1) -> str:
  """Returns what an error says; nothing else may have been said.

  Args:
    status: of the command.
    said: all that it printed.
    wanted: the status that it should have.
  """
  assert status == wanted, said
  assert "Traceback" not in said, said
  assert said.startswith("error: "), said
  assert len(said.split("error: ")) == 2, said
  text, _, where = said.partition("(where it happened: ")
  assert len(where.splitlines()) == bool(where), said
  return text.removeprefix("error: ").rstrip("\n")
