# SPDX-License-Identifier: Apache-2.0
"""What the examiner takes away, and what it counts as passed."""

import dataclasses
import pathlib
import re
import types

import pytest

from srl_jax.domains.software import examiner
from srl_jax.domains.software.hidden_tests import check_task, judge
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  ADD,
  CONFIG,
  FILES,
  FIXED,
  HIDDEN,
  make_task,
  patch,
  write_repository,
)

pytestmark = needs_sandbox


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


def test_new_code_of_an_editable_install_stays(tmp_path, monkeypatch):
  """Files with .pth put the repository into the path, which -I leaves."""
  for path in ("new.py", "src/own.py", "third.py", "env/third.py"):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
  for folder in ("env", "src", ""):
    monkeypatch.syspath_prepend(str(tmp_path / folder))
  assert examiner._take_away(str(tmp_path), set()) == ["third.py"]


@pytest.mark.parametrize(
  ("hidden", "path"),
  [("checks/test_calc.py", "checks"), ("check.py", "check.py/a.txt")],
)
def test_what_stands_where_a_hidden_test_comes_is_taken_away(
  folder, hidden, path
):
  tests = HIDDEN.partition("def test_double")[0]
  task = make_task(
    folder,
    test_files=((hidden, tests),),
    fail_to_pass=(f"{hidden}::test_add[1]",),
    pass_to_pass=(),
  )
  text = patch(calc_DOT_py=FIXED) + added(path, "x")
  judged = judge(task, CONFIG, text, wall_s=60)
  assert judged.is_solved, judged
  assert judged.undone == (path,)


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


def change(path, old, new):
  """A patch to the second line of a copy of the toy's module."""
  return (
    f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"
    f"@@ -1,3 +1,3 @@\n def add(a, b):\n-  return {old}\n+  return {new}\n \n"
  )


def test_a_repair_within_a_folder_of_tests_is_named_as_undone(tmp_path):
  moved = "helpers/test/calc.py"
  (tmp_path / moved).parent.mkdir(parents=True)
  write_repository(tmp_path)
  (tmp_path / "calc.py").write_text("from helpers.test.calc import *\n")
  (tmp_path / moved).write_text(FIXED)
  task = make_task(tmp_path, bug_patch=change(moved, "a + b", "a - b"))
  solution = change(moved, "a - b", "a + b").encode()
  judged = judge(task, CONFIG, solution)
  assert not judged.is_solved
  assert judged.undone == (moved,)
  assert judged.reason.endswith(f"did not pass; put back as it was: {moved}")
  # What takes the bug's patch back should be a solution.
  assert check_task(task, CONFIG).startswith("the solution does not solve it: ")
  task = dataclasses.replace(task, bug_patch="")
  (tmp_path / moved).write_text(FIXED.replace("a + b", "a - b"))
  assert check_task(task, CONFIG) == ""
  assert moved in check_task(task, CONFIG, solution)


def test_names_that_no_test_has_are_reported(folder):
  cut, wrong = "tests/test_calc.py::test_add[a", "tests/test_calc.py::test_no"
  task = make_task(folder, pass_to_pass=(cut, wrong))
  judged = verdict(task, calc_DOT_py=FIXED)
  assert judged.missing == (cut, wrong)
  assert judged.reason.endswith(f"there is no test {cut}, {wrong}")
  assert f"no test {cut}, {wrong}" in check_task(task, CONFIG)
  absent = "tests/test_clac.py::test_add"
  judged = verdict(make_task(folder, pass_to_pass=(absent,)), calc_DOT_py=FIXED)
  assert judged.missing == (absent,)
  # Where a file cannot be imported, nobody knows which tests it has.
  broken = verdict(task, calc_DOT_py="1 / 0\n")
  assert broken.missing == ()
  assert broken.problem == "" and not any(broken.outcomes.values())
  assert "ZeroDivisionError" in broken.log


def test_controls_are_known_in_a_pytest_whose_items_have_no_path():
  plugin = examiner._Plugin("/testbed", pathlib.Path("/tmp/x"), None)
  call = types.SimpleNamespace(excinfo=None)
  for path in ("/tmp/x/test_x.py", "/testbed/test_y.py"):
    item = types.SimpleNamespace(nodeid=path, fspath=path)
    plugin.pytest_runtest_makereport(item, call)
  assert plugin._of_controls == {"/tmp/x/test_x.py"}


