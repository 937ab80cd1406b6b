# SPDX-License-Identifier: Apache-2.0
"""Judges a repair by tests that come in after the agent's last action.

The patch is applied to the task's repository in a sandbox of its own. Then all
that belongs to the tests is put back as it was, the hidden tests are written
over it, and examiner.py runs them. A repair is right if every test of the task
is reported by its name to have passed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import secrets
from collections.abc import Iterable, Sequence

from srl_jax.domains.software import controls
from srl_jax.domains.software.examiner import (
  belongs_to_tests,
  module_of,
)
from srl_jax.domains.software.launchers import (
  WORK,
  ExhaustedError,
  SandboxConfig,
  SandboxError,
)
from srl_jax.domains.software.sandbox import Ran, Sandbox
from srl_jax.domains.software.tasks import RepairTask
from srl_jax.domains.software.verdicts import Verdict, read_reports, some
from srl_jax.domains.software.workspace import (
  GIT,
  archive,
  complaint,
  open_workspace,
)

_EXAMINER = pathlib.Path(__file__).with_name("examiner.py")
_EXAMINER_INSIDE = "/run/examiner.py"
_MOUNTS = (f"{_EXAMINER}:{_EXAMINER_INSIDE}",)
_SETUP_S = 120.0

# Of the forms in which models write patches, git apply is strict about some,
# and patch is not. While it runs .git is away, for git would later run commands
# that a patch writes there.
_APPLY = """
cd /testbed
cat > /tmp/patch
if ! git apply --whitespace=nowarn /tmp/patch 2> /tmp/why; then
  mv .git /tmp/git-of-the-task
  patch --batch --fuzz=5 --strip=1 --no-backup-if-mismatch --input=/tmp/patch \
    > /tmp/how 2>&1
  status=$?
  find . -name .git -prune -exec rm -rf {} +
  mv /tmp/git-of-the-task .git
  [ $status = 0 ] || { head -3 /tmp/why >&2; exit 1; }
fi
git add --all --force
"""
# What an agent did not see it may have written anew.
_HIDE = "xargs --null --no-run-if-empty rm -f --"
_CHANGED = "git diff --cached --name-status --no-renames -z HEAD"
_TOUCHED = "git apply --numstat -z"
_TAKE_BACK = """
set -e
git apply --reverse --whitespace=nowarn -
git add --all --force
git diff --cached --binary --full-index --no-renames HEAD
"""
_FILES = "git ls-tree -r -z HEAD"
_LINK = "120000"
# What Python imports when it starts, and what tells pytest of plugins, wherever
# the folder is in sys.path, as that of an editable install is.
_STARTERS = {"sitecustomize", "usercustomize"}
_INSTALLED = (".dist-info", ".egg-info", ".egg-link", ".egg")
_REMOVE = (
  "git rm -q -f --ignore-unmatch --pathspec-from-file=- --pathspec-file-nul"
)
_RESTORE = "git checkout -q HEAD --pathspec-from-file=- --pathspec-file-nul"


class _SetUpError(SandboxError):
  """A command that sets the tests up fails, maybe because of the patch."""


def judge(
  task: RepairTask,
  config: SandboxConfig,
  patch: bytes,
  wall_s: float = 600.0,
) -> Verdict:
  """Applies a patch to a task's repository and runs the hidden tests.

  If they come to nothing, a run of their conftest.py files without the patch
  shows whether that is the patch's fault or the task's.

  Args:
    task: the task.
    config: how sandboxes are made.
    patch: the repair, as `git diff` writes it; b"" for none.
    wall_s: limit of time for the tests.

  Raises:
    TaskError: the repository or the hidden tests cannot be prepared.
    SandboxError: there is no sandbox.
  """
  nothing = dict.fromkeys(task.tests, False)
  with open_workspace(
    task, config, is_for_agent=False, mounts=_MOUNTS
  ) as sandbox:
    try:
      if patch.strip():
        hidden = "\0".join(task.hidden_paths).encode()
        _done(_git(sandbox, _HIDE, hidden), "hidden tests cannot be removed")
        ran = _git(sandbox, _APPLY, patch)
        if not ran.succeeded:
          problem = f"the patch does not apply: {complaint(ran)}"
          return Verdict(nothing, problem)
      ours = _files_of_tests(sandbox, task)
      undone = _put_tests_back(sandbox, ours)
      _write_hidden_tests(sandbox, task)
      modules = _modules(sandbox, ours)
      judged = _run_tests(sandbox, task, task.test_paths, modules, wall_s)
      judged = dataclasses.replace(judged, undone=undone + judged.undone)
    except (_SetUpError, ExhaustedError) as error:
      judged = Verdict(nothing, str(error))
    except SandboxError as error:
      return Verdict(nothing, str(error), is_void=True)
  is_void = bool(judged.problem) and not _pytest_works(task, config)
  return dataclasses.replace(judged, is_void=is_void)


def check_task(
  task: RepairTask, config: SandboxConfig, solution: bytes = b""
) -> str:
  """Returns what is wrong with a task's tests; "" if nothing is.

  There are tests of all names. Before the repair, those that it must make pass
  fail, and those that must go on passing pass. With the solution all pass.

  Args:
    task: the task.
    config: how sandboxes are made.
    solution: a patch that is a right repair; without one it is what takes the
      task's bug_patch back, if there is one.

  Raises:
    TaskError: the repository or the hidden tests cannot be prepared.
    SandboxError: there is no sandbox.
  """
  verdict = judge(task, config, b"")
  if verdict.problem:
    return verdict.problem
  if verdict.missing:
    return f"there is no test {some(verdict.missing)}; correct the name"
  for name in task.fail_to_pass:
    if verdict.outcomes[name]:
      return f"{name} passes without a repair"
  for name in task.pass_to_pass:
    if not verdict.outcomes[name]:
      why = f": no tests of {verdict.unread}" if verdict.unread else ""
      return f"{name} fails without a repair, though it is to pass{why}"
  solution = solution or _reverse_of_bug(task, config)
  reason = judge(task, config, solution).reason if solution else ""
  return f"the solution does not solve it: {reason}" if reason else ""


def _reverse_of_bug(task: RepairTask, config: SandboxConfig) -> bytes:
  """The patch that takes the task's bug_patch back; b"" if there is none."""
  if not task.bug_patch:
    return b""
  with open_workspace(task, config, is_for_agent=False) as sandbox:
    ran = _git(sandbox, _TAKE_BACK, task.bug_patch.encode())
    return _done(ran, "the task's bug_patch cannot be taken back")


