# SPDX-License-Identifier: Apache-2.0
"""What runs, and what is said, on a machine that lacks some libraries."""

import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from srl_jax.data import markdown, pipeline, readers, s1k
from srl_jax.report.curves import plot_metrics
from srl_jax.rewards import RewardConfig, Scorer
from srl_jax.testing import experiment

# Python runs a module of this name first, in worker processes too.
SITECUSTOMIZE = '''
"""Hides libraries, as if they were not installed."""
import sys

HIDDEN = ("array_record", "cydifflib", "tensorboardX", "tensorflow_datasets")


def asked_by_grain():
  # Grain imports array_record for itself and is not installed without it.
  frame = sys._getframe()
  while frame:
    if frame.f_globals.get("__name__", "").startswith("grain."):
      return True
    frame = frame.f_back
  return False


class Hide:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in HIDDEN and not asked_by_grain():
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hide())
'''
RATIO = """
from srl_jax.rewards import difflib_ratio, matching_blocks
print(difflib_ratio("abcd", "bcde"), matching_blocks("abcd", "bcde"))
"""
IMPORT_ALL = """
import importlib, pkgutil, srl_jax
count = 0
for module in pkgutil.walk_packages(srl_jax.__path__, "srl_jax."):
  try:
    importlib.import_module(module.name)
    count += 1
  except ValueError as error:
    print(f"{module.name}: {error}")
print(count)
"""


def make_batches():
  pipeline.make_batches(
    [None], seed=0, batch_size=1, trunk_width=1, points=1, stem_width=1
  )


def read_parquet():
  readers.read_file(pathlib.Path("train.parquet"), s1k.parse)


def read_zstd():
  with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
    file.write(b"(\xb5/\xfd")
    file.flush()
    readers.read_file(pathlib.Path(file.name), s1k.parse)


def split_steps():
  markdown.parser.cache_clear()
  s1k.split_steps("1. **A**")


@pytest.fixture
def without(tmp_path):
  """Runs a command where the libraries are hidden; returns its lines."""
  (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
  paths = [str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")]
  found = {"PYTHONPATH": os.pathsep.join(paths)}

  def run(command, environment=None):
    done = subprocess.run(
      command,
      capture_output=True,
      text=True,
      env=(environment or os.environ) | found,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()

  return run


def test_only_what_reads_and_writes_tfds_needs_its_libraries(without):
  *refused, count = without([sys.executable, "-c", IMPORT_ALL])
  assert refused == [
    "srl_jax.data.tfds_builders: TFDS datasets need the Python module "
    "'array_record', which is not installed; type: pip install "
    "tensorflow-datasets array_record"
  ]
  assert int(count) > 80


def test_pythons_difflib_takes_the_place_of_cydifflib(without):
  # 2 * 3 / 8 characters; one block.
  assert without([sys.executable, "-c", RATIO]) == ["0.75 [(1, 0, 3)]"]


@pytest.mark.parametrize(
  ("module", "use", "told"),
  [
    ("grain", make_batches, "Batches of trunks .*'grain'.* install grain$"),
    (
      "Levenshtein",
      lambda: Scorer(RewardConfig(function="levenshtein")),
      "Levenshtein similarities .* install levenshtein$",
    ),
    (
      "matplotlib",
      lambda: plot_metrics([{"update_step": 0, "x": 1.0}], ["x"]),
      "Plots of metrics .* install matplotlib$",
    ),
    ("pyarrow", read_parquet, "Parquet files .* install pyarrow$"),
    ("pyarrow", read_zstd, "Files compressed by zstd .* install pyarrow$"),
    ("markdown_it", split_steps, "Markdown .* install markdown-it-py$"),
  ],
)
def test_what_is_missing_is_named_with_what_to_type(
  monkeypatch, module, use, told
):
  for name in [x for x in sys.modules if x.split(".")[0] == module]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ValueError, match=told):
    use()


@pytest.mark.slow
def test_a_run_goes_on_without_them_and_says_so_once(without, runs, tmp_path):
  workdir = tmp_path / "run"
  lines = without(
    [
      *runs.command(workdir, "srl"),
      "--config.srl.update_steps=1",
      "--config.srl.validate_every=0",
      "--config.srl.dynamic_sampling.enabled=False",
      "--config.reward_workers.count=1",
      "--config.data.test_size=0",
    ],
    runs.environment(),
  )
  said = sorted(line for line in lines if "not installed" in line)
  assert [line.partition(":")[0] for line in said] == [
    "cydifflib is not installed",
    "warning",
  ]
  assert "type: pip install tensorboardX; metrics go to" in said[1]
  trained, _ = experiment.metric_rows(workdir)
  assert trained["srl/reward"] == -1
  assert not (workdir / "tensorboard").exists()
