# SPDX-License-Identifier: Apache-2.0
"""A profile of some update steps: what the devices do, in the source's names.

The trace goes into the working directory, for xprof. Its operations carry the
names of functions and modules, by jax.named_scope and Flax. Not for: programs
that are compared on one core (benchmarks/profile.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import jax

from srl_jax import progress, strict
from srl_jax.storage.mirror import Mirror


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
  """Which update steps are profiled.

  Attributes:
    first: the first of them, counted as on the console, from 1.
    last: the last of them; 0 profiles none. A trace grows by megabytes with
      every step, so take a few, and not the first ones, which compile.
  """

  first: int = 1
  last: int = 0

  def __post_init__(self):
    strict.check_numbers(self, first="[1, )", last="[0, )")
    if self.last and self.last < self.first:
      raise ValueError(
        f"profile.first={self.first} and profile.last={self.last} are no "
        "update steps; set last to the same number or a larger one, or to 0 "
        "for no profile"
      )


class Profile:
  """Takes the trace of a stage; use as a context manager."""

  def __init__(self, config: ProfileConfig, folder: pathlib.Path, name: str):
    """Takes nothing yet.

    Args:
      config: which update steps.
      folder: where the trace goes; process 0 writes it, of its own devices.
      name: of the stage, for what is said.
    """
    self._config, self._folder, self._name = config, folder, name
    self._mirror: Mirror | None = None

  @contextlib.contextmanager
  def step(self, done: int) -> Iterator[None]:
    """Traces its block, if update step `done` (from 1) is to be traced."""
    config = self._config
    if jax.process_index() or not config.first <= done <= config.last:
      yield
      return
    if not self._mirror:
      self._mirror = Mirror(self._folder)
      options = jax.profiler.ProfileOptions()
      # Every call of Python would be most of the trace.
      options.python_tracer_level = 0
      jax.profiler.start_trace(
        str(self._mirror.folder), profiler_options=options
      )
    with jax.profiler.StepTraceAnnotation("update_step", step_num=done):
      yield

  def finished(self, done: int) -> None:
    """Writes the trace if it is complete: this many steps were waited for."""
    if self._mirror and done >= self._config.last:
      self._write()

  def _write(self) -> None:
    jax.profiler.stop_trace()
    self._mirror.close()
    self._mirror = None
    progress.say(
      f"{self._name}: the profile is in {self._folder}; type: xprof "
      f"--logdir={self._folder}"
    )

  def __enter__(self) -> Profile:
    return self

  def __exit__(self, *_) -> None:
    # The run ends in the middle; what there is may show why.
    if self._mirror:
      self._write()
