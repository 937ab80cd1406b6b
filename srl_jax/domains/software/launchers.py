# SPDX-License-Identifier: Apache-2.0
"""Command lines that start a sandbox: by bubblewrap, podman or docker.

Each starts supervisor.py as process 1 of something that has no network, sees a
system that it cannot write, and has memory file systems of limited size where
it can. sandbox.py starts them and says what to do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from srl_jax import strict

WORK = "/testbed"
_SUPERVISOR = pathlib.Path(__file__).with_name("supervisor.py")
_SUPERVISOR_INSIDE = "/run/supervisor.py"
# "nobody"; nothing of the system belongs to it.
_NOBODY = 65534
# What programs want to find in /etc; nothing that names users or secrets.
_ETC = (
  "alternatives",
  "ld.so.cache",
  "ld.so.conf",
  "ld.so.conf.d",
  "localtime",
  "mime.types",
  "protocols",
  "services",
)
# What tests of software find on any machine, under the sandbox's own user.
ETC_TEXTS = {
  "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
  "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
  "passwd": "root:x:0:0::/root:/bin/bash\n"
  "agent:x:1000:1000::/tmp:/bin/bash\n"
  "nobody:x:65534:65534::/nonexistent:/bin/false\n",
  "group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
}
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_INSTALL = {
  "bubblewrap": "install bubblewrap (apt-get install bubblewrap)",
  "podman": "install podman (apt-get install podman)",
  "docker": "install docker, start its daemon",
}
_PROGRAMS = {"bubblewrap": "bwrap", "podman": "podman", "docker": "docker"}


class SandboxError(Exception):
  """A sandbox cannot be started, or has ended by itself."""


class ExhaustedError(SandboxError):
  """What ran in a sandbox has used up its memory, and so ended it."""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What the commands of a sandbox may use.

  Attributes:
    wall_s: seconds for one command, unless it is given others.
    cpu_s: seconds of CPU for one process of a command; in proportion more for
      a command that is given more than wall_s, as hidden tests are.
    memory_bytes: memory of all processes together. With a cgroup the kernel
      keeps it, files in the sandbox included. Without one it is also the limit
      of each process's address space, and a command over it is ended within a
      fraction of a second.
    processes: number of processes and threads.
    disk_bytes: size of the private copy of the repository, and of /tmp.
    file_bytes: size of one file.
    output_bytes: what one command may write to its stdout and stderr; it is
      ended if it writes more.
  """

  wall_s: float = 60.0
  cpu_s: int = 120
  memory_bytes: int = 4 << 30
  processes: int = 256
  disk_bytes: int = 2 << 30
  file_bytes: int = 512 << 20
  output_bytes: int = 16 << 20

  def __post_init__(self):
    strict.check_numbers(
      self, **{field.name: "(0, )" for field in dataclasses.fields(self)}
    )


@dataclasses.dataclass(frozen=True)
class SandboxConfig:
  """How sandboxes are made.

  Attributes:
    kind: the program that makes them.
    image: name of the image, for podman and docker. It must have python3 (3.9
      or later), bash, git, tar and patch. Tasks that name an image of their own
      get that.
    python: the Python interpreter (3.7 or later) of the repository's
      environment, with pytest (6.2 or later) for the hidden tests; its folder
      comes first in PATH. With an image, an absolute path in it; "" for its
      python3. With bubblewrap, a path of this machine, whose folder is readable
      in the sandbox; "" for the one that runs this. Tasks that name a Python of
      their own get that.
    readable: for bubblewrap, further files and folders of this machine that
      are readable in the sandbox, at the same path. /usr always is.
    limits: what commands may use.
  """

  kind: Literal["bubblewrap", "podman", "docker"] = "bubblewrap"
  image: str = ""
  python: str = ""
  readable: tuple[str, ...] = ()
  limits: Limits = Limits()

  def __post_init__(self):
    strict.check_literals(self)
    if bool(self.image) == (self.kind == "bubblewrap"):
      raise ValueError(
        f"kind={self.kind!r} with image={self.image!r}: podman and docker need "
        "an image, bubblewrap has none"
      )
    if self.image and self.readable:
      raise ValueError(
        f"kind={self.kind!r} shows no folder of this machine; leave readable "
        "out"
      )
    if self.image and self.python[:1] not in ("", "/"):
      raise ValueError(
        f"python={self.python!r} with an image; write its path in the image, "
        "such as /opt/miniconda3/envs/testbed/bin/python"
      )

  @property
  def interpreter(self) -> str:
    """The path of Python inside of the sandbox."""
    if self.image:
      return self.python or "python3"
    return os.path.abspath(self.python) if self.python else sys.executable


def find_program(config: SandboxConfig) -> str:
  """Returns the path of the program that makes the sandboxes.

  Raises:
    SandboxError: it is not installed; the message says what to do.
  """
  program = shutil.which(_PROGRAMS[config.kind])
  if program is None:
    others = " or ".join(
      f'set kind="{kind}"' for kind in _PROGRAMS if kind != config.kind
    )
    raise SandboxError(
      f"commands that a model wrote run only in a sandbox, and there is no "
      f"{_PROGRAMS[config.kind]!r} here; {_INSTALL[config.kind]}, or {others}"
    )
  return program


