# SPDX-License-Identifier: Apache-2.0
"""The drill of test_sandbox.py as another user, and in containers."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from srl_jax.domains.software.launchers import SandboxConfig, SandboxError
from srl_jax.domains.software.sandbox import Sandbox
from tests.domains.software import drill_for_tests as drill
from tests.domains.software.marks_for_tests import needs_sandbox


@pytest.mark.slow
@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_drill_holds_for_a_user_without_privileges():
  # This checkout may be another user's; the drill needs little of it.
  folder = pathlib.Path(tempfile.mkdtemp())
  folder.chmod(0o755)
  root = pathlib.Path(drill.__file__).parents[3]
  for name in ("srl_jax/domains/software", "tests/domains/software"):
    shutil.copytree(root / name, folder / name)
  # The checks of its configs, without the package that only config files need.
  shutil.copy(root / "srl_jax/strict.py", folder / "srl_jax")
  beside = folder / "tests/domains/software/ml_collections.py"
  beside.write_text("ConfigDict = dict\n")
  script = folder / "tests/domains/software/drill_for_tests.py"
  for python in (sys.executable, "/usr/bin/python3"):
    # Another user may not be able to read the Python that runs here.
    with contextlib.suppress(PermissionError, FileNotFoundError):
      done = subprocess.run(
        [python, script, "bubblewrap", python],
        user=12345,
        group=12345,
        extra_groups=[],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
      )
      assert done.returncode == 0, done.stderr
      assert len(done.stdout.splitlines()) == len(drill.DRILL)
      shutil.rmtree(folder)
      return
  pytest.skip("no Python that another user can run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["podman", "docker"])
def test_the_drill_holds_in_a_container(kind):
  image = os.environ.get("SRL_JAX_SANDBOX_IMAGE")
  if not image:
    pytest.skip("SRL_JAX_SANDBOX_IMAGE names no image")
  try:
    sandbox = Sandbox(
      SandboxConfig(kind=kind, image=image, limits=drill.LIMITS)
    )
  except SandboxError as error:
    pytest.skip(str(error))
  with sandbox:
    for part in drill.DRILL:
      part(sandbox)
