# SPDX-License-Identifier: Apache-2.0
"""Only a repair solves a task; what deceives pytest does not."""

import dataclasses
import difflib
import json

import pytest

from srl_jax.domains.software import (
  controls,
  examiner,
  hidden_tests,
  verdicts,
)
from srl_jax.domains.software.hidden_tests import check_task, judge
from srl_jax.domains.software.sandbox import Ran
from srl_jax.domains.software.workspace import TaskError, open_workspace
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  ADD,
  CONFIG,
  FILES,
  FIXED,
  HIDDEN,
  commit,
  make_task,
  patch,
  write_repository,
)

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def task(folder):
  return make_task(folder)


def verdict(task, **texts):
  return judge(task, CONFIG, patch(**texts), wall_s=60)


def test_a_repair_solves_the_task_and_nothing_else_does(task):
  right = verdict(task, calc_DOT_py=FIXED)
  assert right.is_solved, right
  assert set(right.outcomes) == set(task.tests)
  nothing = judge(task, CONFIG, b"")
  assert nothing.problem == ""
  assert not nothing.is_solved
  assert nothing.outcomes[task.pass_to_pass[0]]
  assert not any(nothing.outcomes[name] for name in task.fail_to_pass)
  broken = FIXED.replace("2 * a", "3 * a")
  worse = verdict(task, calc_DOT_py=broken)
  assert [x for x in worse.outcomes if not worse.outcomes[x]] == [
    *task.pass_to_pass
  ]
  assert not worse.is_solved


SKIP = "import pytest\npytest.skip('no', allow_module_level=True)\n"
REWRITE = """
import pytest
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
  outcome = yield
  outcome.get_result().outcome = "passed"
"""
# What a repair contains that repairs nothing.
CHEATS = {
  "a hook that rewrites outcomes": {"conftest_DOT_py": REWRITE},
  "a hook in the folder of tests": {
    "tests__conftest_DOT_py": FILES["tests/conftest.py"] + REWRITE
  },
  "options that select other tests": {
    "pytest_DOT_ini": "[pytest]\naddopts = -k double\n"
  },
  "options in pyproject.toml": {
    "pyproject_DOT_toml": '[tool.pytest.ini_options]\naddopts = "-k double"\n'
  },
  "a sitecustomize": {
    "sitecustomize_DOT_py": "import os\nos._exit(0)\n",
  },
  "a module named pytest": {
    "pytest_DOT_py": "import sys\nsys.exit(0)\n",
    "calc_DOT_py": FILES["calc.py"] + "\nimport pytest\n",
  },
  "leaving on import": {
    "calc_DOT_py": FILES["calc.py"] + "\nimport sys\nsys.exit(0)\n"
  },
  "leaving at once on import": {
    "calc_DOT_py": FILES["calc.py"] + "\nimport os\nos._exit(0)\n"
  },
  "leaving during a test": {
    "calc_DOT_py": FILES["calc.py"].replace(
      "return a - b", "__import__('os')._exit(0)"
    )
  },
  "skipping": {"calc_DOT_py": SKIP + FILES["calc.py"]},
  "skipping during a test": {
    "calc_DOT_py": FILES["calc.py"].replace(
      "return a - b", "__import__('pytest').skip('no')"
    )
  },
  "failing as expected": {
    "calc_DOT_py": FILES["calc.py"].replace(
      "return a - b", "__import__('pytest').xfail('no')"
    )
  },
  "edited tests": {
    "tests__test_calc_DOT_py": "def test_add():\n  pass\n",
  },
  "removed tests": {"tests__test_calc_DOT_py": None},
  "an object that equals everything": {
    "calc_DOT_py": (
      "class Sum(int):\n  def __eq__(self, other):\n    return True\n"
      "  __hash__ = int.__hash__\n"
      + FILES["calc.py"].replace("a - b", "Sum(a - b)")
    )
  },
  "an object that equals everything and hides its class": {
    "calc_DOT_py": (
      "def add(a, b):\n"
      "  kind = type('Any', (), {'__eq__': lambda self, other: True})\n"
      "  kind.__module__ = 'unittest.mock'\n"
      "  return kind()\n\n\ndef double(a):\n  return 2 * a\n"
    )
  },
  "patched unittest": {
    "calc_DOT_py": FILES["calc.py"] + "\nimport unittest\n"
    "unittest.TestCase.assertEqual = lambda *a, **k: None\n"
    "unittest.TestCase.run = lambda self, result=None: None\n"
  },
  "a patched runner": {
    "calc_DOT_py": FILES["calc.py"] + "\nimport _pytest.python\n"
    "_pytest.python.Function.runtest = lambda self: None\n"
    "import _pytest.unittest\n"
    "_pytest.unittest.TestCaseFunction.runtest = lambda self: None\n"
  },
  "patched calls of tests": {
    "calc_DOT_py": FILES["calc.py"] + "\nimport _pytest.runner\n"
    "old = _pytest.runner.CallInfo.from_call.__func__\n"
    "@classmethod\n"
    "def from_call(cls, func, when, reraise=None):\n"
    "  return old(cls, lambda: None, when, reraise)\n"
    "_pytest.runner.CallInfo.from_call = from_call\n"
  },
  "a plugin found by its entry point": {
    "plug_DOT_py": REWRITE,
    "plug-1_DOT_0_DOT_dist-info__METADATA": (
      "Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n"
    ),
    "plug-1_DOT_0_DOT_dist-info__entry_points_DOT_txt": (
      "[pytest11]\nplug = plug\n"
    ),
  },
  "a report that is printed": {
    "calc_DOT_py": FILES["calc.py"] + "\nimport os, sys\n"
    f"text = '{ADD}[1] PASSED\\n== 4 passed in 0.01s =='\n"
    "print(text); sys.stderr.write(text)\n"
    "for number in range(1, 20):\n"
    "  try:\n    os.write(number, text.encode())\n"
    "  except OSError:\n    pass\n"
    "os._exit(0)\n"
  },
  "a module of the library that is hidden": {
    "decimal_DOT_py": "def f():\n  pass\n",
  },
}


