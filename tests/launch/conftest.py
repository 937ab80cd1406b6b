# SPDX-License-Identifier: Apache-2.0
"""A cloud on this machine, for tests of pods."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FAKE = pathlib.Path(__file__).with_name("gcloud_for_tests.py")


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
  return tmp_path / "cloud"
