# SPDX-License-Identifier: Apache-2.0
"""Two processes write the files of one checkpoint folder side by side."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from srl_jax import storage
from tests.support import families

ROOT = pathlib.Path(__file__).parents[2]
RUN = """
import os, pathlib, signal, sys
import jax
from srl_jax import sharding, storage
from srl_jax.models import LanguageModel, hf_files, weights
from srl_jax.processes import joining

source, folder, dying, *flags = sys.argv[1:]
address, count, index = (flag.partition("=")[2] for flag in flags)
joining.join(address, int(count), int(index))
model = LanguageModel(hf_files.HfCheckpoint(source).config)
mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2))
write = weights._write_file

def noting(path, tensors, dtype):
  write(path, tensors, dtype)
  print("wrote", path.name, flush=True)
  if index == dying:
    os.kill(os.getpid(), signal.SIGKILL)

weights._write_file = noting
with jax.set_mesh(mesh):
  params = weights.load_params(source, model, mesh, jax.random.key(0))
  weights.save_params(
    folder, params, model, dtype="float32", max_file_bytes=20_000
  )
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return families.write(tmp_path_factory.mktemp("source") / "x", "qwen3", 2)


def save(source, folder, dying=""):
  """Writes `source` to a folder; returns the status and who wrote what."""
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launch.local", "--processes=2", "--"),
      *(sys.executable, "-c", RUN, str(source), str(folder), dying),
    ],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=300,
    check=False,
  )
  lines = [x.split() for x in done.stdout.splitlines() if " wrote " in x]
  return done.returncode, {name: who for who, _, name in lines}, done.stdout


@pytest.mark.parametrize(
  "kind", ["disk", pytest.param("bucket", marks=pytest.mark.slow)]
)
def test_each_process_writes_every_other_file(source, tmp_path, request, kind):
  folder = tmp_path / "out"
  if kind == "bucket":
    pytest.importorskip("gcsfs")
    request.getfixturevalue("bucket")
    folder = storage.path("gs://srl-tests/saved/together")
  folder.mkdir()
  (folder / "config.json").write_text("{}")
  (folder / "stale.safetensors").write_text("of before")
  status, wrote, output = save(source, folder)
  assert status == 0, output
  names = sorted(wrote)
  assert len(names) > 3
  assert [wrote[x] for x in names] == [f"[{i % 2}]" for i in range(len(names))]
  found = {}
  for name in names:
    found |= safetensors.numpy.load((folder / name).read_bytes())
  want = families.tensors(families.CONFIGS["qwen3"])
  assert found.keys() == want.keys()
  for name, x in found.items():
    np.testing.assert_array_equal(x, want[name], err_msg=name)
  there = {x.name for x in folder.iterdir()}
  assert there == {*names, "config.json", "model.safetensors.index.json"}
  assert json.loads((folder / "config.json").read_text())["hidden_size"] == 24


def test_a_process_that_dies_leaves_the_folder_as_it_was(source, tmp_path):
  folder = tmp_path / "out"
  folder.mkdir()
  (folder / "config.json").write_text("of before")
  status, wrote, output = save(source, folder, dying="1")
  assert status != 0 and "[1]" in wrote.values(), output
  assert [x.name for x in folder.iterdir()] == ["config.json"]
  assert (folder / "config.json").read_text() == "of before"
