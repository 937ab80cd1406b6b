# SPDX-License-Identifier: Apache-2.0
"""What is released: one command for all, the archives, images, workflows."""

import importlib.util
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import types
import zipfile

import pytest
import yaml

import srl_jax
from srl_jax.__main__ import VERBS, main, module_of

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
VERSION = srl_jax.__version__


def run(*command, **options):
  return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def elsewhere(tmp_path):
  """Options of a run in another folder, of the clone, not installed."""
  return {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}


def srl(*arguments, **options):
  return run(sys.executable, "-m", "srl_jax", *arguments, **options)


def test_the_command_lists_its_verbs_and_names_the_nearest(elsewhere):
  for arguments in ((), ("--help",)):
    done = srl(*arguments, **elsewhere)
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)
  done = srl("evalute", **elsewhere)
  assert done.returncode == 1
  said = "error: there is no command 'evalute'; did you mean 'evaluate'?\n"
  assert done.stderr == said


def test_verbs_name_modules_and_hand_their_arguments_on(elsewhere):
  for verb in VERBS:
    spec = importlib.util.find_spec(module_of(verb))
    assert spec is not None, verb
  done = srl("local", "--help", **elsewhere)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("usage: srl_jax local --processes=N")


def test_a_verb_finds_modules_of_the_current_folder(monkeypatch, tmp_path):
  # An installed command has its own folder on the path in place of this one.
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [str(ROOT)])
  monkeypatch.setattr(sys, "argv", ["srl_jax", "show"])
  (tmp_path / "my_rewards.py").touch()
  find = importlib.util.find_spec
  found = []
  monkeypatch.setattr(
    runpy, "run_module", lambda *_, **__: found.append(find("my_rewards"))
  )
  main()
  assert found[0]


@pytest.mark.slow
def test_experiments_are_found_by_name_unless_a_file_has_it(elsewhere):
  config = "--config.log_every=0"  # Refused before anything is computed.
  for name in ("registers", "experiments/registers.py", "registers:sft"):
    done = srl("train", f"--config={name}", config, **elsewhere)
    assert done.stderr.startswith("error: config: log_every=0"), done.stderr
  mine = elsewhere["cwd"] / "experiments"
  mine.mkdir()
  (mine / "registers.py").write_text("def get_config():\n  raise ValueError(1)")
  done = srl("train", "--config=experiments/registers.py", config, **elsewhere)
  assert done.stderr == "error: 1\n"


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
  """The wheel and the source archive, built as a release is."""
  folder = tmp_path_factory.mktemp("release")
  unwanted = shutil.ignore_patterns(
    ".*[!i]", "__pycache__", "*.egg-info", "runs"
  )
  shutil.copytree(ROOT, folder / "clone", ignore=unwanted)
  done = run(sys.executable, "-m", "build", cwd=folder / "clone")
  assert done.returncode == 0, done.stdout + done.stderr
  return [
    folder / "clone" / "dist" / f"srl_jax-{VERSION}{end}"
    for end in ("-py3-none-any.whl", ".tar.gz")
  ]


@pytest.mark.slow
def test_the_archives_hold_all_that_they_should(archives):
  wheel, source = archives
  with zipfile.ZipFile(wheel) as file:
    inside = {x for x in file.namelist() if ".dist-info/" not in x}
  for folder in ("srl_jax", "experiments", "launch"):
    for path in (ROOT / folder).rglob("*.py"):
      name = path.relative_to(ROOT).as_posix().removeprefix("srl_jax/")
      assert f"srl_jax/{name}" in inside, name
  # Nothing beside the package: `launch` is anybody's name.
  assert {x.split("/")[0] for x in inside} == {"srl_jax"}
  assert {
    "srl_jax/py.typed",
    "srl_jax/assets/registers_student/config.json",
  } <= inside
  with tarfile.open(source) as file:
    names = {x.partition("/")[2] for x in file.getnames()}
  for name in (
    "constraints.txt",
    "test.sh",
    "docs/concepts.md",
    "tests/conftest.py",
  ):
    assert name in names


