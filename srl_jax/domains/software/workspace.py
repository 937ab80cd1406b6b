# SPDX-License-Identifier: Apache-2.0
"""The agent's copy of a repository, and what the agent has changed in it.

Whatever a repository brings (configuration of git, hooks, filters) can run
programs, so git is called in sandboxes only. The copy is a git repository of
one commit: the history of the original may hold the repair.
"""

from __future__ import annotations

import collections
import io
import os
import re
import tarfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future

from srl_jax.domains.software.launchers import SandboxConfig
from srl_jax.domains.software.sandbox import Ran, Sandbox
from srl_jax.domains.software.tasks import RepairTask

# Copies of large repositories take long.
_COPY_S = 600.0
_ERROR_CHARACTERS = 400
# git without configuration but the repository's own, and without most of that.
GIT = {
  "GIT_CONFIG_NOSYSTEM": "1",
  "GIT_CONFIG_GLOBAL": "/dev/null",
  "GIT_CONFIG_COUNT": "3",
  "GIT_CONFIG_KEY_0": "safe.directory",
  "GIT_CONFIG_VALUE_0": "*",
  "GIT_CONFIG_KEY_1": "core.fsmonitor",
  "GIT_CONFIG_VALUE_1": "false",
  "GIT_CONFIG_KEY_2": "core.hooksPath",
  "GIT_CONFIG_VALUE_2": "/dev/null",
  "GIT_LITERAL_PATHSPECS": "1",
  "GIT_TERMINAL_PROMPT": "0",
}

# A tar of all that is in the current folder, which itself is the sandbox's.
_TAR = """
tar_all() {
  find . -mindepth 1 -maxdepth 1 -printf '%P\\0' |
    tar "$@" -cf - --null --files-from=-
}
"""

_CHECK_OUT = f"""
{_TAR}
set -euo pipefail
cd /testbed
if [ -n "$COMMIT" ]; then
  directory=$(git -C /repository rev-parse --absolute-git-dir)
  export GIT_DIR="$directory" GIT_WORK_TREE=/testbed GIT_INDEX_FILE=/tmp/index
  git rev-parse --quiet --verify "$COMMIT^{{commit}}" > /dev/null ||
    {{ echo "there is no commit $COMMIT" >&2; exit 1; }}
  git read-tree "$COMMIT^{{commit}}"
  git checkout-index --all --force
  unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
else
  # Caches would show what hidden tests expect, and which of them failed.
  (cd /repository &&
    tar_all --exclude=.git --exclude=__pycache__ --exclude=.pytest_cache) |
    tar -xf -
fi
mkdir /tmp/in
tar -C /tmp/in -xf -
git -c init.defaultBranch=main init --quiet .
# The bytes of files are compared, whatever the repository's attributes say.
echo '* -text !eol -ident -filter -working-tree-encoding' > .git/info/attributes
git config user.name agent
git config user.email agent@localhost
if [ -s /tmp/in/bug ]; then git apply --whitespace=nowarn /tmp/in/bug; fi
xargs --null --no-run-if-empty rm -f -- < /tmp/in/hidden
git add --all --force .
GIT_AUTHOR_DATE=2000-01-01T00:00:00Z GIT_COMMITTER_DATE=2000-01-01T00:00:00Z \
  git commit --quiet --allow-empty --message='State to begin from'
tar_all
"""

_UNPACK = "tar -C /testbed -xf -"

# Folders that the agent has closed are opened, and repositories within its own
# become folders like others.
_PACK = f"""
{_TAR}
cd /testbed
chmod -R u+rwX . 2> /dev/null
tar_all --exclude=.git
"""

_COMPARE = """
set -eu
cd /testbed
find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +
tar -xf -
git add --all .
git diff --cached --binary --full-index --no-renames --no-ext-diff \
  --no-textconv HEAD
"""


class TaskError(ValueError):
  """A task's repository cannot be prepared; the message says why."""


class WorkError(ValueError):
  """What an agent leaves cannot become a patch; the message says why."""


# All copies that are kept; the one that was used last always is.
_MOST_BYTES = 2 << 30
_Key = tuple[RepairTask, SandboxConfig, bool]
_COPIES: collections.OrderedDict[_Key, Future[bytes]] = (
  collections.OrderedDict()
)
_LOCK = threading.Lock()


def prepared(
  task: RepairTask, config: SandboxConfig, is_for_agent: bool
) -> bytes:
  """Returns a task's repository in its first state, as a tar with .git.

  Episodes of one task share it: the first makes it, and the others wait.

  Args:
    task: the task.
    config: how sandboxes are made.
    is_for_agent: whether files are left out that the agent must not see.

  Raises:
    TaskError: the repository, the commit or the bug's patch cannot be used.
    SandboxError: there is no sandbox.
  """
  key = (task, config, is_for_agent)
  with _LOCK:
    copy = _COPIES.get(key)
    is_first = copy is None
    if is_first:
      copy = _COPIES[key] = Future()
    _COPIES.move_to_end(key)
  if is_first:
    try:
      copy.set_result(_check_out(*key))
      _forget_oldest()
    except BaseException as error:
      with _LOCK:
        del _COPIES[key]  # The next episode tries again.
      copy.set_exception(error)
  return copy.result()


