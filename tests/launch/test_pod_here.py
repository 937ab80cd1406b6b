# SPDX-License-Identifier: Apache-2.0
"""What of this machine a pod's hosts get, and what is refused instead."""

import pathlib
import shlex
import sys

import pytest

from launch import pod as launch_pod
from launch.pods import gcloud, here
from launch.pods.pod import PACKED
from srl_jax import config as config_lib


@pytest.fixture
def load(tmp_path, monkeypatch):
  """Loads an experiment in a folder with modules of one's own."""
  folder = tmp_path / "checkout"
  folder.mkdir()
  (folder / "own_for_pods.py").write_text(
    "import helper_for_pods\n\ndef score(action, target):\n  return 1.0\n"
  )
  (folder / "helper_for_pods").mkdir()
  (folder / "helper_for_pods" / "__init__.py").touch()
  (tmp_path / "far_for_pods.py").write_text("def score(a, b):\n  return 1.0\n")
  # A library of an environment in the folder.
  library = folder / ".venv/lib"
  library.mkdir(parents=True)
  (library / "library_for_pods.py").touch()
  for path in (tmp_path, library, folder):
    monkeypatch.syspath_prepend(path)
  monkeypatch.chdir(folder)
  monkeypatch.setattr(sys, "dont_write_bytecode", True)
  before = {*sys.modules}
  yield lambda *flags: config_lib.load("registers", flags)
  for name in {*sys.modules} - before:
    del sys.modules[name]


def reward(name):
  return f"--config.srl.reward.function={name}:score"


def test_modules_of_ones_own_go_along_with_what_they_import(load, make):
  import library_for_pods  # noqa: F401

  config = load(reward("own_for_pods"))
  own = here.own_files(config, is_image=False)
  assert own == ("helper_for_pods", "own_for_pods.py")
  assert gcloud.packed(make(own=own)) == [*PACKED, *own]
  # The experiment may be beside them.
  pod = make(own=own, config="helper_for_pods/experiment.py")
  assert gcloud.packed(pod) == [*PACKED, *own]


@pytest.mark.parametrize(
  ("module", "is_image", "said"),
  [
    (
      "far_for_pods",
      False,
      "far_for_pods.py, and the hosts get what lies at the top",
    ),
    ("own_for_pods", True, "write srl_jax.experiments.own_for_pods:score and"),
    ("missing_for_pods", False, "cannot be imported"),
  ],
)
def test_a_module_that_the_hosts_would_not_have_is_refused(
  module, is_image, said, load
):
  with pytest.raises(ValueError, match=said):
    here.own_files(load(reward(module)), is_image)


@pytest.mark.parametrize(
  ("flag", "is_refused"),
  [
    ("weights=./Qwen2.5-7B-Instrct", True),
    ("weights=Qwen2.5-7B-Instruct", True),
    ("weights=Qwen/Qwen2.5-7B-Instruct", False),
    ("weights=registers_student", False),
    ("weights=gs://bucket/Qwen2.5-7B-Instruct", False),
    ("evaluate.suites_folder=suites", True),
    ("evaluate.suites_folder=other", False),
    ("evaluate.suites_folder=missing", False),
    ("evaluate.suites_folder=gs://bucket/suites", False),
  ],
)
def test_what_can_be_on_this_machine_only_is_refused(flag, is_refused, load):
  for folder, file in (("suites", "aime24.jsonl"), ("other", "train.jsonl")):
    pathlib.Path(folder).mkdir()
    pathlib.Path(folder, file).touch()
  config = load(f"--config.{flag}", "--config.evaluate.suites=('aime24',)")
  if not is_refused:
    here.check_paths(config)
    return
  with pytest.raises(ValueError, match="is a path of this machine"):
    here.check_paths(config)


ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTED = [
  line
  for page in sorted((ROOT / "docs").glob("*.md"))
  for line in page.read_text(encoding="utf-8").splitlines()
  if line.startswith("srl_jax pod --type=")
]


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_documented_command_writes_its_file(command, tmp_path, capsys):
  arguments = [x for x in shlex.split(command)[2:] if x != "--go"]
  status = launch_pod.main([*arguments, f"--out={tmp_path}"])
  assert status == 0, capsys.readouterr().err
  assert len([*tmp_path.iterdir()]) == 1


def test_another_script_packs_the_code_anew(tmp_path, capsys):
  command = [*shlex.split(DOCUMENTED[0])[2:], f"--out={tmp_path}"]
  assert launch_pod.main(command) == 0
  [script] = tmp_path.iterdir()
  pack = script.with_suffix(".tgz")
  pack.touch()
  assert launch_pod.main(command) == 0 and pack.exists()
  assert launch_pod.main([*command, "--on_demand"]) == 0
  assert not pack.exists(), capsys.readouterr()
