# SPDX-License-Identifier: Apache-2.0
"""The first process inside of a sandbox, which runs one command at a time.

sandbox.py starts this file with `python -I -S` as process 1 of the sandbox and
talks to it by its stdin and stdout: a line of JSON, then as many bytes as the
line says. Nothing else of srl_jax is there, so this file imports the standard
library only.

A command cannot harm process 1: the kernel gives it no signals from inside of
the sandbox, and it is not dumpable, so that no other process may trace it or
open its files. When a command has ended, all processes that it left are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

_SET_DUMPABLE = 4
_CLONE_NEWUSER = 0x10000000
_JOIN_SESSION_KEYRING = 1
_KEYCTL = {"x86_64": 250, "aarch64": 219}
# How often the memory of all processes together is looked at.
_SAMPLE_S = 0.1
_CHUNK = 1 << 16

_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
  """Gives up root, says that it is ready, and answers until the parent ends."""
  settings = json.loads(sys.argv[1])
  user, parent = settings["user"], settings["parent"]
  requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
  nothing = os.open(os.devnull, os.O_RDWR)
  os.dup2(nothing, 0)
  os.dup2(nothing, 1)
  if user is not None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
  _prctl(_SET_DUMPABLE, 0)
  _leave_keys()
  wake_read, wake_write = os.pipe()
  os.set_blocking(wake_read, False)
  os.set_blocking(wake_write, False)
  signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  _send(replies, {"is_ready": True}, b"", b"")
  # Here a process that could not be prepared says why.
  problem_read, problem_write = os.pipe()
  os.set_blocking(problem_read, False)
  # Both say that the parent is gone. Its processes may keep the pipe open, and
  # in a container there is no file that stands for the parent.
  signs = [requests.fileno()] + ([] if parent is None else [parent])
  while line := _next_request(requests, parent):
    request = json.loads(line)
    payload = requests.read(request["payload_bytes"])
    try:
      prepare = functools.partial(
        _prepare, request["limits"], user, problem_write
      )
      reply = _Run(request, payload, prepare, signs, wake_read).finish()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
      _kill_all()
      reply = {"error": _why_not_started(error, problem_read)}, b"", b""
    _send(replies, *reply)
    del reply  # Else it would be there beside that to the next request.


def _next_request(requests: BinaryIO, parent: int | None) -> bytes:
  if parent is not None:
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(parent, select.POLLIN)
    if parent in (number for number, _ in poll.poll()):
      return b""
  return requests.readline()


class _Run:
  """One command, from its start until no process of it is left."""

  def __init__(
    self,
    request: dict[str, Any],
    payload: bytes,
    prepare: Callable[[], None],
    signs: list[int],
    wake: int,
  ) -> None:
    self._limits = request["limits"]
    self._left_to_write = memoryview(payload)
    self._signs, self._wake = signs, wake
    self._cpu_s = 0.0
    self._status: int | None = None
    self._cause = ""
    self._begin = time.monotonic()
    variables = request["variables"]
    # The sandbox's own, which is the image's in a container.
    own = os.environ.get("PATH", os.defpath)
    variables["PATH"] = variables["PATH"].replace("$PATH", own)
    self._process = subprocess.Popen(
      request["arguments"],
      stdin=subprocess.PIPE if payload else subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT if request["is_merged"] else subprocess.PIPE,
      cwd=request["folder"],
      env=variables,
      preexec_fn=prepare,
    )
    pipes = (self._process.stdout, self._process.stderr)
    self._outputs = {x.fileno(): bytearray() for x in pipes if x is not None}

  def finish(self) -> tuple[dict[str, Any], bytearray, bytearray]:
    """Waits for the end, kills what is left, and returns the reply."""
    poll = select.poll()
    for number in (*self._outputs, *self._signs, self._wake):
      poll.register(number, select.POLLIN)
    if self._process.stdin is not None:
      os.set_blocking(self._process.stdin.fileno(), False)
      poll.register(self._process.stdin, select.POLLOUT)
    try:
      while self._status is None and not self._cause:
        self._check_limits()
        for number, _ in poll.poll(1000 * _SAMPLE_S):
          self._serve(number, poll)
    finally:
      _kill_all(self._note_end)
    for number in self._outputs:
      while self._read(number):
        pass
    wall_s = time.monotonic() - self._begin
    report = {
      "status": self._status,
      "cause": self._cause,
      "cpu_s": self._cpu_s,
      "wall_s": wall_s,
    }
    outputs = [*self._outputs.values()]
    self._process.returncode = self._status  # It has been waited for.
    for pipe in (self._process.stdin, self._process.stdout):
      if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
          pipe.close()
    if self._process.stderr is not None:
      self._process.stderr.close()
    return report, outputs[0], outputs[1] if outputs[1:] else bytearray()

  def _serve(self, number: int, poll: select.poll) -> None:
    """Does what a file that is ready asks for."""
    if number in self._signs:
      # No request comes while one is carried out: the parent is gone.
      os._exit(1)
    elif number == self._wake:
      with contextlib.suppress(BlockingIOError):
        os.read(self._wake, _CHUNK)
      _reap(self._note_end, os.WNOHANG)
    elif number in self._outputs:
      if not self._read(number):
        poll.unregister(number)
    elif not self._write():
      poll.unregister(number)
      with contextlib.suppress(BrokenPipeError):
        self._process.stdin.close()

  def _read(self, number: int) -> bool:
    """Takes what a pipe holds; returns False at its end or past the limit."""
    kept = sum(map(len, self._outputs.values()))
    room = self._limits["output_bytes"] - kept
    data = os.read(number, _CHUNK)
    self._outputs[number] += data[:room]
    if len(data) > room:
      self._cause = self._cause or "output"
      return False
    return bool(data)

  def _write(self) -> bool:
    """Passes input on; returns whether more is left."""
    try:
      count = os.write(
        self._process.stdin.fileno(), self._left_to_write[:_CHUNK]
      )
    except BlockingIOError:
      return True
    except BrokenPipeError:
      return False
    self._left_to_write = self._left_to_write[count:]
    return bool(self._left_to_write)

  def _note_end(self, pid: int, status: int, cpu_s: float) -> None:
    self._cpu_s += cpu_s
    if pid == self._process.pid:
      self._status = os.waitstatus_to_exitcode(status)

  def _check_limits(self) -> None:
    if time.monotonic() - self._begin > self._limits["wall_s"]:
      self._cause = "wall time"
    limit = self._limits["sampled_bytes"]
    if limit and _resident_bytes() > limit:
      self._cause = "memory"


def _prctl(option: int, value: int) -> None:
  if _LIBC.prctl(option, value, 0, 0, 0):
    raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _leave_keys() -> None:
  """Leaves the keyring that sessions of the kernel inherit, if it has any."""
  number = _KEYCTL.get(os.uname().machine)
  if number is not None:
    _LIBC.syscall(number, _JOIN_SESSION_KEYRING, None)


def _why_not_started(error: Exception, problem_read: int) -> str:
  try:
    return os.read(problem_read, _CHUNK).decode()
  except BlockingIOError:
    return str(error)


def _prepare(
  limits: dict[str, Any], user: int | None, problem_write: int
) -> None:
  try:
    _become_harmless(limits, user)
  except OSError as error:
    os.write(problem_write, str(error).encode())
    raise


def _become_harmless(limits: dict[str, Any], user: int | None) -> None:
  """Prepares a new process: a session, a user namespace, limits."""
  os.setsid()
  _prctl(_SET_DUMPABLE, 1)  # Else the files in /proc/self are root's.
  if user is not None:
    if _LIBC.unshare(_CLONE_NEWUSER):
      raise OSError(ctypes.get_errno(), "no user namespace can be made")
    _write_file("/proc/self/setgroups", "deny")
    _write_file("/proc/self/uid_map", f"1000 {user} 1")
    _write_file("/proc/self/gid_map", f"1000 {user} 1")
    _write_file("/proc/sys/user/max_user_namespaces", "0")
  # If memory runs out, the system takes a command rather than process 1.
  _write_file("/proc/self/oom_score_adj", "1000")
  for name, value in limits["resources"].items():
    resource.setrlimit(getattr(resource, name), (value, value))


def _write_file(path: str, text: str) -> None:
  with open(path, "w", encoding="ascii") as file:
    file.write(text)


def _kill_all(note: Any = lambda *_: None) -> None:
  """Kills all other processes of the sandbox and waits for their ends."""
  with contextlib.suppress(ProcessLookupError):
    os.kill(-1, signal.SIGKILL)
  _reap(note, 0)


def _reap(note: Any, options: int) -> None:
  """Takes note of ended processes, until none has ended or none is left."""
  with contextlib.suppress(ChildProcessError):
    while True:
      pid, status, usage = os.wait4(-1, options)
      if pid == 0:
        return
      note(pid, status, usage.ru_utime + usage.ru_stime)


def _resident_bytes() -> int:
  """Memory that all processes hold; shared pages are counted in parts."""
  total = 0
  for name in os.listdir("/proc"):
    if name.isdigit() and name != "1":
      # A process may end, or hide, while it is looked at.
      with (
        contextlib.suppress(OSError),
        open(f"/proc/{name}/smaps_rollup", encoding="ascii") as file,
      ):
        total += sum(
          1024 * int(line.split()[1]) for line in file if line[:4] == "Pss:"
        )
  return total


def _send(
  stream: BinaryIO,
  report: dict[str, Any],
  output: bytes | bytearray,
  errors: bytes | bytearray,
) -> None:
  sizes = {"output_bytes": len(output), "error_bytes": len(errors)}
  stream.write(json.dumps(report | sizes).encode() + b"\n")
  # An output can be a whole repository, and a copy counts as memory, too.
  stream.write(output)
  stream.write(errors)
  stream.flush()


if __name__ == "__main__":
  main()
