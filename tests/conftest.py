# SPDX-License-Identifier: Apache-2.0
"""Test environment: eight CPU devices, set before anything imports JAX."""

import functools
import importlib.metadata
import os

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling programs that run for milliseconds; see
# srl_jax/testing/compilation.py. Processes that tests start inherit it.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Commands must not use the compiled programs of the user who runs the tests.
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""
_FLAGS = [
  "--xla_force_host_platform_device_count=8",
  # One piece compiles faster than 32 pieces, on two cores.
  "--xla_cpu_parallel_codegen_split_count=1",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):
  # Takes a quarter of the compilation time of a training run. Later versions
  # have no such flag, and end the process on an unknown one.
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])
# XLA's pool has a thread per core. With fewer threads than devices, JAX 0.10
# hangs in a collective as soon as a few steps are in flight: 8 of 10 runs of a
# small training loop on two cores, and none of 12 with this.
os.environ["PJRT_NPROC"] = "32"
# Tests look at a run's first line. Before it, Google's libraries warn of a
# Python whose end is less than a year away.
os.environ["PYTHONWARNINGS"] = "ignore:You are using a Python version"


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
  """Makes runs of the tiny experiment, which share what they compile."""
  # Imported here: most tests need none of it.
  from srl_jax import progress
  from srl_jax.testing import experiment

  # On a slow machine its lines would stand among those that tests compare.
  progress.SILENCE_S = 1e6
  return experiment.Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def whole(runs):
  """A run of sft and srl that nothing interrupts."""
  # What it compiles is counted.
  runs.forget()
  return runs.run(runs.folder / "whole", "sft_srl")


@pytest.fixture
def imported_domains(monkeypatch):
  """Users' domains by their import names: none, and what a test adds."""
  from srl_jax import domains

  monkeypatch.setattr(domains, "_IMPORTED", {})
  return domains._IMPORTED


@pytest.fixture(scope="session")
def families(tmp_path_factory):
  """Gives the checkpoint folder of a family; not to be changed."""
  from tests.support import checkpoints

  folder = tmp_path_factory.mktemp("checkpoints")
  return functools.cache(
    lambda family: checkpoints.write(folder / family, family)
  )


@pytest.fixture(scope="session")  # TensorStore reads its variables once.
def bucket():
  """The URL of a bucket on this machine."""
  from srl_jax.testing import buckets

  try:
    with buckets.emulated("srl-tests"):
      yield "gs://srl-tests"
  except ValueError as error:
    pytest.skip(str(error))
