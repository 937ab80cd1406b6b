# SPDX-License-Identifier: Apache-2.0
"""How tests compile, and how much.

Tests compile quickly, unless they are about XLA's optimizations.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax

_FLAG = "jax_disable_most_optimizations"


class Counts(NamedTuple):
  """How often this process has traced a function and compiled a program."""

  traces: int
  programs: int


def counts() -> Counts:
  """Returns the counts since this was first called; compare two calls."""
  events = _events()
  return Counts(
    events.count("/jax/core/compile/jaxpr_trace_duration"),
    events.count("/jax/core/compile/backend_compile_duration"),
  )


@functools.cache  # JAX 0.7 cannot be told to stop listening.
def _events() -> list[str]:
  """The events with a duration from now on."""
  events: list[str] = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: events.append(event)
  )
  return events


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
