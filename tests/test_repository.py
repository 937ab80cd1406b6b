# SPDX-License-Identifier: Apache-2.0
"""The repository's own rules: floors, licences, sizes, configs; CI."""

import ast
import functools
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Imports go down, or sideways within a floor; see test_imports_go_down_only.
FLOORS = {
  "chat": 9,
  "main": 9,
  "serve": 9,
  "export": 9,
  "reference": 9,
  "show": 9,
  "run": 8,
  "evaluate.command_line": 8,
  "evaluate.evaluator": 8,
  "evaluate.interventions": 8,
  "measuring": 8,
  "swebench": 8,
  "inference": 7,
  "loading": 7,
  "own_code": 7,
  "ownership": 8,
  "initial_weights": 7,
  "saving": 7,
  "config": 7,
  "train": 6,
  "checkpoint": 5,
  "evaluate": 5,
  "held_out": 5,
  "metrics": 5,
  "overrides": 5,
  "report": 5,
  "trackers": 5,
  "update": 4,
  "rollout": 4,
  "agreement": 3,
  "models": 3,
  "policy": 0,
  "device_rewards": 2,
  "ops": 2,
  "reductions": 2,
  "sharding": 2,
  "compilation_cache": 0,
  "processes": 0,
  "progress": 0,
  "optional": 0,
  "data": 0,
  "domains": 0,
  "rewards": 0,
  "storage": 0,
  "strict": 0,
  "arguments": 0,
  "tokenizers": 0,
  "trajectory": 0,
  "types": 0,
}
# Narrower than their floor: what these may import of srl_jax beside themselves.
_PATHS = {"storage", "strict", "trajectory", "types"}
ONLY = {
  **dict.fromkeys(("optional", "strict", "trajectory", "types"), frozenset()),
  "ops": {"types"},
  "data": _PATHS
  | {"arguments", "domains", "optional", "processes"}
  | {"rewards", "tokenizers"},
  "domains": _PATHS | {"rewards"},
  "rewards": {"optional", "processes", "strict", "trajectory", "types"},
  "tokenizers": {"processes", "storage", "strict", "types"},
  "storage": {"optional", "processes"},
  "processes": {"progress", "strict"},
}
# Host packages run in worker processes, where loading JAX would take seconds
# and, on a TPU host, fail: one process owns the chips.
HOST_PACKAGES = ("data", "domains", "rewards", "tokenizers")
DEVICE_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax")


def python_files(*folders):
  """Files as a clone has them; the checkout may have no git directory."""
  for folder in folders:
    yield from sorted((ROOT / folder).rglob("*.py"))


PACKAGE_FILES = list(python_files("srl_jax"))
ALL_FILES = [
  *python_files(
    "srl_jax", "tests", "launch", "experiments", "benchmarks", "docs"
  ),
  *ROOT.glob("*.py"),
  *ROOT.glob("*.sh"),
  ROOT / "mkdocs.yml",
  ROOT / "pyproject.toml",
  ROOT / ".ci" / "run",
]


def name_of(path):
  return str(path.relative_to(ROOT))


