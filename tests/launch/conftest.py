# SPDX-License-Identifier: Apache-2.0
"""A cloud on this machine, for tests of pods."""

import os
import pathlib
import sys

import pytest

from launch.pods import machines
from launch.pods import pod as pods

ROOT = pathlib.Path(__file__).parents[2]
FAKE = pathlib.Path(__file__).with_name("gcloud_for_tests.py")


@pytest.fixture
def make():
  """Makes a pod, with changes."""

  def a_pod(**changes):
    about = {
      "name": "srl-test",
      "slice": machines.find("v5p-128"),
      "zone": "us-east5-a",
      "config": "experiments/registers.py",
      "overrides": ("--config.note=it's on",),
      "workdir": "gs://bucket/run",
      "slices": 1,
      "is_spot": True,
      "image": "registry/srl_jax",
      "command_line": "srl_jax pod",
    }
    return pods.Pod(**about | changes)

  return a_pod


@pytest.fixture
def fake_cloud(tmp_path, monkeypatch):
  """The folder of a cloud, whose gcloud is on the path."""
  tools = tmp_path / "tools"
  tools.mkdir()
  # Without site-packages, which would take half of the time.
  command = f'exec {sys.executable} -S {FAKE} "$@"'
  (tools / "gcloud").write_text(f"#!/bin/sh\n{command}\n")
  (tools / "gcloud").chmod(0o755)
  monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
  monkeypatch.setenv("FAKE_GCLOUD", str(tmp_path / "cloud"))
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("POLL_S", "0.2")
  # With keys of others in it.
  monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
  return tmp_path / "cloud"
