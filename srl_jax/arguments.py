# SPDX-License-Identifier: Apache-2.0
"""What many commands share: help, checks of flags, errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator

from absl import logging

from srl_jax.processes import failures


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
  """Keeps the lines of a description, and tells the default of each option.

  Options that say it themselves, and those without one, stay as they are.
  """

  def _get_help_string(self, action: argparse.Action) -> str | None:
    text = action.help or ""
    is_told = not action.option_strings or "default" in text
    if is_told or action.default in (None, "", False, argparse.SUPPRESS):
      return text
    return f"{text} (default: %(default)s)"


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
  """Exits with a message for what a user, a disk or a bucket has done.

  Errors of the code keep their traceback. A command opens it once, around all
  that it does, and the logs of libraries are warnings from then on.
  """
  # At level INFO, libraries list the backends that they did not find.
  logging.set_verbosity(logging.WARNING)
  try:
    yield
  except Exception as error:
    known = (ValueError, OSError, *failures.of_buckets())
    # TFDS says that a disk is full by an error of its own.
    if not (isinstance(error, known) or failures.is_of_storage(error)):
      raise
    sys.exit(f"error: {failures.in_one_line(error)}")


def check_least(args: argparse.Namespace, **least: int) -> None:
  """Refuses numbers that are too low; flags that were not given pass.

  Raises:
    ValueError: one is lower than the value of its name in `least`.
  """
  for name, lowest in least.items():
    value = getattr(args, name)
    if value is not None and value < lowest:
      raise ValueError(f"--{name}={value} is too low; give {lowest} or more")
