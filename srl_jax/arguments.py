# SPDX-License-Identifier: Apache-2.0
"""What the commands' flags have in common."""

from __future__ import annotations

import argparse


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


def check_least(args: argparse.Namespace, **least: int) -> None:
  """Refuses numbers that are too low; flags that were not given pass.

  Raises:
    ValueError: one is lower than the value of its name in `least`.
  """
  for name, lowest in least.items():
    value = getattr(args, name)
    if value is not None and value < lowest:
      raise ValueError(f"--{name}={value} is too low; give {lowest} or more")
