# SPDX-License-Identifier: Apache-2.0
"""Nothing gets out of a sandbox, and nothing of it is left."""

import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from srl_jax.domains.software import cgroups, launchers
from srl_jax.domains.software import sandbox as sandbox_module
from srl_jax.domains.software.launchers import (
  Limits,
  SandboxConfig,
  SandboxError,
)
from srl_jax.domains.software.sandbox import Sandbox, check_sandbox
from tests.domains.software import drill_for_tests as drill
from tests.domains.software.marks_for_tests import needs_sandbox

CONFIG = SandboxConfig(limits=drill.LIMITS)


@pytest.fixture(scope="module")
def sandbox():
  with Sandbox(CONFIG) as sandbox:
    yield sandbox


@needs_sandbox
@pytest.mark.parametrize("part", drill.DRILL, ids=lambda part: part.__name__)
def test_in_a_sandbox(sandbox, part):
  part(sandbox)


@needs_sandbox
@pytest.mark.skipif(not cgroups.available(), reason="no control group here")
def test_memory_that_belongs_to_no_process_is_limited_by_the_group(sandbox):
  code = """
import os
files = []
for _ in range(80):
  files.append(os.memfd_create("x"))
  os.write(files[-1], bytes(8 << 20))
print("got it")
"""
  ran = drill.python(sandbox, code)
  assert "got it" not in ran.output
  assert ran.cause == "memory"


@needs_sandbox
def test_input_output_errors_and_status_of_a_command_come_back(sandbox):
  text = bytes(range(256)) * 1000
  ran = sandbox.run(["cat"], text)
  assert ran.succeeded
  assert ran.output == text
  # What is not read is dropped.
  assert sandbox.run(["true"], text * 10).status == 0
  command = "echo out; echo err >&2; exit 3"
  ran = sandbox.run(["bash", "-c", command], is_merged=False)
  assert (ran.output, ran.errors, ran.status) == (b"out\n", b"err\n", 3)
  ran = sandbox.run(["bash", "-c", "kill -TERM $$"])
  assert (ran.status, ran.cause) == (-signal.SIGTERM, "")
  with pytest.raises(SandboxError, match=r"No such file.*nonsense"):
    sandbox.run(["nonsense"])
  assert sandbox.run(["true"]).succeeded


@needs_sandbox
def test_an_output_is_held_once_in_the_memory_of_the_sandbox():
  size = 64 << 20
  with Sandbox(CONFIG) as sandbox:
    command = ["head", "-c", str(size), "/dev/zero"]
    for _ in range(2):
      assert len(sandbox.run(command, output_bytes=2 * size).output) == size
    status = pathlib.Path(f"/proc/{sandbox._first}/status").read_text()
  [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status)
  # Some is Python's own, and a growing array has room to spare.
  assert int(peak) << 10 < 1.6 * size


@needs_sandbox
def test_a_path_may_name_the_sandbox_s_own(sandbox):
  # An image's, in a container; here it is what bubblewrap is started with.
  ran = sandbox.run(["env"], variables={"PATH": "/first:$PATH"})
  assert f"PATH=/first:{os.defpath}\n" in ran.output.decode()


@needs_sandbox
def test_a_sandbox_outlives_the_thread_that_has_opened_it():
  opened = []
  thread = threading.Thread(target=lambda: opened.append(Sandbox(CONFIG)))
  thread.start()
  thread.join()
  with opened[0] as sandbox:
    time.sleep(0.2)  # For the kernel's signal, if it came.
    assert sandbox.run(["true"]).succeeded
  with pytest.raises(SandboxError, match="has ended"):
    sandbox.run(["true"])


OPEN_AND_HANG = """
import os, time
from srl_jax.domains.software.sandbox import Sandbox
sandbox = Sandbox()
other = os.fork()  # As data workers are; it has all open files, too.
if other == 0:
  time.sleep(60)
print(other, flush=True)
sleep = f"sleep {98000 + 765}"
sandbox.run(["bash", "-c", f"(setsid {sleep} &) ; {sleep}"], wall_s=99)
"""


def command_lines():
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
      continue


def appear(text, is_wanted, patience_s=10):
  """Waits until a process with the text in its command line is (not) there."""
  limit = time.monotonic() + patience_s
  while time.monotonic() < limit:
    if any(text in line for line in command_lines()) == is_wanted:
      return True
    time.sleep(0.02)
  return False


def groups_of(pid):
  name = f"srl_jax-{pid}-*"
  return [x for folder, _, _ in cgroups._parents() for x in folder.glob(name)]


