# SPDX-License-Identifier: Apache-2.0
"""An agent gets a private copy, and its changes come back as a patch."""

import collections
import concurrent.futures
import dataclasses
import os
import subprocess
import time

import pytest

from srl_jax.domains.software import workspace
from srl_jax.domains.software.hidden_tests import judge
from srl_jax.domains.software.workspace import (
  TaskError,
  changes,
  open_workspace,
)
from tests.domains.software.drill_for_tests import bash
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  FILES,
  FIXED,
  HIDDEN,
  commit,
  make_task,
  write_repository,
)

pytestmark = needs_sandbox


@pytest.fixture
def folder(tmp_path):
  return write_repository(tmp_path)


def bash_in(task, command):
  with open_workspace(task, CONFIG) as workspace:
    return bash(workspace, command).output


def patch_after(task, command):
  """The patch that an agent's command leads to."""
  with open_workspace(task, CONFIG) as workspace:
    bash(workspace, command)
    return changes(task, CONFIG, workspace).decode(errors="replace")


def test_episodes_that_begin_together_share_the_copies(folder, monkeypatch):
  made = []

  def check_out(task, config, is_for_agent):
    made.append(task.id)
    time.sleep(0.05)
    return b"0123456789"

  monkeypatch.setattr(workspace, "_check_out", check_out)
  monkeypatch.setattr(workspace, "_COPIES", collections.OrderedDict())
  tasks = [make_task(folder, id=str(number)) for number in range(6)]
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    begun = [
      threads.submit(workspace.prepared, task, CONFIG, True)
      for task in [*tasks[:5] * 2, *tasks[:5]]
    ]
    assert {x.result() for x in begun} == {b"0123456789"}
  assert sorted(made) == ["0", "1", "2", "3", "4"]
  monkeypatch.setattr(workspace, "_MOST_BYTES", 25)
  workspace.prepared(tasks[5], CONFIG, True)
  assert len(workspace._COPIES) == 2


def test_the_copy_is_a_repository_of_one_commit(folder):
  commit(folder, "before")
  (folder / "calc.py").write_text(FIXED)
  repaired = commit(folder, "the repair")
  (folder / "calc.py").write_text(FILES["calc.py"])
  latest = commit(folder, "the bug")
  task = make_task(folder, commit=latest)
  text = bash_in(task, "git log --all --format=%s; cat calc.py; git status -s")
  assert text == "State to begin from\n" + FILES["calc.py"]
  assert "unknown revision" in bash_in(task, f"git show {repaired}") or (
    "bad object" in bash_in(task, f"git show {repaired}")
  )
  assert FIXED in bash_in(
    dataclasses.replace(task, commit=repaired), "cat *.py"
  )


def test_the_original_does_not_change(folder):
  name = commit(folder)
  before = sorted(
    (str(x), x.stat().st_mtime_ns) for x in folder.rglob("*") if x.is_file()
  )
  task = make_task(folder, commit=name)
  assert "+x" in patch_after(task, "echo x > calc.py; rm -rf tests .git")
  assert before == sorted(
    (str(x), x.stat().st_mtime_ns) for x in folder.rglob("*") if x.is_file()
  )


def test_a_folder_without_git_is_copied_as_it_is(folder):
  (folder / "ignored.txt").write_text("kept")
  (folder / ".gitignore").write_text("*.txt\n")
  text = bash_in(make_task(folder), "cat ignored.txt; git status --short")
  assert text == "kept"


@pytest.mark.parametrize(
  ("changed", "said"),
  [
    ({"commit": "1234567"}, "There is no .git, but the task begins from"),
    ({"bug_patch": "nonsense"}, "cannot be prepared: .*patch"),
  ],
)
def test_a_repository_that_cannot_be_prepared_is_named(folder, changed, said):
  task = make_task(folder, **changed)
  with pytest.raises(TaskError, match=said):
    open_workspace(task, CONFIG)


def test_a_commit_that_is_not_there_is_named(folder):
  commit(folder)
  with pytest.raises(TaskError, match="there is no commit 1234567"):
    open_workspace(make_task(folder, commit="1234567"), CONFIG)


@pytest.mark.skipif(os.geteuid() != 0, reason="others cannot read it anyway")
def test_a_repository_that_the_sandbox_cannot_read_is_named(folder):
  (folder / "calc.py").chmod(0o600)
  with pytest.raises(TaskError, match=r"try chmod -R a\+rX"):
    open_workspace(make_task(folder), CONFIG)


def test_what_git_would_run_for_a_repository_runs_in_the_sandbox(folder):
  name = commit(folder)
  mark = folder / "ran"
  command = f"sh -c 'id -u > {mark}; cat'"
  for key in ("core.fsmonitor", "filter.evil.smudge", "core.sshCommand"):
    subprocess.run(["git", "-C", folder, "config", key, command], check=True)
  (folder / ".git/info/attributes").write_text("* filter=evil\n")
  for hook in ("post-checkout", "pre-commit", "post-index-change"):
    file = folder / f".git/hooks/{hook}"
    file.write_text(f"#!/bin/sh\n{command}\n")
    file.chmod(0o755)
  task = make_task(folder, commit=name)
  # The filter ran, within the sandbox, where it could not write.
  assert bash_in(task, "cat calc.py").startswith("def add")
  assert not mark.exists()


def test_a_patch_holds_what_changed_whatever_became_of_git(folder):
  task = make_task(folder)
  edit = "sed -i 's/a - b/a + b/' calc.py; "
  for command in (
    edit,
    edit + "git add -A; git commit -qm done; git checkout -q --orphan x",
    edit + "rm -rf .git",
    edit + "git config diff.external /bin/false; chmod 000 calc.py README.md",
    edit + "git init -q; echo '*.py binary' > .git/info/attributes",
  ):
    text = patch_after(task, command)
    assert "-  return a - b\n+  return a + b\n" in text, command
    assert text.count("diff --git") == 1, text


def test_binary_files_links_and_odd_names_are_in_a_patch(folder):
  task = make_task(folder)
  command = (
    "head -c 3000 /dev/urandom > data.bin; ln -s /etc/shadow link; "
    "echo x > $'a\\nb'; mkdir 'a folder'; echo y > 'a folder/é'; "
    "git init -q sub; echo z > sub/file; printf 'a\\r\\n' > calc.py"
  )
  with open_workspace(task, CONFIG) as workspace:
    bash(workspace, command)
    patch = changes(task, CONFIG, workspace)
  assert b"GIT binary patch" in patch
  assert b"new file mode 120000" in patch
  assert b"sub/file" in patch
  assert b"+a\r\n" in patch
  # It applies again, byte for byte.
  assert "does not apply" not in judge(task, CONFIG, patch, wall_s=1).problem


def test_files_that_are_ignored_are_no_change(folder):
  (folder / ".gitignore").write_text("*.log\n")
  assert patch_after(make_task(folder), "echo x > a.log") == ""
  assert patch_after(make_task(folder), "true") == ""


def test_hidden_tests_of_a_repository_are_not_in_the_copy(folder):
  (folder / "tests/test_calc.py").write_text(HIDDEN)
  for cache in ("tests/__pycache__", ".pytest_cache"):
    (folder / cache).mkdir()
    (folder / cache / "test_calc").touch()
  task = make_task(folder, test_files=())
  command = "ls -A . tests; git log -p | grep -c test_add"
  assert bash_in(task, command) == (
    ".:\n.git\nREADME.md\ncalc.py\ntests\n\ntests:\nconftest.py\n0\n"
  )
  # The agent did not remove them.
  assert patch_after(task, "true") == ""