def _forget_oldest() -> None:
  with _LOCK:
    sizes = {k: len(x.result()) for k, x in _COPIES.items() if x.done()}
    for key in list(sizes)[:-1]:
      if sum(sizes.values()) > _MOST_BYTES:
        del _COPIES[key], sizes[key]


def _check_out(
  task: RepairTask, config: SandboxConfig, is_for_agent: bool
) -> bytes:
  hidden = "\0".join(task.hidden_paths) if is_for_agent else ""
  files = {"bug": task.bug_patch.encode(), "hidden": hidden.encode()}
  with Sandbox(config, [f"{task.repository}:/repository"]) as sandbox:
    ran = sandbox.run(
      ["bash", "-c", _CHECK_OUT],
      archive(files),
      variables=GIT | {"COMMIT": task.commit},
      wall_s=_COPY_S,
      output_bytes=config.limits.disk_bytes,
      is_merged=False,
    )
  if not ran.succeeded:
    raise TaskError(
      f"the repository {task.repository} of the task {task.id!r} cannot be"
      f" prepared: {_with_hint(complaint(ran), task)}"
    )
  return ran.output


def open_workspace(
  task: RepairTask,
  config: SandboxConfig,
  *,
  is_for_agent: bool = True,
  mounts: tuple[str, ...] = (),
) -> Sandbox:
  """Opens a sandbox with a private copy of a task's repository in /testbed.

  It is made as the task says, or else the config.

  Raises:
    TaskError: the repository cannot be prepared.
    SandboxError: there is no sandbox.
  """
  config = task.sandbox(config)
  copy = prepared(task, config, is_for_agent)
  sandbox = Sandbox(config, mounts)
  try:
    ran = sandbox.run(["bash", "-c", _UNPACK], copy, wall_s=_COPY_S)
    if not ran.succeeded:
      raise TaskError(
        f"the repository of the task {task.id!r} cannot be copied:"
        f" {complaint(ran)}"
      )
  except BaseException:
    sandbox.close()
    raise
  return sandbox


def changes(
  task: RepairTask, config: SandboxConfig, workspace: Sandbox
) -> bytes:
  """Returns what the agent has changed, as a patch in git's form.

  The files of the agent's sandbox are compared in another one, where nothing
  of the agent ever ran: its .git counts for nothing. As with `git add --all`,
  new files that .gitignore names are left out.

  Raises:
    WorkError: the files are too large, or cannot be read or compared.
    TaskError: the repository cannot be prepared.
    SandboxError: a sandbox has ended.
  """
  size = config.limits.disk_bytes
  packed = workspace.run(
    ["bash", "-c", _PACK], wall_s=_COPY_S, output_bytes=size, is_merged=False
  )
  if not packed.succeeded:
    why = complaint(packed)
    if packed.cause == "output":
      why = f"they are larger than disk_bytes={size}"
    raise WorkError(f"the agent's files cannot be read: {why}")
  with open_workspace(task, config) as sandbox:
    ran = sandbox.run(
      ["bash", "-c", _COMPARE],
      packed.output,
      variables=GIT,
      wall_s=_COPY_S,
      output_bytes=size,
      is_merged=False,
    )
  if not ran.succeeded:
    raise WorkError(f"the agent's files cannot be compared: {complaint(ran)}")
  return ran.output


def archive(files: Mapping[str, bytes]) -> bytes:
  """Returns a tar of files by their paths."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as tar:
    for path, data in files.items():
      member = tarfile.TarInfo(path)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return buffer.getvalue()


def complaint(ran: Ran) -> str:
  """Returns in one line why a command has failed."""
  if ran.cause:
    return f"over the limit of {ran.cause}"
  lines = (ran.errors or ran.output).decode(errors="replace").split("\n")
  text = "; ".join(line.strip() for line in lines if line.strip())
  text = re.sub(r"^(fatal|error): ", "", text)
  return text[:_ERROR_CHARACTERS] or f"exit code {ran.status}"


def _with_hint(problem: str, task: RepairTask) -> str:
  if task.commit and not os.path.exists(f"{task.repository}/.git"):
    return (
      f"{problem}. There is no .git, but the task begins from the commit"
      f" {task.commit}; give a git checkout, or leave base_commit out"
    )
  if "Permission denied" in problem:
    return (
      f"{problem}. The sandbox's user must be able to read it: try"
      f" chmod -R a+rX {task.repository}"
    )
  return problem