def _git(sandbox: Sandbox, command: str, payload: bytes = b"") -> Ran:
  return sandbox.run(
    ["bash", "-c", command],
    payload,
    variables=GIT,
    wall_s=_SETUP_S,
    is_merged=False,
  )


def _done(ran: Ran, what: str) -> bytes:
  if not ran.succeeded:
    raise _SetUpError(f"{what}: {complaint(ran)}")
  return ran.output


def _files_of_tests(sandbox: Sandbox, task: RepairTask) -> set[str]:
  """The files that the task itself brings or names."""
  files = {*task.test_paths, *task.hidden_paths, *dict(task.test_files)}
  if task.test_patch:
    ran = _git(sandbox, _TOUCHED, task.test_patch.encode())
    lines = _done(ran, "the task's test_patch cannot be read").split(b"\0")
    files |= {line.rpartition(b"\t")[2].decode() for line in lines}
  return files


def _put_tests_back(sandbox: Sandbox, ours: set[str]) -> tuple[str, ...]:
  """Undoes what a patch did to tests; returns the files."""
  listed = _done(_git(sandbox, _CHANGED), "the patch cannot be listed")
  fields = listed.decode(errors="surrogateescape").split("\0")[:-1]
  changed = dict(zip(fields[1::2], fields[::2], strict=True))
  added = {x for x in changed if changed[x] == "A"}
  tests = {x for x in changed if x in ours or belongs_to_tests(x)}
  tests |= {x for x in changed if _sets_up_python(x)}
  # A new file where a hidden test needs a folder, or the reverse.
  needed = _folders(ours)
  tests |= {x for x in added if x in needed or ours & _folders([x])}
  for command, paths in (
    (_REMOVE, tests & added),
    (_RESTORE, tests - added),
  ):
    if paths:
      names = "\0".join(sorted(paths)).encode(errors="surrogateescape")
      _done(_git(sandbox, command, names), "tests cannot be put back")
  return tuple(sorted(tests))


def _sets_up_python(path: str) -> bool:
  """Whether Python or pytest would read a file before the tests begin."""
  parts = path.lower().split("/")
  names = {part.partition(".")[0] for part in parts}
  return bool(_STARTERS & names) or any(x.endswith(_INSTALLED) for x in parts)


def _modules(sandbox: Sandbox, ours: set[str]) -> list[str]:
  """Modules that the task's own code makes importable, as `module_of` says."""
  listed = _done(_git(sandbox, _FILES), "the repository cannot be listed")
  paths = {*ours}
  for line in listed.decode(errors="surrogateescape").split("\0"):
    about, _, path = line.partition("\t")
    if about.startswith(_LINK) or path.endswith((".py", ".so")):
      paths.add(path)
  return sorted({module_of(path.removeprefix("src/")) for path in paths})


def _write_hidden_tests(sandbox: Sandbox, task: RepairTask) -> None:
  if task.test_patch:
    command = "git apply --whitespace=nowarn -"
    ran = _git(sandbox, command, task.test_patch.encode())
    _done(ran, "the task's test_patch does not apply")
  if task.test_files:
    files = {path: text.encode() for path, text in task.test_files}
    ran = _git(sandbox, "tar --unlink-first -xf -", archive(files))
    _done(ran, "the hidden tests cannot be written")


def _pytest_works(task: RepairTask, config: SandboxConfig) -> bool:
  """Whether the controls run without a patch, beside the tests' settings."""
  settings = sorted(f"{x}/conftest.py" for x in _folders(task.test_paths))
  with open_workspace(
    task, config, is_for_agent=False, mounts=_MOUNTS
  ) as sandbox:
    try:
      _files_of_tests(sandbox, task)
      _write_hidden_tests(sandbox, task)
      return not _run_tests(sandbox, task, settings, [], _SETUP_S).problem
    except SandboxError:
      return False


def _folders(paths: Iterable[str]) -> set[str]:
  """All folders that hold one of the files, near or far."""
  return {str(x) for path in paths for x in pathlib.PurePosixPath(path).parents}


def _run_tests(
  sandbox: Sandbox,
  task: RepairTask,
  files: Sequence[str],
  modules: Sequence[str],
  wall_s: float,
) -> Verdict:
  mark = secrets.token_hex(16)
  request = {
    "mark": mark,
    "root": WORK,
    "modules": modules,
    "files": files,
    "arguments": task.pytest_arguments,
    "controls": f"/tmp/{secrets.token_hex(8)}",
    "failing": controls.CONTROLS,
  }
  ran = sandbox.run(
    [sandbox.config.interpreter, "-I", "-B", _EXAMINER_INSIDE],
    json.dumps(request).encode(errors="surrogateescape"),
    wall_s=wall_s,
    is_merged=False,
  )
  return read_reports(ran, task, mark, wall_s)
