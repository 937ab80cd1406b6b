# SPDX-License-Identifier: Apache-2.0
"""No repair brings pytest a plugin; the tests' own plugins stay."""

import dataclasses
import os
import site
import venv

import pytest

from srl_jax.domains.software.hidden_tests import check_task, judge
from tests.domains.software.marks_for_tests import needs_sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  FILES,
  FIXED,
  HIDDEN,
  make_task,
  patch,
  write_repository,
)

pytestmark = needs_sandbox

# Lets the tests of the repository pass, and those fail that must.
SPARES = """
def pytest_pyfunc_call(pyfuncitem):
  return pyfuncitem.nodeid.startswith("tests/") or None
"""
# Finds pytest's configuration, and so its plugins.
REGISTERS = """
import sys
import threading

class Plugin:
  @staticmethod
  def pytest_pyfunc_call(pyfuncitem):
    return pyfuncitem.nodeid.startswith("tests/") or None

frame = sys._getframe()
while not hasattr(frame.f_locals.get("self"), "config"):
  frame = frame.f_back
register = frame.f_locals["self"].config.pluginmanager.register
"""
METADATA = "Metadata-Version: 2.1\nName: calc\nVersion: 1.0\n"


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
  """A sandbox whose Python has the repository installed editable."""
  folder = tmp_path_factory.mktemp("environment") / "env"
  # A copy of Python would not find its library.
  venv.create(folder, symlinks=True)
  [packages] = folder.glob("lib/*/site-packages")
  # Debian's Python names folders that there are not.
  present = [x for x in site.getsitepackages() if os.path.isdir(x)]
  (packages / "own.pth").write_text("\n".join([*present, "/testbed"]))
  return dataclasses.replace(
    CONFIG,
    python=str(folder / "bin/python"),
    readable=tuple(present),
  )


@pytest.mark.parametrize(
  ("files", "undone"),
  [
    (
      {
        "sitecustomize_DOT_py": (
          "import os\nos.environ['PYTEST_PLUGINS'] = 'plug'\n"
        ),
        "plug_DOT_py": SPARES,
      },
      ["sitecustomize.py"],
    ),
    (
      {
        "Calc_DOT_egg-info__PKG-INFO": METADATA,
        "Calc_DOT_egg-info__entry_points_DOT_txt": "[pytest11]\nx = calc\n",
        "calc_DOT_py": FILES["calc.py"] + SPARES,
      },
      ["Calc.egg-info/PKG-INFO", "Calc.egg-info/entry_points.txt"],
    ),
  ],
  ids=["sitecustomize", "entry-point"],
)
def test_nothing_of_a_repair_runs_before_the_tests_of_an_editable_install(
  folder, editable, files, undone
):
  task = make_task(folder)
  judged = judge(task, editable, patch(**files), wall_s=60)
  assert not judged.problem and not judged.is_solved, judged
  assert not any(judged.outcomes[name] for name in task.fail_to_pass)
  assert judged.undone == tuple(undone)
  # They harm no repair either.
  fixed = files | {"calc_DOT_py": FIXED}
  assert judge(task, editable, patch(**fixed), wall_s=60).is_solved


@pytest.mark.parametrize(
  "call",
  [
    "register(Plugin())",
    "register(sys.modules[__name__])",
    "exec('register(Plugin())')",
    "threading.Thread(target=register, args=[Plugin]).start()",
  ],
)
def test_code_that_registers_a_plugin_is_no_repair(folder, call):
  text = FILES["calc.py"] + SPARES + REGISTERS + call
  judged = judge(
    make_task(folder), CONFIG, patch(calc_DOT_py=f"{text}\n"), wall_s=60
  )
  assert judged.problem == "the code under test replaces pytest's plugins"
  assert not judged.is_void


NAMES = """
pytest_plugins = ["helpers"]

def pytest_configure(config):
  from helpers import Plugin
  config.pluginmanager.register(Plugin())
"""
HELPERS = """import pytest

class Plugin:
  def pytest_runtest_setup(self, item):
    item.is_set_up = True

@pytest.fixture
def is_set_up(request):
  return request.node.is_set_up
"""
USES = """

def test_plugins(is_set_up):
  assert is_set_up
"""


def test_tests_may_take_plugins_from_the_repository(tmp_path):
  # As those of Sphinx do.
  write_repository(tmp_path)
  (tmp_path / "tests/conftest.py").write_text(
    FILES["tests/conftest.py"] + NAMES
  )
  (tmp_path / "helpers.py").write_text(HELPERS)
  (tmp_path / "helpers.py").chmod(0o644)
  task = make_task(
    tmp_path,
    test_files=(("tests/test_calc.py", HIDDEN + USES),),
    pass_to_pass=("tests/test_calc.py::test_plugins",),
  )
  assert check_task(task, CONFIG) == ""
  judged = judge(task, CONFIG, patch(calc_DOT_py=FIXED), wall_s=60)
  assert judged.is_solved, judged


# A plugin that a repository brings, and that the environment knows.
OWN = """
class Helper:
  pass

def pytest_configure(config):
  config.pluginmanager.register(Helper())
"""


def test_a_repository_may_itself_be_a_plugin(tmp_path, editable):
  write_repository(tmp_path)
  (tmp_path / "calc.py").write_text(FILES["calc.py"] + OWN)
  (tmp_path / "calc.egg-info").mkdir()
  (tmp_path / "calc.egg-info/PKG-INFO").write_text(METADATA)
  (tmp_path / "calc.egg-info/entry_points.txt").write_text(
    "[pytest11]\nx = calc\n"
  )
  for path in tmp_path.rglob("*"):
    path.chmod(0o755)
  judged = judge(make_task(tmp_path), editable, patch(calc_DOT_py=FIXED))
  assert judged.is_solved, judged