@pytest.mark.slow
def test_the_wheel_trains_from_any_folder_without_a_clone(archives, tmp_path):
  site = tmp_path / "site"
  command = ("-m", "pip", "install", "-q", "--no-deps", f"--target={site}")
  done = run(sys.executable, *command, str(archives[0]))
  assert done.returncode == 0, done.stderr
  options = {
    "cwd": tmp_path,
    "env": os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
  }
  program = str(site / "bin" / "srl_jax")
  arguments = ("--config=math:registers", "--workdir=run")
  small = {"problems": 4, "samples": 0, "step_trajectories": 8}
  short = [f"--config.evaluate.{x}={value}" for x, value in small.items()]
  short += ["--config.srl.update_steps=1", "--config.log_every=1"]
  done = run(program, "train", *arguments, *short, **options)
  assert done.returncode == 0, done.stdout + done.stderr
  assert (tmp_path / "run" / "model" / "model.safetensors").exists()
  done = run(
    program, "local", "--processes=1", "--", "echo", "hello", **options
  )
  assert done.stdout.startswith("[0] hello"), done.stdout
  done = run(program, "compile", "--help", **options)
  assert done.returncode == 0, done.stderr


def test_images_copy_and_install_what_there_is():
  files = sorted((ROOT / "launch" / "docker").glob("*.Dockerfile"))
  assert len(files) == 2
  setup = (ROOT / "setup.py").read_text()
  for path in files:
    text = path.read_text()
    assert f"docker build -f {path.relative_to(ROOT)}" in text
    [extras] = re.findall(r"-c constraints.txt '\.\[([\w,]+)\]'", text)
    for extra in extras.split(","):
      assert f'    "{extra}": ' in setup


def test_the_page_of_the_package_has_no_dead_links_and_names_tested_pythons(
  monkeypatch,
):
  said = {}
  fake = types.SimpleNamespace(
    setup=lambda **options: said.update(options),
    find_packages=lambda **_: (),
  )
  # Newer Pythons do not bring it.
  monkeypatch.setitem(sys.modules, "setuptools", fake)
  runpy.run_path(str(ROOT / "setup.py"))
  # PyPI shows it without the repository around it.
  assert not re.findall(r"\]\((?!https://)", said["long_description"])
  tests = yaml.safe_load((WORKFLOWS / "tests.yml").read_text())
  pythons = tests["jobs"]["tested-versions"]["strategy"]["matrix"]["python"]
  named = [x for x in said["classifiers"] if re.search(r":: 3\.", x)]
  assert [x.rpartition(" ")[2] for x in named] == pythons


def test_every_night_and_before_a_release_the_slow_tests_run():
  load = lambda name: yaml.safe_load((WORKFLOWS / name).read_text())  # noqa: E731
  tests, release = load("tests.yml"), load("release.yml")["jobs"]
  # YAML reads the key "on" as true.
  assert {"schedule", "workflow_call"} <= set(tests[True])
  steps = [step.get("run", "") for step in tests["jobs"]["slow"]["steps"]]
  for marker in ("slow", "parity"):
    assert any(step.endswith(f" -m {marker}") for step in steps)
  asked = {"'schedule'", "'workflow_dispatch'", "'tag'"}
  assert set(re.findall(r"'\w+'", tests["jobs"]["slow"]["if"])) == asked
  [job] = [k for k, v in release.items() if "tests.yml" in v.get("uses", "")]
  assert release["build"]["needs"] == job
  assert release["publish"]["needs"] == "build"


def test_the_workflows_run_the_readmes_test_command():
  paths = sorted(map(str, WORKFLOWS.glob("*.yml")))
  schema = "--builtin-schema=vendor.github-workflows"
  done = run(sys.executable, "-m", "check_jsonschema", schema, *paths)
  assert done.returncode == 0, done.stdout + done.stderr
  readme = (ROOT / "README.md").read_text()
  [command] = [x for x in readme.splitlines() if "./test.sh" in x]
  assert f"- run: {command}\n" in (WORKFLOWS / "tests.yml").read_text()
