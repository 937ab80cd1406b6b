# SPDX-License-Identifier: Apache-2.0
"""Small git repositories, made with what git itself gives, for tests."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Mapping

# A fault that an edit of one line mends.
CUTTING = '''"""Cuts numbers."""


def half(count):
  """Returns half of a number."""
  return count // 3


def third(count):
  return count // 3
'''
SOURCES = {
  "setup.py": "name = 'parts'\n",
  "parts/__init__.py": "",
  "parts/cutting.py": CUTTING,
  "parts/deep/joining.py": "def join(a, b):\n  return a + b\n",
  "parts/tests/test_cutting.py": "assert True\n",
  "test_all.py": "assert True\n",
  "README.md": "# Parts\n",
}
GOLD = """\
diff --git a/parts/cutting.py b/parts/cutting.py
--- a/parts/cutting.py
+++ b/parts/cutting.py
@@ -3,7 +3,7 @@

 def half(count):
   \"\"\"Returns half of a number.\"\"\"
-  return count // 3
+  return count // 2


 def third(count):
"""


def git(folder: pathlib.Path, *arguments: str) -> str:
  """Runs git in a folder and returns what it says."""
  environment = {
    "PATH": os.environ["PATH"],
    "HOME": str(folder),
    "GIT_CONFIG_NOSYSTEM": "1",
    **{
      f"GIT_{who}_{what}": f"me{'@here' if what == 'EMAIL' else ''}"
      for who in ("AUTHOR", "COMMITTER")
      for what in ("NAME", "EMAIL")
    },
  }
  done = subprocess.run(
    ["git", *arguments],
    cwd=folder,
    env=environment,
    capture_output=True,
    check=True,
  )
  return done.stdout.decode().strip()


def make(
  folder: pathlib.Path, files: Mapping[str, str | bytes] | None = None
) -> str:
  """Makes a repository with one commit; returns the commit.

  Args:
    folder: the folder to make.
    files: contents by path; by default SOURCES.
  """
  folder.mkdir(parents=True)
  git(folder, "init", "--quiet", "--initial-branch=main")
  return commit(folder, SOURCES if files is None else files)


def commit(
  folder: pathlib.Path, files: Mapping[str, str | bytes] | None = None
) -> str:
  """Writes files, commits all that is there, and returns the commit."""
  for path, content in (files or {}).items():
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    file.write_bytes(raw)
  git(folder, "add", "--all")
  git(folder, "commit", "--quiet", "--allow-empty", "--message=more")
  return git(folder, "rev-parse", "HEAD")