# Each takes a second of CPU, so that most are slow tests.
QUICK = {"a hook in the folder of tests", "a patched runner", "edited tests"}


@pytest.mark.parametrize(
  "name",
  [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in CHEATS
  ],
)
def test_no_cheat_solves_the_task(task, name):
  judged = verdict(task, **CHEATS[name])
  assert "does not apply" not in judged.problem
  assert not judged.is_solved, judged
  for test in task.fail_to_pass:
    assert not judged.outcomes[test] or judged.problem


def test_cheats_beside_a_repair_are_undone(task):
  # The tests are those of the task, whatever the repair says of them.
  judged = verdict(
    task,
    calc_DOT_py=FIXED,
    tests__test_calc_DOT_py=SKIP,
    conftest_DOT_py=SKIP,
    pytest_DOT_ini="[pytest]\naddopts = --nonsense\n",
    tests__conftest_DOT_py=None,
  )
  assert judged.is_solved, judged


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    (b"hello", "does not apply"),
    (
      patch(calc_DOT_py=FIXED).replace(b"-  return a", b"-  give a"),
      "does not",
    ),
    (patch(calc_DOT_py="import time\ntime.sleep(99)\n"), "wall time (3 s)"),
    (
      patch(calc_DOT_py="while True: print('x' * 1000)\n"),
      "over the limit of output",
    ),
    (
      patch(calc_DOT_py="import os\nos.abort()\n"),
      "pytest did: the signal SIGABRT",
    ),
    (
      patch(
        calc_DOT_py="import pytest\n\n\ndef add(a, b):\n  pytest.exit('no')\n"
        "\n\ndef double(a):\n  pass\n"
      ),
      "pytest ended early (exit code 2): ",
    ),
  ],
)
def test_what_cannot_be_judged_is_no_solution_and_says_why(task, text, problem):
  judged = judge(task, CONFIG, text, wall_s=3 if "wall" in problem else 60)
  assert problem in judged.problem
  assert not judged.is_solved
  assert not judged.is_void, "pytest runs tests of others"


def reported(task, *reports, mark="right", count=controls.COUNT):
  """The verdict on reports of tests that all passed, and of the controls."""
  lines = [{"name": x, "is_passed": True, "is_control": False} for x in reports]
  lines += count * [{"name": "", "is_passed": False, "is_control": True}]
  lines.append({"is_end": True, "status": 1})
  text = "".join(f"{mark} {json.dumps(line)}\n" for line in lines)
  ran = Ran(text.encode(), b"", 0, "", 0.0, 0.0)
  return verdicts.read_reports(ran, task, "right", 1)


def test_reports_count_once_with_their_mark_beside_controls(task):
  assert reported(task, *task.tests).is_solved
  assert not reported(task, *task.tests[1:]).is_solved
  assert not reported(task, *task.tests, task.tests[0]).is_solved
  assert "ended before" in reported(task, *task.tests, mark="wrong").problem
  assert "must fail" in reported(task, *task.tests, count=0).problem


def test_a_patch_with_a_shifted_context_applies_as_in_swe_bench(task):
  moved = patch(calc_DOT_py=FIXED).replace(b"@@ -1,5", b"@@ -4,5")
  moved = moved.replace(b" def add(a, b):", b" def add(a,  b):")
  judged = judge(task, CONFIG, moved)
  assert judged.is_solved, judged


