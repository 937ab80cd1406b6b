# SPDX-License-Identifier: Apache-2.0
"""The escape drill: commands that try to get out of a sandbox, or to flood it.

Each function takes an open sandbox and fails if something got through. As a
script, it does the drill as whoever starts it, without the libraries of
srl_jax, which another user's Python may lack.
"""

import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import sys
import tempfile
import time
import types

if __name__ == "__main__":
  root = pathlib.Path(__file__).parents[3]
  for name in ("srl_jax", "srl_jax.domains", "srl_jax.domains.software"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")))]

from srl_jax.domains.software.launchers import Limits, SandboxConfig
from srl_jax.domains.software.sandbox import Sandbox

SECRET = "drill-secret-4711"
LIMITS = Limits(
  wall_s=20,
  cpu_s=1,
  memory_bytes=300 << 20,
  processes=40,
  disk_bytes=32 << 20,
  file_bytes=8 << 20,
  output_bytes=1 << 20,
)


def bash(sandbox, command, **settings):
  ran = sandbox.run(["bash", "-c", command], **settings)
  return ran._replace(output=ran.output.decode(errors="replace"))


def python(sandbox, code, **settings):
  """Runs Python code, whatever interpreter the sandbox shows."""
  ran = sandbox.run(["python3", "-I", "-S", "-c", code], **settings)
  return ran._replace(output=ran.output.decode(errors="replace"))


def only_the_command_is_alive(sandbox):
  text = bash(sandbox, "echo /proc/[0-9]*").output
  # Process 1, and bash itself.
  assert len(text.split()) == 2, text


def the_network_is_unreachable(sandbox):
  listener = socket.create_server(("127.0.0.1", 0))
  hidden = socket.socket(socket.AF_UNIX)
  hidden.bind(f"\0drill-{os.getpid()}")
  hidden.listen()
  code = f"""
import socket
for family, address in [
    (socket.AF_INET, {listener.getsockname()}),
    (socket.AF_INET, ("8.8.8.8", 53)),
    (socket.AF_UNIX, "\\0drill-{os.getpid()}")]:
  try:
    socket.socket(family).connect(address)
    print("connected to", address)
  except OSError as error:
    print(type(error).__name__)
"""
  with contextlib.closing(listener), contextlib.closing(hidden):
    output = python(sandbox, code).output
  assert len(output.split()) == 3, output
  assert "connected" not in output, output


def files_of_the_parent_are_not_there(sandbox):
  with tempfile.NamedTemporaryFile("w", dir="/var/tmp") as file:
    file.write(SECRET)
    file.flush()
    os.chmod(file.name, 0o644)
    ran = bash(
      sandbox,
      f"cat {file.name}; cat /proc/1/root{file.name}; ln -s {file.name} /tmp/l;"
      " cat /tmp/l; cat /etc/shadow /etc/ssh/*; ls -A /root/.ssh; "
      f"grep -r {SECRET} /run /etc /dev/shm; rm /tmp/l",
    )
  assert SECRET not in ran.output
  for line in ran.output.splitlines():
    assert "No such file" in line or "Permission denied" in line, line


def variables_of_the_parent_are_not_there(sandbox):
  os.environ["DRILL_TOKEN"] = SECRET
  try:
    with Sandbox(sandbox.config) as fresh:
      for box in (sandbox, fresh):
        ran = bash(
          box, "env; cat /proc/*/environ | tr '\\0' '\\n'; cat /proc/*/cmdline"
        )
        assert "PATH=" in ran.output
        assert SECRET not in ran.output
  finally:
    del os.environ["DRILL_TOKEN"]


def keys_of_the_parent_are_not_there(sandbox):
  if os.uname().machine != "x86_64":
    return
  libc = ctypes.CDLL(None, use_errno=True)
  # add_key to the session's keyring, which children inherit.
  key = libc.syscall(248, b"user", b"drill", SECRET.encode(), len(SECRET), -3)
  search = "ctypes.CDLL(None).syscall(250, 10, -3, b'user', b'drill', 0)"
  if key < 0 or libc.syscall(250, 10, -3, b"user", b"drill", 0) != key:
    return  # This kernel has no keys.
  with Sandbox(sandbox.config) as fresh:
    output = python(fresh, f"import ctypes; print({search})").output
  libc.syscall(250, 9, key, -3)  # Unlinks it.
  assert output == "-1\n"


def nothing_outside_can_be_written(sandbox):
  ran = bash(
    sandbox,
    "for d in / /usr /usr/bin /etc /dev /run /proc /proc/sys/kernel /sys /root "
    "/home /var /testbed /tmp /dev/shm; do "
    "(: > $d/drill) 2>/dev/null && echo $d; done; "
    "(echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && echo core_pattern;"
    "(: >> /run/supervisor.py) 2>/dev/null && echo supervisor; "
    "rm -f /testbed/drill /tmp/drill /dev/shm/drill",
  )
  assert ran.output.split() == ["/testbed", "/tmp", "/dev/shm"]
  found = bash(
    sandbox,
    "find / /dev -xdev -writable ! -type l -exec test ! -c {} ';' -print "
    "2>/dev/null",
  ).output
  # Terminals and short message queues only.
  harmless = {"/dev/pts", "/dev/mqueue"}
  writable = {"/testbed", "/tmp", "/dev/shm"}
  assert not set(found.split()) - writable - harmless, found


def a_link_out_of_the_copy_leads_nowhere(sandbox):
  ran = bash(
    sandbox,
    "cd /testbed; ln -s / root; ln -s ../../../../var/tmp up; ls root; "
    "echo x > up/drill; echo x > root/etc/drill; rm root up",
  )
  assert "proc" in ran.output.split()  # It is the sandbox's own root.
  assert (
    ran.output.count("No such file")
    + ran.output.count("Read-only")
    + (ran.output.count("Permission denied"))
    == 2
  ), ran.output


def the_parent_and_process_1_cannot_be_killed(sandbox):
  code = f"""
import os, signal
for pid in ({os.getpid()}, {os.getppid()}, 1):
  for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
    try:
      os.kill(pid, number)
    except OSError as error:
      print(pid, type(error).__name__)
"""
  ran = python(sandbox, code)
  assert ran.output.count("ProcessLookupError") == 6, ran.output
  bash(sandbox, "kill -9 -1; kill -STOP -1")
  assert bash(sandbox, "echo alive").output == "alive\n"


def process_1_cannot_be_traced_or_opened(sandbox):
  code = """
import ctypes, os
print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))
for name in ("mem", "environ", "maps", "fd/0"):
  try:
    print("opened", os.open("/proc/1/" + name, os.O_RDONLY))
  except OSError as error:
    print(type(error).__name__)
"""
  output = python(sandbox, code).output.split()
  assert output == ["-1"] + 4 * ["PermissionError"], output


def no_command_becomes_more_than_an_ordinary_user(sandbox):
  ran = bash(
    sandbox,
    "id -u; grep -E '^Cap(Prm|Eff|Inh|Amb)|NoNewPrivs' /proc/self/status; "
    "unshare -m true || echo refused; "
    "mount -t tmpfs x /tmp || echo refused; chroot / true || echo refused",
  )
  lines = ran.output.split("\n")
  assert lines[0] == "1000"
  assert [line.split()[-1] for line in lines[1:6]] == 4 * ["0" * 16] + ["1"]
  assert lines.count("refused") == 3, ran.output
  # Containers have filters of their own for this.
  if not sandbox.config.image:
    assert bash(sandbox, "unshare -U true").status == 1


def a_fork_bomb_ends(sandbox):
  ran = bash(sandbox, ":(){ :|:& };:; sleep 1")
  assert ran.wall_s < 30
  only_the_command_is_alive(sandbox)
  code = """
import os, time
count = 0
try:
  while True:
    if os.fork() == 0:
      time.sleep(60)
    count += 1
except OSError:
  print(count)
"""
  count = int(python(sandbox, code).output)
  assert LIMITS.processes // 2 < count <= LIMITS.processes
  only_the_command_is_alive(sandbox)


def endless_output_ends(sandbox):
  for command in ("yes", "yes >&2", "cat /dev/zero"):
    ran = bash(sandbox, command)
    assert ran.cause == "output"
    assert len(ran.output) == LIMITS.output_bytes
    assert ran.wall_s < 30


def a_sleeping_command_ends(sandbox):
  for command in ("sleep 60", "trap '' TERM INT HUP; sleep 60; sleep 60"):
    ran = bash(sandbox, command, wall_s=0.3)
    assert ran.cause == "wall time"
    assert ran.wall_s < 30


def background_processes_end_with_their_command(sandbox):
  ran = bash(
    sandbox,
    "sleep 60 & (setsid nohup sleep 61 >/dev/null 2>&1 &); "
    "(trap '' HUP TERM; sleep 62) & disown -a; echo done",
  )
  assert ran.output.endswith("done\n")
  assert ran.wall_s < 30
  only_the_command_is_alive(sandbox)


def a_busy_process_ends(sandbox):
  ran = bash(sandbox, "while :; do :; done")
  assert (ran.status, ran.cause) == (-signal.SIGKILL, "")
  assert ran.cpu_s < 5


def memory_is_limited(sandbox):
  ran = python(sandbox, "x = bytearray(1 << 30)\nprint('got it')")
  assert "got it" not in ran.output
  # Six processes, each of them well within the limit of one.
  code = """
import os, time
for _ in range(6):
  if os.fork() == 0:
    x = bytearray(100 << 20)
    for i in range(0, len(x), 4096): x[i] = 1
    time.sleep(2)
    print("got it", flush=True)
    os._exit(0)
for _ in range(6): os.wait()
"""
  ran = python(sandbox, code)
  assert ran.output.count("got it") < 4, ran
  assert bash(sandbox, "echo alive").output == "alive\n"


def disk_is_limited(sandbox):
  ran = bash(
    sandbox, "head -c 20000000 /dev/zero > /testbed/big; ls -s /testbed"
  )
  assert "File size limit" in ran.output or ran.status == 0
  size = bash(sandbox, "stat -c %s /testbed/big").output
  assert int(size) == LIMITS.file_bytes
  for folder in ("/testbed", "/tmp", "/dev/shm"):
    ran = bash(
      sandbox,
      f"cd {folder}; for i in 1 2 3 4 5 6; do head -c 8000000 /dev/zero > f$i; "
      "done; du -cb f? | tail -1; rm -f f? big",
    )
    assert "No space left" in ran.output
    assert int(ran.output.split()[-2]) <= LIMITS.disk_bytes


DRILL = (
  the_network_is_unreachable,
  files_of_the_parent_are_not_there,
  variables_of_the_parent_are_not_there,
  keys_of_the_parent_are_not_there,
  nothing_outside_can_be_written,
  a_link_out_of_the_copy_leads_nowhere,
  the_parent_and_process_1_cannot_be_killed,
  process_1_cannot_be_traced_or_opened,
  no_command_becomes_more_than_an_ordinary_user,
  a_fork_bomb_ends,
  endless_output_ends,
  a_sleeping_command_ends,
  background_processes_end_with_their_command,
  a_busy_process_ends,
  memory_is_limited,
  disk_is_limited,
)


def main():
  """Does the whole drill in one sandbox and prints the names of its parts.

  The arguments are a kind of sandbox, and its Python or its image.
  """
  kind, what = sys.argv[1:]
  field = "python" if kind == "bubblewrap" else "image"
  config = SandboxConfig(kind=kind, limits=LIMITS, **{field: what})
  with Sandbox(config) as sandbox:
    for part in DRILL:
      begin = time.monotonic()
      part(sandbox)
      print(f"{time.monotonic() - begin:5.1f} s {part.__name__}", flush=True)


if __name__ == "__main__":
  main()