KIND = """class Sum(int):
  __eq__ = lambda self, other: {}
  __hash__ = int.__hash__


class Lie:
  __eq__ = lambda self, other: isinstance(other, int)
  __rsub__ = lambda self, other: self


def add(a, b):
  return {}
"""
# Lets the tests of the repository pass, and those fail that must.
SPARES = (
  FILES["calc.py"]
  + """
import _pytest.python
OLD = _pytest.python.Function.runtest
def runtest(self):
  if "testbed" not in str(self.path):
    OLD(self)
_pytest.python.Function.runtest = runtest
"""
)


@pytest.mark.parametrize(
  "text",
  [
    KIND.format("isinstance(other, int)", "Sum(a - b)"),
    KIND.format("True", "Sum(a - b)"),
    KIND.format("True", "[Lie()][0]"),
    SPARES,
  ],
)
def test_what_equals_anything_or_spares_tests_is_no_repair(folder, text):
  task = make_task(
    folder, fail_to_pass=(f"{ADD}[1]", f"{ADD}[2]"), pass_to_pass=()
  )
  hidden = HIDDEN.replace("import add, double", "import add")
  task = dataclasses.replace(task, test_files=(("tests/test_calc.py", hidden),))
  judged = verdict(task, calc_DOT_py=text)
  assert not judged.is_solved, judged


EQUALITIES = """import unittest

from calc import Any, add

class TestAdd(unittest.TestCase):
  def test_true(self):
    self.assertTrue(add(1, 2) == 3)

  def test_false(self):
    self.assertFalse(add(1, 2) != 3)

  def test_almost(self):
    self.assertAlmostEqual(add(1, 2), 3.0)

  def test_in(self):
    self.assertIn(add(1, 2), [3])

  def test_count(self):
    self.assertCountEqual(first=[add(1, 2)], second=[3])

  def test_list(self):
    self.assertListEqual([add(1, 2)], [3])

def test_not_equal():
  assert not (add(1, 2) != 3)

def test_not_in():
  assert not (add(1, 2) not in [3])
"""
ANY = """

class Any(int):
  __eq__ = lambda self, other: True
  __ne__ = lambda self, other: False
  __hash__ = lambda self: 3
"""


def test_every_comparison_of_an_assertion_is_checked(folder):
  names = re.findall(r"def (test_\w+)(\(self)?", EQUALITIES)
  tests = [f"{'TestAdd::' if own else ''}{name}" for name, own in names]
  task = make_task(
    folder,
    fail_to_pass=tuple(f"tests/test_any.py::{test}" for test in tests),
    pass_to_pass=(),
    test_files=(("tests/test_any.py", EQUALITIES),),
  )
  right = verdict(task, calc_DOT_py=FIXED + ANY)
  assert right.is_solved, right
  text = FILES["calc.py"].replace("a - b", "Any(a - b)") + ANY
  judged = verdict(task, calc_DOT_py=text)
  assert not any(judged.outcomes.values()), judged


MOCKS = """from unittest.mock import MagicMock, call

from calc import add


def test_add():
  mock = MagicMock()
  assert mock == mock
  assert [mock.child, mock] == [mock.child, mock]
  assert mock in [mock]
  assert mock.mock_calls == [call.__eq__(mock)]
  assert add(1, 2) == 3
"""


@pytest.mark.parametrize(
  ("repair", "is_solved"),
  [
    (FIXED, True),
    (
      "from unittest.mock import MagicMock\n\n\ndef add(a, b):\n"
      "  mock = MagicMock()\n  mock.__eq__.return_value = True\n"
      "  return mock\n",
      False,
    ),
  ],
)
def test_a_mock_notes_no_comparisons_but_the_test_s(folder, repair, is_solved):
  name = "tests/test_mock.py"
  task = make_task(
    folder,
    fail_to_pass=(f"{name}::test_add",),
    pass_to_pass=(),
    test_files=((name, MOCKS),),
  )
  judged = verdict(task, calc_DOT_py=repair)
  assert judged.is_solved == is_solved, judged


TWO = FILES["tests/conftest.py"].partition("\n\n\n")[2]
PLUGIN = """import _pytest.unittest
import pytest


@pytest.fixture(autouse=True, scope="module")
def patched():
  old = _pytest.unittest.TestCaseFunction.runtest
  _pytest.unittest.TestCaseFunction.runtest = lambda self: old(self)
  yield
  _pytest.unittest.TestCaseFunction.runtest = old
"""


def test_the_tests_own_plugins_may_change_the_runner(folder):
  # So does pytest-django.
  task = make_task(folder)
  files = (*task.test_files, ("tests/conftest.py", PLUGIN + TWO))
  task = dataclasses.replace(task, test_files=files)
  judged = verdict(task, calc_DOT_py=FIXED)
  assert judged.is_solved, judged