def test_hidden_tests_can_be_a_patch(folder):
  tests = patch(tests__test_calc_DOT_py=HIDDEN).decode()
  task = make_task(folder, test_files=(), test_patch=tests)
  assert check_task(task, CONFIG) == ""
  # Edits of the patched files do not keep it from applying.
  judged = verdict(task, calc_DOT_py=FIXED, tests__test_calc_DOT_py="x = 1\n")
  assert judged.is_solved, judged
  bad = dataclasses.replace(task, test_patch=tests.replace("two", "three"))
  assert "test_patch does not apply" in judge(bad, CONFIG, b"").problem


NEW_TESTS = b"""diff --git a/tests/test_calc.py b/tests/test_calc.py
new file mode 100644
--- /dev/null
+++ b/tests/test_calc.py
@@ -0,0 +1,2 @@
+def test_mine():
+  pass
"""
# Writes a command that `git add` would run, and the files that it needs.
FILTER = b"""--- /dev/null
+++ b/.git/info/attributes
@@ -0,0 +1 @@
+*.py filter=x
--- /dev/null
+++ b/evil.sh
@@ -0,0 +1,2 @@
+touch /tmp/it_ran
+cat
--- a/.git/config
+++ b/.git/config
@@ -1,2 +1,4 @@
+[filter "x"]
+\tclean = sh evil.sh
 [core]
 \trepositoryformatversion = 0
"""


def test_a_patch_to_files_of_git_runs_nothing(task):
  with open_workspace(task, CONFIG, is_for_agent=False) as sandbox:

    def runs(*command):
      return sandbox.run(command).succeeded

    hidden_tests._git(sandbox, hidden_tests._APPLY, FILTER)
    assert runs("git", "-C", "/testbed", "log", "-1")
    assert not runs("test", "-e", "/tmp/it_ran")
    assert not runs("grep", "-q", "evil", "/testbed/.git/config")


def test_hidden_tests_can_be_those_of_a_repository_with_a_bug(tmp_path):
  write_repository(tmp_path)
  (tmp_path / "calc.py").write_text(FIXED)
  (tmp_path / "tests/test_calc.py").write_text(HIDDEN)
  name = commit(tmp_path)
  bug = "".join(
    difflib.unified_diff(
      FIXED.splitlines(keepends=True),
      FILES["calc.py"].splitlines(keepends=True),
      "a/calc.py",
      "b/calc.py",
    )
  )
  task = make_task(tmp_path, test_files=(), bug_patch=bug, commit=name)
  assert task.hidden_paths == ("tests/test_calc.py",)
  assert check_task(task, CONFIG) == ""
  assert verdict(task, calc_DOT_py=FIXED).is_solved
  # An agent may write tests of its own where it sees none.
  own = patch(calc_DOT_py=FIXED) + NEW_TESTS
  assert judge(task, CONFIG, own).is_solved
  with pytest.raises(TaskError, match="patch"):
    judge(dataclasses.replace(task, bug_patch="x\n"), CONFIG, b"")


def test_settings_that_the_tests_need_are_given(folder):
  marked = HIDDEN.replace(
    "def test_double", "@pytest.mark.odd\ndef test_double"
  )
  task = make_task(
    folder,
    test_files=(("tests/test_calc.py", marked),),
    pytest_arguments=("--strict-markers",),
  )
  assert not verdict(task, calc_DOT_py=FIXED).is_solved
  settings = ("--strict-markers", "-o", "markers=odd")
  task = dataclasses.replace(task, pytest_arguments=settings)
  assert verdict(task, calc_DOT_py=FIXED).is_solved


def test_tests_that_prove_nothing_are_named(task):
  missing = "tests/test_calc.py::test_nothing"
  wrong = dataclasses.replace(task, pass_to_pass=(missing,))
  assert f"no test {missing}" in check_task(wrong, CONFIG)
  wrong = dataclasses.replace(
    task, fail_to_pass=task.pass_to_pass, pass_to_pass=()
  )
  assert check_task(wrong, CONFIG).endswith("passes without a repair")


@pytest.mark.parametrize(
  ("path", "is_theirs"),
  [
    ("tests/data/a.json", True),
    ("pkg/test/a.py", True),
    ("pkg/test_a.py", True),
    ("pkg/a_test.py", True),
    ("conftest.py", True),
    ("tests", True),
    ("pkg/__pycache__/a.cpython-311.pyc", True),
    ("pkg/testing/a.py", False),
    ("pkg/contest.py", False),
    ("test_data.txt", False),
    ("latest/a.py", False),
  ],
)
def test_files_of_tests_are_known_by_their_names(path, is_theirs):
  assert examiner.belongs_to_tests(path) == is_theirs
