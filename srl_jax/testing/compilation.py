# SPDX-License-Identifier: Apache-2.0
"""How tests compile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
  """Compiles without XLA's costly optimizations, which halves the time.

  For tests that compile many small programs and run each for milliseconds.
  """
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", before)
