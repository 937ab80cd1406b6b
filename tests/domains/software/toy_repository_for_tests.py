# SPDX-License-Identifier: Apache-2.0
"""A tiny repository with a bug, its task, and patches to it."""

import difflib
import subprocess

from srl_jax.domains.software.launchers import Limits, SandboxConfig
from srl_jax.domains.software.tasks import RepairTask

FILES = {
  "calc.py": (
    "def add(a, b):\n  return a - b\n\n\ndef double(a):\n  return 2 * a\n"
  ),
  "tests/conftest.py": (
    "import pytest\n\n\n@pytest.fixture\ndef two():\n  return 2\n"
  ),
  "tests/test_calc.py": (
    "from calc import double\n\n\n"
    "def test_double(two):\n  assert double(two) == 4\n"
  ),
  "README.md": "Adds and doubles.\n",
}
HIDDEN = """import unittest

import pytest
from calc import add, double


@pytest.mark.parametrize("a", [1, 2])
def test_add(a):
  assert add(a, 2) == a + 2


class TestAdd(unittest.TestCase):
  def test_zero(self):
    self.assertEqual(add(0, 5), 5)


def test_double(two):
  assert double(two) == 4
"""
ADD = "tests/test_calc.py::test_add"
FAIL_TO_PASS = (
  f"{ADD}[1]",
  f"{ADD}[2]",
  "tests/test_calc.py::TestAdd::test_zero",
)
PASS_TO_PASS = ("tests/test_calc.py::test_double",)
CONFIG = SandboxConfig(
  limits=Limits(wall_s=20, disk_bytes=256 << 20, output_bytes=4 << 20)
)
FIXED = FILES["calc.py"].replace("a - b", "a + b")


def write_repository(folder):
  """Writes the files and makes all of them readable for a sandbox's user."""
  for path, text in FILES.items():
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o644)
    file.parent.chmod(0o755)
  return folder


def commit(folder, message="state"):
  """Commits what is there and returns the commit's name."""

  settings = ("-c", "user.name=a", "-c", "user.email=b")

  def git(*arguments):
    return subprocess.run(
      ["git", "-C", folder, *settings, *arguments],
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()

  git("init", "--quiet")
  git("add", "--all")
  git("commit", "--quiet", "--message", message)
  return git("rev-parse", "HEAD")


def make_task(folder, **changes):
  settings = {
    "id": "toy-1",
    "repository": str(folder),
    "problem": "add(1, 2) returns -1, but it should return 3.",
    "fail_to_pass": FAIL_TO_PASS,
    "pass_to_pass": PASS_TO_PASS,
    "test_files": (("tests/test_calc.py", HIDDEN),),
  }
  return RepairTask(**settings | changes)


def patch(**texts):
  """A patch to FILES; None removes a file. In names, __ stands for /."""
  lines = []
  for name, text in texts.items():
    path = name.replace("__", "/").replace("_DOT_", ".")
    old = FILES.get(path)
    lines.append(f"diff --git a/{path} b/{path}\n")
    if old is None:
      lines.append("new file mode 100644\n")
    if text is None:
      lines.append("deleted file mode 100644\n")
    lines += difflib.unified_diff(
      (old or "").splitlines(keepends=True),
      (text or "").splitlines(keepends=True),
      f"a/{path}" if old is not None else "/dev/null",
      f"b/{path}" if text is not None else "/dev/null",
    )
  return "".join(lines).encode()
