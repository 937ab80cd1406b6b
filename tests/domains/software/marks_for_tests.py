# SPDX-License-Identifier: Apache-2.0
"""A mark for tests that need a sandbox, where there may be none."""

from __future__ import annotations

import functools

import pytest

from srl_jax.domains.software.launchers import SandboxConfig, SandboxError
from srl_jax.domains.software.sandbox import check_sandbox


@functools.cache
def why_no_sandbox() -> str:
  """Returns what is missing for a sandbox of bubblewrap; "" if nothing is."""
  try:
    check_sandbox(SandboxConfig())
  except SandboxError as error:
    return str(error)
  return ""


needs_sandbox = pytest.mark.skipif(
  bool(why_no_sandbox()), reason=why_no_sandbox() or "there is a sandbox"
)