def module_of(path):
  return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def parse(path):
  return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path):
  """Yields the dotted names that a file imports, anywhere in it."""
  for node in ast.walk(parse(path)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      # launch/ has two names: its own, and that inside the installed package.
      is_launch = path.is_relative_to(ROOT / "launch")
      assert is_launch or not node.level, f"{name_of(path)}: relative import"
      module = "launch" if node.level else node.module
      assert not is_launch or not module.startswith("launch."), name_of(path)
      yield from (f"{module}.{alias.name}" for alias in node.names)


def part_named(module):
  """Returns the part that a module of srl_jax, or a name in it, belongs to.

  It is a wing ("ops", "train" ...), or a module of one that has a floor of its
  own.
  """
  _, wing, *rest = module.split(".")
  room = f"{wing}.{rest[0]}" if rest else wing
  return room if room in FLOORS else wing


def imported_parts(path):
  """Yields the parts of srl_jax that a file imports."""
  for name in imported_modules(path):
    if name.startswith("srl_jax."):
      yield part_named(name)


def part_of(path):
  """Returns the part that a file belongs to; a wing's command is a main."""
  module = module_of(path)
  return "main" if module.endswith(".__main__") else part_named(module)


def upward_imports(files):
  """Returns "importer -> imported" for each import that breaks the floors."""
  wrong = set()
  for path in files:
    part = part_of(path)
    if part in ("__init__", "testing"):
      continue
    assert part in FLOORS, f"give srl_jax.{part} a floor in {__file__}"
    for other in imported_parts(path):
      if other == part:
        continue
      allowed = ONLY.get(part, FLOORS.keys())
      if other not in allowed or FLOORS[other] > FLOORS[part]:
        wrong.add(f"{module_of(path)} -> srl_jax.{other}")
  return wrong


def test_imports_go_down_only():
  assert not upward_imports(PACKAGE_FILES)
  parts = {part_named(module_of(path)) for path in PACKAGE_FILES}
  assert parts >= FLOORS.keys(), "a floor for what does not exist"


def assert_no_circle(graph):
  done = set()

  def visit(name, trail):
    assert name not in trail, " -> ".join([*trail, name])
    if name not in done:
      for other in sorted(graph.get(name, ())):
        visit(other, [*trail, name])
      done.add(name)

  for name in graph:
    visit(name, [])


def test_wings_import_each_other_in_no_circle():
  graph = {}
  for path in PACKAGE_FILES:
    part = part_of(path)
    others = {other for other in imported_parts(path) if other != part}
    graph.setdefault(part, set()).update(others)
  assert_no_circle(graph)


def test_modules_import_each_other_in_no_circle():
  files = list(python_files("srl_jax", "launch", "benchmarks"))
  modules = {module_of(path) for path in files}
  graph = {}
  for path in files:
    # "from a.b import c" names the module a.b.c, or something in a.b.
    found = set()
    for name in imported_modules(path):
      found |= {x for x in (name, name.rpartition(".")[0]) if x in modules}
    graph[module_of(path)] = found - {module_of(path)}
  assert_no_circle(graph)


# launch/tpu compiles a run's programs for machines that are not here, so it
# may know all of them; other launchers only compose command lines.
LAUNCHERS_IMPORT = {
  "compile.py": {"arguments", "config"},
  "fit.py": {"arguments", "config"},
  "pod.py": {"arguments", "config", "storage"},
}


def test_experiments_import_the_config_only_and_launchers_hardly_anything():
  for path in python_files("experiments"):
    parts = set(imported_parts(path))
    assert parts <= {"config"}, f"{name_of(path)} imports {parts}"
  for path in (ROOT / "launch").glob("*.py"):
    parts = set(imported_parts(path))
    allowed = LAUNCHERS_IMPORT.get(path.name, set())
    assert parts <= allowed, f"{name_of(path)} imports {parts}"


LOAD_HOST_MODULES = """
import importlib, pkgutil, sys
packages, libraries = map(str.split, sys.argv[1:])
for name in packages:
  package = importlib.import_module("srl_jax." + name)
  names = [package.__name__]
  for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    names.append(module.name)
  for module in names:
    importlib.import_module(module)
    loaded = [x for x in libraries if x in sys.modules]
    if loaded:
      sys.exit(f"{module} loads {', '.join(loaded)}")
  print(len(names))
"""


def load_host_modules(libraries=DEVICE_LIBRARIES):
  arguments = [" ".join(HOST_PACKAGES), " ".join(libraries)]
  return subprocess.run(
    [sys.executable, "-c", LOAD_HOST_MODULES, *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )


def test_host_packages_never_load_jax():
  done = load_host_modules()
  assert done.returncode == 0, done.stderr
  # It did find modules to load.
  assert sum(map(int, done.stdout.split())) > 20


def test_every_library_that_is_imported_is_a_declared_dependency():
  # Plots and reports: their libraries are imported where one is made.
  lists = [
    ast.literal_eval(node.value)
    for node in parse(ROOT / "setup.py").body
    if isinstance(node, ast.Assign)
    and node.targets[0].id
    in (
      "REQUIRED",
      "COLAB",
      "EMULATOR",
      "GCS",
      "INSPECT",
      "REPORT",
      "SERVE",
      "TRACKIO",
      "WANDB",
    )
  ]
  assert len(lists) == 9
  required = [name for names in lists for name in names]
  names = (re.match(r"[\w.-]+", requirement)[0] for requirement in required)
  declared = {name.lower().replace("_", "-") for name in names}
  distributions = importlib.metadata.packages_distributions()
  for path in python_files("srl_jax", "launch", "experiments"):
    for module in imported_modules(path):
      top = module.partition(".")[0]
      if top in sys.stdlib_module_names or (ROOT / top).exists():
        continue
      # What is not installed is called like its module.
      names = distributions.get(top, [top])
      names = {x.lower().replace("_", "-") for x in names}
      assert names & declared, f"{name_of(path)} imports {top}: not in setup.py"


# Extras that no default test needs.
NOT_BY_DEFAULT = {
  "inspect-ai",
  "peft",
  "tensorboard",
  "torch",
  "trackio",
  "transformers",
  "trl",
  "wandb",
}


def test_the_lowest_versions_are_the_lower_bounds():
  bounds = {}
  for node in ast.walk(parse(ROOT / "setup.py")):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)(;|$)", node.value)
      if found and found[1] not in NOT_BY_DEFAULT:
        bounds[found[1].lower().replace("_", "-")] = found[2]
  assert len(bounds) > 25
  text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
  pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
  assert {name: pins.get(name) for name in bounds} == bounds


def test_every_file_carries_its_licence():
  for path in ALL_FILES:
    lines = path.read_text(encoding="utf-8").splitlines()[:2]
    if not lines[0].startswith("# SPDX"):
      assert lines[0].startswith("#!"), f"{name_of(path)} starts {lines[0]!r}"
      lines = lines[1:]
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0", name_of(path)


def test_every_module_says_what_it_is_for():
  for path in ALL_FILES:
    if path.suffix == ".py":
      assert ast.get_docstring(parse(path)), f"{name_of(path)}: no docstring"


def body_lines(function):
  """Length of a function without its docstring and signature."""
  body = function.body
  if ast.get_docstring(function) is not None:
    body = body[1:]
  return body[-1].end_lineno - body[0].lineno + 1 if body else 0


# The loops of the method; nothing else is as long.
LOOPS = {"train_stage": 120}


def test_files_and_functions_stay_short():
  for path in ALL_FILES:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= 400, f"{name_of(path)} has {count} lines"
  for path in PACKAGE_FILES:
    for node in ast.walk(parse(path)):
      if isinstance(node, ast.FunctionDef):
        count = body_lines(node)
        limit = LOOPS.get(node.name, 60)
        assert count <= limit, f"{name_of(path)}: {node.name} has {count} lines"


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_of_the_readme():
  ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
  [command] = [line for line in README.splitlines() if "./test.sh" in line]
  assert command in ci.splitlines()


@pytest.mark.parametrize(
  ("path", "line", "wrong"),
  [
    ("ops/losses.py", "from srl_jax import config", "srl_jax.config"),
    ("ops/losses.py", "import srl_jax.sharding", "srl_jax.sharding"),
    ("update/grpo.py", "from srl_jax.train import x", "srl_jax.train"),
    ("data/trunks.py", "def f():\n  import srl_jax.ops", "srl_jax.ops"),
  ],
)
def test_an_upward_import_is_named_by_its_pair(monkeypatch, path, line, wrong):
  file = ROOT / "srl_jax" / path
  monkeypatch.setitem(globals(), "parse", lambda _: ast.parse(line))
  assert upward_imports([file]) == {f"{module_of(file)} -> {wrong}"}


def test_a_library_loaded_in_a_host_package_is_named_by_its_module():
  # NumPy, which they do load, stands for what a mistake would look like.
  done = load_host_modules(libraries=("numpy",))
  assert done.returncode == 1
  assert re.match(r"srl_jax\.data\S* loads numpy", done.stderr)
