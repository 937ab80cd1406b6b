# SPDX-License-Identifier: Apache-2.0
"""Starts one command as several processes of a distributed run, on one machine.

  srl_jax local --processes=2 -- srl_jax train --config=...

The command of each process gets --coordinator_address, --num_processes and
--process_id, and its output lines get the number of the process as a prefix.
When a process fails, the launcher ends the others and returns the status of
the failed one. It forwards SIGTERM and Ctrl-C to all processes, so that they
can save; a second signal ends them at once. Not for: several machines, or
knowing what the command does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

_POLL_S = 0.1
# After a signal, the processes write a checkpoint before they end.
_SAVE_S = 120.0
# After one has died, the others cannot finish an update step or save.
_CRASH_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the launcher and returns its exit status."""
  parser = argparse.ArgumentParser(
    prog="srl_jax local",
    usage="%(prog)s --processes=N -- COMMAND ...",
    description="Starts one command as several processes on this machine.",
  )
  parser.add_argument(
    "--processes", type=int, required=True, help="how many to start"
  )
  parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
  options = parser.parse_args(arguments)
  command = options.command[options.command[:1] == ["--"] :]
  if options.processes < 1:
    parser.error(f"--processes is {options.processes}; use 1 or more")
  if not command:
    parser.error("no command; write it last, e.g. -- srl_jax train")
  try:
    return run(command_lines(command, options.processes))
  except OSError as error:
    parser.error(f"cannot start {command[0]}: {error.strerror}")


def command_lines(command: Sequence[str], processes: int) -> list[list[str]]:
  """Returns the command line of each process of a distributed run."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  return [
    [
      *command,
      f"--coordinator_address=localhost:{port}",
      f"--num_processes={processes}",
      f"--process_id={i}",
    ]
    for i in range(processes)
  ]


def run(commands: Sequence[Sequence[str]]) -> int:
  """Runs commands side by side until all succeed or one fails.

  Returns:
    0, or the status of the first failed process as a shell reports it: 128 +
    signal number for a process that a signal ended.
  """
  signals: queue.SimpleQueue[int] = queue.SimpleQueue()
  former = {
    number: signal.signal(number, lambda number, _: signals.put(number))
    for number in (signal.SIGINT, signal.SIGTERM)
  }
  processes: list[subprocess.Popen] = []
  readers: list[threading.Thread] = []
  try:
    for i, command in enumerate(commands):
      processes.append(_start(command))
      readers.append(
        threading.Thread(target=_copy_lines, args=(processes[i].stdout, i))
      )
      readers[i].start()
    return _wait(processes, signals)
  finally:
    for process in processes:
      _kill(process)
    for reader in readers:
      reader.join()
    for number, handler in former.items():
      signal.signal(number, handler)


def _start(command: Sequence[str]) -> subprocess.Popen:
  return subprocess.Popen(
    command,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    env=os.environ | {"PYTHONUNBUFFERED": "1"},
    # In a session of its own, a process gets Ctrl-C only once, through this
    # launcher, and can be killed together with its children.
    start_new_session=True,
  )


def _wait(
  processes: Sequence[subprocess.Popen], signals: queue.SimpleQueue[int]
) -> int:
  """Waits for all processes; ends them on a signal or when one fails."""
  first_bad = 0
  deadline_s = None
  running = dict(enumerate(processes))
  while running:
    for i, process in list(running.items()):
      if process.poll() is None:
        continue
      del running[i]
      if process.returncode and not first_bad:
        first_bad = _shell_status(process.returncode)
        _say(f"process {i} ended with status {first_bad}")
        if running and deadline_s is None:
          _say("ending the others")
          _signal(running.values(), signal.SIGTERM)
          deadline_s = time.monotonic() + _CRASH_S
    if deadline_s is not None and time.monotonic() > deadline_s:
      for process in running.values():
        _kill(process)
    try:
      number = signals.get(timeout=_POLL_S)
    except queue.Empty:
      continue
    if deadline_s is None:
      _say(f"passing {signal.Signals(number).name} on; once more ends at once")
      _signal(running.values(), number)
      deadline_s = time.monotonic() + _SAVE_S
    else:
      deadline_s = time.monotonic()
  return first_bad


def _signal(processes, number: int) -> None:
  for process in processes:
    # This does nothing if the process has ended.
    process.send_signal(number)


def _kill(process: subprocess.Popen) -> None:
  """Kills a process and its children."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def _shell_status(returncode: int) -> int:
  return returncode if returncode > 0 else 128 - returncode


def _copy_lines(stream: IO[bytes], process_id: int) -> None:
  with stream:
    for line in stream:
      text = line.decode("utf-8", "replace").rstrip("\r\n")
      _write(f"[{process_id}] {text}\n")


def _say(text: str) -> None:
  _write(f"[launch] {text}\n")


def _write(text: str) -> None:
  # One call per line, so that lines of several threads do not mix.
  sys.stdout.write(text)
  sys.stdout.flush()


if __name__ == "__main__":
  sys.exit(main())
