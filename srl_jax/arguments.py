# SPDX-License-Identifier: Apache-2.0
"""How the commands print their help."""

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
