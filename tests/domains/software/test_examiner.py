# SPDX-License-Identifier: Apache-2.0
"""What the examiner takes away, and what it counts as passed."""

import pytest

from srl_jax.domains.software.hidden_tests import judge
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  FIXED,
  make_task,
  patch,
  write_repository,
)

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_repository(tmp_path_factory.mktemp("repository"))


def verdict(task, **texts):
  return judge(task, CONFIG, patch(**texts), wall_s=60)


# A repair that is right only where Python's own module is imported.
USES = FIXED + "\n\nimport colorsys\nassert colorsys.ONE_THIRD\n"
FAKE = "assert False, 'this replaces a module'"


def added(path, text, mode="100644"):
  """A patch that adds a file of one line."""
  return (
    f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n"
    f"+++ b/{path}\n@@ -0,0 +1 @@\n+{text}\n"
  ).encode()


@pytest.mark.parametrize(
  ("paths", "undone"),
  [
    (["test.py"], ["test.py"]),
    (["code.py", "mine.py"], ["code.py"]),
    (["html/index.txt"], []),
    (["colorsys.py"], ["colorsys.py"]),
    (["src/colorsys/a.py"], ["src/colorsys/a.py"]),
    (["colorsys/a.txt", "colorsys/__init__.py"], ["colorsys/__init__.py"]),
    (["colorsys.abi3.so"], ["colorsys.abi3.so"]),
  ],
)
def test_code_named_like_another_module_is_taken_away(folder, paths, undone):
  # Agents leave scratch files; they harm no repair and replace no module.
  text = patch(calc_DOT_py=USES) + b"".join(added(x, FAKE) for x in paths)
  judged = judge(make_task(folder), CONFIG, text, wall_s=60)
  assert judged.is_solved, judged
  assert judged.undone == tuple(undone)


def test_a_link_to_code_named_like_another_module_is_taken_away(folder):
  link = added("colorsys", "helpers", "120000")
  link += b"\\ No newline at end of file\n"
  text = patch(calc_DOT_py=USES) + added("helpers/__init__.py", FAKE) + link
  judged = judge(make_task(folder), CONFIG, text, wall_s=60)
  assert judged.is_solved, judged
  assert judged.undone == ("colorsys",)


def test_a_repository_may_be_named_like_a_module_of_the_environment(tmp_path):
  write_repository(tmp_path)
  (tmp_path / "colorsys.py").write_text("ONE_THIRD = 1\n")
  (tmp_path / "colorsys.py").chmod(0o644)
  judged = verdict(make_task(tmp_path), calc_DOT_py=USES)
  assert judged.is_solved, judged
  assert judged.undone == ()


SUBTESTS = """import unittest

from calc import add


def test_add(subtests):
  for a in (1, 2):
    with subtests.test(a=a):
      assert add(a, 2) == a + 2


class TestAdd(unittest.TestCase):
  def test_zero(self):
    for b in (5, 6):
      with self.subTest(b=b):
        self.assertEqual(add(0, b), b)
"""
NAMES = ("tests/test_sub.py::test_add", "tests/test_sub.py::TestAdd::test_zero")


@pytest.mark.parametrize(
  ("repair", "passes"),
  [
    (FIXED, True),
    # Only the last of the subtests fails, or only the first.
    (FIXED.replace("a + b", "a + b + (a == 2) + (b == 6)"), False),
    (FIXED.replace("a + b", "a + b + (a == 1) + (b == 5)"), False),
  ],
)
def test_a_test_passes_if_all_of_its_subtests_do(folder, repair, passes):
  hidden = (("tests/test_sub.py", SUBTESTS),)
  task = make_task(
    folder, fail_to_pass=NAMES, pass_to_pass=(), test_files=hidden
  )
  judged = verdict(task, calc_DOT_py=repair)
  assert judged.outcomes == dict.fromkeys(NAMES, passes), judged