def command_line(
  config: SandboxConfig,
  mounts: Sequence[str],
  parent: int,
  info: int,
  texts: Mapping[str, int],
) -> list[str]:
  """Returns the command that starts a sandbox.

  Args:
    config: how it is made.
    mounts: further files or folders to be readable, "PATH" or "PATH:INSIDE".
    parent: open file of the process with which the sandbox ends.
    info: open file to which bubblewrap writes what it has started.
    texts: open files with ETC_TEXTS, by name, which bubblewrap reads.

  Raises:
    SandboxError: the program is not installed.
    ValueError: a file to be readable does not exist.
  """
  pairs = [(x, y or x) for x, _, y in (m.partition(":") for m in mounts)]
  for path, _ in pairs:
    if not os.path.exists(path):
      raise ValueError(f"there is no {path}, which the sandbox is to show")
  pairs.append((str(_SUPERVISOR), _SUPERVISOR_INSIDE))
  program = find_program(config)
  settings = {"user": None, "parent": None}
  if config.image:
    launch = [*_container(config, pairs), "python3"]
  else:
    settings["parent"] = parent
    if os.geteuid() == 0:
      settings["user"] = _NOBODY
    # A virtual environment's own interpreter would need its site packages.
    python = os.path.realpath(config.interpreter)
    launch = [*_bubblewrap(config, pairs, info, texts), python]
  arguments = ["-I", "-S", _SUPERVISOR_INSIDE, json.dumps(settings)]
  return [program, *launch, *arguments]


def _bubblewrap(
  config: SandboxConfig,
  mounts: Sequence[tuple[str, str]],
  info: int,
  texts: Mapping[str, int],
) -> list[str]:
  """Arguments of bubblewrap.

  Root needs no user namespace to make the others. supervisor.py gives root up
  at once and puts each command into a user namespace, where root's exemption
  from limits does not hold.
  """
  disk = config.limits.disk_bytes
  arguments = ["--unshare-user", "--uid", "1000", "--gid", "1000"]
  arguments = ["--disable-userns", *arguments] if os.geteuid() else []
  arguments += [
    *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
    *("--unshare-cgroup-try", "--hostname", "sandbox"),
    *("--new-session", "--as-pid-1", "--info-fd", str(info)),
    *("--ro-bind", "/usr", "/usr"),
  ]
  for name in _SYSTEM:
    if os.path.islink(f"/{name}"):
      arguments += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
    else:
      arguments += ["--ro-bind-try", f"/{name}", f"/{name}"]
  arguments += ["--dir", "/etc"]
  for name in _ETC:
    arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
  for name, file in texts.items():
    arguments += [
      "--perms",
      "0644",
      "--ro-bind-data",
      str(file),
      f"/etc/{name}",
    ]
  arguments += ["--proc", "/proc", "--dev", "/dev"]
  for path, size in (
    ("/dev/shm", disk // 4),
    ("/tmp", disk),
    (WORK, disk),
  ):
    arguments += ["--perms", "1777", "--size", str(size), "--tmpfs", path]
  readable = [*python_folders(config.interpreter), *config.readable]
  for path, inside in [*((path, path) for path in readable), *mounts]:
    # Folders that bubblewrap makes on the way are closed to other users.
    for parent in [*pathlib.PurePath(inside).parents][-2::-1]:
      arguments += ["--dir", str(parent)]
    arguments += ["--ro-bind", path, inside]
  # Files there would count to no limit.
  return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--"]


def _container(
  config: SandboxConfig, mounts: Sequence[tuple[str, str]]
) -> list[str]:
  limits = config.limits
  arguments = [
    *("run", "--rm", "--interactive", "--network=none", "--read-only"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--user=1000:1000", "--hostname=sandbox"),
    f"--pids-limit={limits.processes}",
    f"--memory={limits.memory_bytes}",
    f"--memory-swap={limits.memory_bytes}",
    f"--shm-size={limits.disk_bytes // 4}",
    # The defaults are more than some users may give.
    *("--ulimit=nofile=1024:1024", "--ulimit=nproc=16384:16384"),
  ]
  if config.kind == "podman":
    arguments.append("--read-only-tmpfs=false")
  for path in ("/tmp", WORK):
    size = f"size={limits.disk_bytes},mode=1777,exec"
    arguments.append(f"--tmpfs={path}:{size}")
  for path, inside in mounts:
    arguments.append(f"--volume={path}:{inside}:ro")
  return [*arguments, config.image]


def python_folders(python: str) -> list[str]:
  """Returns the folders that an interpreter needs, outside of /usr.

  A link to it, in a folder that holds other things, is named alone: such a
  folder may be somebody's home.
  """
  paths = [python]
  while os.path.islink(paths[-1]) and len(paths) < 40:
    target = os.path.join(os.path.dirname(paths[-1]), os.readlink(paths[-1]))
    paths.append(os.path.normpath(target))
  found = []
  for path in (*paths, os.path.realpath(python)):
    folder = os.path.dirname(os.path.dirname(path))
    # The folder of /usr/bin/python is /usr, that of /bin/python is /.
    if folder.split("/")[1] not in ("", "usr", *_SYSTEM):
      found.append(folder if _is_python(pathlib.Path(folder)) else path)
  return list(dict.fromkeys(found))


def _is_python(folder: pathlib.Path) -> bool:
  """Whether a folder is a virtual environment, or where Python lives."""
  is_home = any(folder.glob("lib*/python3*/os.py"))
  return is_home or (folder / "pyvenv.cfg").is_file()
