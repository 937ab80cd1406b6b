# SPDX-License-Identifier: Apache-2.0
"""How tests compile: quickly, unless a test is about XLA's optimizations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

_FLAG = "jax_disable_most_optimizations"


def quick_compilation() -> contextlib.AbstractContextManager[None]:
  """Compiles without XLA's costly optimizations, which halves the time.

  It suits programs that run for milliseconds. tests/conftest.py makes it the
  default.
  """
  return _compilation(is_quick=True)


def full_compilation() -> contextlib.AbstractContextManager[None]:
  """Compiles as in training, for tests of memory, kernels and layouts."""
  return _compilation(is_quick=False)


@contextlib.contextmanager
def _compilation(*, is_quick: bool) -> Iterator[None]:
  before = jax.config.read(_FLAG)
  jax.config.update(_FLAG, is_quick)
  try:
    yield
  finally:
    jax.config.update(_FLAG, before)