@needs_sandbox
def test_a_killed_run_leaves_no_process_and_no_folder():
  before = set(os.listdir("/tmp"))
  parent = subprocess.Popen(
    [sys.executable, "-c", OPEN_AND_HANG], stdout=subprocess.PIPE
  )
  other = int(parent.stdout.readline())
  assert appear("sleep 98765", True)
  parent.kill()
  parent.wait()
  parent.stdout.close()
  assert appear("sleep 98765", False)
  os.kill(other, signal.SIGKILL)
  ours = [x for x in set(os.listdir("/tmp")) - before if "srl" in x]
  assert ours == []
  # Its control groups are removed by whoever comes next.
  time.sleep(0.1)
  cgroups.sweep()
  assert not groups_of(parent.pid)


@needs_sandbox
def test_an_orderly_end_leaves_no_process_and_no_group():
  before = groups_of(os.getpid())
  with Sandbox(CONFIG) as sandbox:
    sandbox.run(["true"])
    pids = sandbox._process.pid, sandbox._first
  assert groups_of(os.getpid()) == before
  for pid in pids:
    assert not os.path.exists(f"/proc/{pid}")


@needs_sandbox
def test_a_sandbox_that_does_not_answer_is_ended(monkeypatch):
  monkeypatch.setattr("srl_jax.domains.software.sandbox._GRACE_S", 0.2)
  with Sandbox(CONFIG) as sandbox:
    first = sandbox._first
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(SandboxError, match="did not answer within"):
      sandbox.run(["true"], wall_s=0.2)
    assert not os.path.exists(f"/proc/{first}")


@needs_sandbox
def test_a_sandbox_whose_first_process_is_killed_has_ended():
  with Sandbox(CONFIG) as sandbox:
    os.kill(sandbox._first, signal.SIGKILL)
    with pytest.raises(SandboxError, match="has ended: it was killed"):
      sandbox.run(["true"])


@needs_sandbox
def test_a_folder_of_this_machine_can_be_read_and_not_written(tmp_path):
  (tmp_path / "a").write_text("text")
  tmp_path.chmod(0o755)
  with Sandbox(CONFIG, [f"{tmp_path}:/repository"]) as sandbox:
    assert sandbox.run(["cat", "/repository/a"]).output == b"text"
    ran = drill.bash(sandbox, "echo x > /repository/a; rm /repository/a")
    assert ran.output.count("Read-only file system") == 2
  with pytest.raises(ValueError, match="there is no /nowhere"):
    Sandbox(CONFIG, ["/nowhere:/repository"])


def test_without_bubblewrap_an_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda _: None)
  started = []
  monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
  with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
    Sandbox()
  with pytest.raises(SandboxError, match="install docker"):
    check_sandbox(SandboxConfig(kind="docker", image="x"))
  assert not started


def test_a_system_without_namespaces_is_told_so(monkeypatch, tmp_path):
  program = tmp_path / "bwrap"
  program.write_text(
    "#!/bin/sh\necho No permissions to create new namespace >&2\n"
  )
  program.chmod(0o755)
  monkeypatch.setattr(launchers, "find_program", lambda _: str(program))
  with pytest.raises(SandboxError, match=r"create new namespace\. The kernel"):
    check_sandbox(SandboxConfig())


@needs_sandbox
@pytest.mark.parametrize("missing", ["git", "tar", "patch"])
def test_a_program_that_is_missing_in_the_sandbox_is_named(
  monkeypatch, tmp_path, missing
):
  for name in {"bash", "git", "tar", "patch"} - {missing}:
    (tmp_path / name).symlink_to(f"/usr/bin/{name}")
  tmp_path.chmod(0o755)
  variables = {"PATH": str(tmp_path)}
  monkeypatch.setattr(sandbox_module, "_variables", lambda _: variables)
  with pytest.raises(SandboxError, match=f"{missing}: .*not found"):
    check_sandbox(SandboxConfig(readable=(str(tmp_path),)))


