# SPDX-License-Identifier: Apache-2.0
"""Sandboxes: where commands run that a model wrote.

A sandbox lives until it is closed or this process ends, however it ends. All
that it can write is in memory and goes with it. Commands run one after the
other; none outlives its turn. launchers.py says what a sandbox sees, and
supervisor.py is its first process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from srl_jax.domains.software import cgroups
from srl_jax.domains.software.launchers import (
  ETC_TEXTS,
  WORK,
  ExhaustedError,
  SandboxConfig,
  SandboxError,
  command_line,
)

# From the request to start, and for the answer after a limit of time.
_START_S = 60.0
_GRACE_S = 15.0
# From the end of process 1 to that of the sandbox.
_END_S = 10.0
_OPEN_FILES = 1024
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
_ERROR_CHARACTERS = 1000
# Waits until it is in its control group, then becomes the program.
_GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@"', "sh")


class Ran(NamedTuple):
  """What came of a command.

  Attributes:
    output: what it wrote to stdout, and to stderr if both were merged.
    errors: what it wrote to stderr if not merged.
    status: exit code; minus the number of the signal that ended it.
    cause: the limit that ended it: "wall time", "memory" or "output"; "" if
      none did. Limits of single processes show in the status only.
    cpu_s: seconds of CPU of all its processes.
    wall_s: seconds until no process of it was left.
  """

  output: bytes
  errors: bytes
  status: int
  cause: str
  cpu_s: float
  wall_s: float

  @property
  def succeeded(self) -> bool:
    """Whether it ended by itself with exit code 0."""
    return self.status == 0 and not self.cause

  @property
  def signal(self) -> str:
    """Names the signal that ended it and why it may have; "" if none did."""
    if self.cause or self.status >= 0:
      return ""
    number = -self.status
    is_named = number in list(signal.Signals)
    text = signal.Signals(number).name if is_named else str(number)
    is_limit = number in (signal.SIGKILL, signal.SIGXCPU)
    why = ", as at the limit of CPU time or memory" if is_limit else ""
    return f"the signal {text}{why}"


class Sandbox:
  """One sandbox; starts at once."""

  def __init__(
    self, config: SandboxConfig = SandboxConfig(), mounts: Sequence[str] = ()
  ) -> None:
    """Starts it and waits until it is ready.

    Args:
      config: how it is made.
      mounts: files or folders of this machine to be readable, as "PATH" or
        "PATH:INSIDE", besides those of the config.

    Raises:
      SandboxError: it cannot be started.
      ValueError: what is to be readable does not exist.
    """
    self.config = config
    self._owner = os.getpid()
    self._process: subprocess.Popen | None = None
    # Process 1 of the sandbox, as this machine numbers it.
    self._first: int | None = None
    self._has_group = not config.image and cgroups.available()
    self._group: cgroups.Group | None = None
    self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
    self._is_open = True
    try:
      self._start(mounts)
    except OSError as error:
      self.close()
      raise SandboxError(f"the sandbox does not start: {error}") from error
    except BaseException:
      self.close()
      raise

  def run(
    self,
    arguments: Sequence[str],
    payload: bytes = b"",
    *,
    variables: Mapping[str, str] | None = None,
    folder: str = WORK,
    wall_s: float | None = None,
    output_bytes: int | None = None,
    is_merged: bool = True,
  ) -> Ran:
    """Runs a command until it and all that it started has ended.

    Args:
      arguments: the program and its arguments.
      payload: the command's stdin; without one it reads nothing.
      variables: environment variables besides those that all commands have.
      folder: the current folder.
      wall_s: limit of time, instead of the config's.
      output_bytes: limit of the output, instead of the config's.
      is_merged: whether stderr goes where stdout goes.

    Raises:
      SandboxError: the sandbox has ended, or the command cannot be started.
    """
    limits = self.config.limits
    wall_s = limits.wall_s if wall_s is None else wall_s
    request = {
      "arguments": [*arguments],
      "variables": _variables(self.config) | dict(variables or {}),
      "folder": folder,
      "is_merged": is_merged,
      "payload_bytes": len(payload),
      "limits": {
        "wall_s": wall_s,
        "output_bytes": output_bytes or limits.output_bytes,
        "sampled_bytes": 0
        if self._has_group or self.config.image
        else limits.memory_bytes,
        "resources": self._resources(wall_s),
      },
    }
    kills = self._group.memory_kills() if self._group else 0
    message = json.dumps(request).encode() + b"\n" + payload
    report, output, errors = self._exchange(message, wall_s + _GRACE_S)
    if "error" in report:
      raise SandboxError(
        f"the sandbox cannot start a command: {report['error']}"
      )
    cause = report["cause"]
    if not cause and self._group and self._group.memory_kills() > kills:
      cause = "memory"
    return Ran(
      output,
      errors,
      report["status"],
      cause,
      report["cpu_s"],
      report["wall_s"],
    )

  def close(self) -> None:
    """Ends the sandbox with everything in it."""
    if not self._is_open or self._owner != os.getpid():
      return
    self._is_open = False
    if self._process is not None:
      self._kill()
      self._process.wait()
      self._process.stdout.close()
    self._complaints.close()
    if self._group is not None:
      self._group.close()

  def __enter__(self) -> Sandbox:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _start(self, mounts: Sequence[str]) -> None:
    parent = os.pidfd_open(os.getpid())
    info_read, info_write = os.pipe()
    with contextlib.ExitStack() as stack:
      stack.callback(os.close, parent)
      texts = {}
      for name, text in ETC_TEXTS.items():
        file = stack.enter_context(os.fdopen(os.memfd_create(name), "w+b"))
        file.write(text.encode())
        file.seek(0)
        texts[name] = file.fileno()
      info = stack.enter_context(os.fdopen(info_read, "rb"))
      with os.fdopen(info_write, "wb"):
        line = command_line(self.config, mounts, parent, info_write, texts)
        if self._has_group:
          limits = self.config.limits
          # Some processes are the sandbox's own.
          self._group = cgroups.Group(limits.memory_bytes, limits.processes + 8)
          line = [*_GATE, *line]
        self._process = subprocess.Popen(
          line,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=self._complaints,
          # Process 1 of the sandbox must not know this process's variables.
          env=None if self.config.image else {"PATH": os.defpath},
          pass_fds=()
          if self.config.image
          else (parent, info_write, *texts.values()),
          start_new_session=True,
        )
      if self._group is not None:
        self._group.add(self._process.pid)
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
      self._exchange(b"", _START_S, "does not start")
      if not self.config.image:
        self._first = json.loads(info.read())["child-pid"]

  def _kill(self) -> None:
    """Ends the sandbox; a container is asked to end, by the end of its stdin.

    bubblewrap ends after process 1, which ends after all others.
    """
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    # Its number stands for no other process while bubblewrap waits for it.
    if self._first is not None and self._process.poll() is None:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._first, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(_END_S)
    self._process.kill()

  def _resources(self, wall_s: float) -> dict[str, int]:
    limits = self.config.limits
    resources = {
      # More time is of no use without more CPU.
      "RLIMIT_CPU": math.ceil(limits.cpu_s * max(1, wall_s / limits.wall_s)),
      "RLIMIT_FSIZE": limits.file_bytes,
      "RLIMIT_NOFILE": _OPEN_FILES,
      "RLIMIT_CORE": 0,
    }
    # Users of containers are the same in all of them.
    if not self.config.image:
      resources["RLIMIT_NPROC"] = limits.processes
      if not self._has_group:
        resources["RLIMIT_AS"] = limits.memory_bytes
    # More than this process has cannot be given.
    for name, value in resources.items():
      _, most = resource.getrlimit(getattr(resource, name))
      if most != resource.RLIM_INFINITY:
        resources[name] = min(value, most)
    return resources

  def _exchange(
    self, message: bytes, limit_s: float, problem: str = "has ended"
  ) -> tuple[dict[str, Any], bytes, bytes]:
    """Sends a request and waits for the reply; `problem` names a failure."""
    if not self._is_open:
      raise SandboxError("the sandbox has ended")
    is_late = threading.Event()

    def give_up() -> None:
      is_late.set()
      self._kill()

    timer = threading.Timer(limit_s, give_up)
    timer.start()
    try:
      stdin, stdout = self._process.stdin, self._process.stdout
      stdin.write(message)
      stdin.flush()
      line = stdout.readline()
      if not line.endswith(b"\n"):
        raise EOFError
      report = json.loads(line)
      sizes = report["output_bytes"], report["error_bytes"]
      output, errors = map(stdout.read, sizes)
      if (len(output), len(errors)) != sizes:
        raise EOFError
      return report, output, errors
    except (EOFError, OSError, json.JSONDecodeError) as error:
      why = self._why_ended(limit_s if is_late.is_set() else None)
      # Files are in memory, too; ending processes does not free theirs.
      is_full = self._group is not None and self._group.memory_kills() > 0
      self.close()
      kind = ExhaustedError if is_full else SandboxError
      raise kind(f"the sandbox {problem}: {why}") from error
    finally:
      timer.cancel()

  def _why_ended(self, late_s: float | None) -> str:
    if late_s is not None:
      return f"it did not answer within {late_s:g} s"
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(_GRACE_S)
    self._complaints.seek(0)
    text = self._complaints.read().decode(errors="replace").strip()
    code = self._process.poll()
    if code in (-9, 137) and not text:
      return "it was killed, as when memory runs out"
    return text[-_ERROR_CHARACTERS:] or f"exit code {code}"


def check_sandbox(config: SandboxConfig) -> None:
  """Runs a command in a sandbox, to find out early whether there are any.

  Raises:
    SandboxError: there are none; the message says what to do.
  """
  try:
    with Sandbox(config) as sandbox:
      tools = "git --version && tar --version && patch --version"
      command = f"{tools} && exec \"$0\" -c 'import json'"
      ran = sandbox.run(["bash", "-c", command, config.interpreter])
  except SandboxError as error:
    if "amespace" not in str(error):
      raise
    raise SandboxError(
      f"{error}. The kernel allows no namespaces here; ask for user namespaces "
      "(sysctl user.max_user_namespaces, and on Ubuntu 24.04 "
      "kernel.apparmor_restrict_unprivileged_userns=0), or run as root"
    ) from error
  if not ran.succeeded:
    text = ran.output.decode(errors="replace").strip()
    raise SandboxError(
      "commands in the sandbox need bash, git, tar, patch and Python "
      f"({config.interpreter}), but got: {text}"
    )


def _variables(config: SandboxConfig) -> dict[str, str]:
  """Environment variables of all commands."""
  # supervisor.py knows the PATH of an image.
  path = "$PATH" if config.image else _PATH
  if folder := os.path.dirname(config.interpreter):
    path = f"{folder}:{path}"
  return {
    "PATH": path,
    "HOME": "/tmp",
    "USER": "agent",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    # No pager, no progress bars, as the tools of SWE-agent have it.
    "PAGER": "cat",
    "MANPAGER": "cat",
    "GIT_PAGER": "cat",
    "LESS": "-R",
    "PIP_PROGRESS_BAR": "off",
    "TQDM_DISABLE": "1",
    # The folder of the copy can be another user's.
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    # No bytecode between a test and its source.
    "PYTHONDONTWRITEBYTECODE": "1",
  }