def test_groups_of_version_2_are_made_beside_processes(monkeypatch, tmp_path):
  # A process in a group keeps it from having groups of its own.
  own = tmp_path / "user.slice/session"
  own.mkdir(parents=True)
  (own / "cgroup.subtree_control").write_text("\n")
  (own.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
  texts = {
    "/proc/self/cgroup": "0::/user.slice/session\n",
    "/proc/self/mountinfo": (
      f"31 23 0:28 / {tmp_path} rw,relatime - cgroup2 cgroup2 rw\n"
    ),
  }
  read = cgroups._read
  monkeypatch.setattr(
    cgroups, "_read", lambda path: texts.get(str(path)) or read(path)
  )
  find = cgroups._parents.__wrapped__
  assert find() == ((own.parent, 2, ("memory", "pids")),)
  monkeypatch.setattr(cgroups, "_parents", find)
  group = cgroups.Group(1000, 7)
  [folder] = own.parent.glob("srl_jax-*")
  group.add(4711)
  assert {file.name: file.read_text() for file in folder.iterdir()} == {
    "memory.max": "1000",
    "memory.swap.max": "0",
    "pids.max": "7",
    "cgroup.procs": "4711",
  }
  (folder / "memory.events").write_text("oom 3\noom_kill 2\n")
  assert group.memory_kills() == 2
  # Without the controllers there are no groups.
  (own.parent / "cgroup.subtree_control").write_text("cpu\n")
  assert find() == ()


@pytest.mark.parametrize(
  ("limits", "message"),
  [
    ({"processes": 0}, "processes=0; set it to above 0"),
    ({"wall_s": math.inf}, "wall_s=inf; set it to above 0"),
  ],
)
def test_a_limit_of_nothing_or_of_infinity_is_refused(limits, message):
  with pytest.raises(ValueError, match=message):
    Limits(**limits)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"kind": "chroot"}, "allowed is 'bubblewrap' or 'podman'"),
    ({"kind": "docker"}, "need an image"),
    ({"image": "x"}, "bubblewrap has none"),
    ({"kind": "podman", "image": "x", "readable": ("/p",)}, "leave readable"),
    ({"kind": "docker", "image": "x", "python": "p"}, "its path in the image"),
  ],
)
def test_a_config_that_cannot_be_meant_is_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    SandboxConfig(**changes)


def test_a_container_gets_the_same_limits(monkeypatch):
  monkeypatch.setattr(launchers, "find_program", lambda _: "podman")
  limits = Limits(memory_bytes=1000, processes=7, disk_bytes=4000)
  config = SandboxConfig(kind="podman", image="image", limits=limits)
  line = launchers.command_line(config, ["/:/repository"], 3, 4, {})
  for argument in (
    "--network=none",
    "--read-only",
    "--cap-drop=ALL",
    "--memory=1000",
    "--memory-swap=1000",
    "--pids-limit=7",
    "--tmpfs=/testbed:size=4000,mode=1777,exec",
    "--volume=/:/repository:ro",
  ):
    assert argument in line[: line.index("image")]


@pytest.mark.parametrize(
  ("python", "interpreter", "path"),
  [
    ("", "python3", "$PATH"),
    ("/opt/testbed/bin/python", "/opt/testbed/bin/python", "/opt/testbed/bin:"),
  ],
)
def test_a_container_has_the_path_of_its_image(python, interpreter, path):
  config = SandboxConfig(kind="docker", image="image", python=python)
  assert config.interpreter == interpreter
  variables = sandbox_module._variables(config)
  assert variables["PATH"] == path.removesuffix("$PATH") + "$PATH"


def test_the_folders_of_an_interpreter_are_found(tmp_path):
  for folder in ("base/bin", "base/lib/python3.12", "venv/bin", "home/bin"):
    (tmp_path / folder).mkdir(parents=True)
  for file in ("base/bin/python3", "base/lib/python3.12/os.py"):
    (tmp_path / file).touch()
  (tmp_path / "venv/pyvenv.cfg").touch()
  (tmp_path / "current").symlink_to("base")
  python = tmp_path / "venv/bin/python"
  python.symlink_to(tmp_path / "current/bin/python3")
  link = tmp_path / "home/bin/python"
  link.symlink_to("../../venv/bin/python")

  def found(path):
    return [
      str(pathlib.Path(x).relative_to(tmp_path))
      for x in launchers.python_folders(str(path))
    ]

  assert found(python) == ["venv", "current", "base"]
  # Not the home, which holds more than the link.
  assert found(link) == ["home/bin/python", "venv", "current", "base"]
  assert launchers.python_folders("/usr/bin/python3") == []


@needs_sandbox
def test_an_interpreter_is_found_behind_links(tmp_path):
  link = tmp_path / "home" / "bin" / "python"
  link.parent.mkdir(parents=True)
  (tmp_path / "home" / "secret").write_text("x")
  link.symlink_to(sys.executable)
  config = SandboxConfig(python=str(link))
  check_sandbox(config)
  with Sandbox(config) as sandbox:
    assert not sandbox.run(["cat", str(tmp_path / "home/secret")]).succeeded


@needs_sandbox
def test_the_sandbox_has_users_a_host_name_and_services(sandbox):
  code = """
import os, pathlib, pwd, socket
print(pwd.getpwuid(os.getuid())[0], os.path.expanduser("~agent"))
server = socket.create_server(("localhost", 0))
socket.create_connection((socket.gethostname(), server.getsockname()[1]))
pathlib.Path("/usr").owner(), pathlib.Path("/usr").group()
print(pwd.getpwnam("root")[2], os.path.exists("/etc/services"))
"""
  want = f"agent /tmp\n0 {os.path.exists('/etc/services')}\n"
  assert drill.python(sandbox, code).output == want
  assert not drill.bash(sandbox, "echo >> /etc/hosts").succeeded
