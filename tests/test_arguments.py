# SPDX-License-Identifier: Apache-2.0
"""Help texts tell defaults."""

import argparse

from srl_jax.arguments import HelpFormatter


def test_defaults_are_told_once_and_only_where_there_is_one():
  parser = argparse.ArgumentParser(
    description="two\n  lines", formatter_class=HelpFormatter
  )
  parser.add_argument("place", nargs="?", default="x", help="a place")
  parser.add_argument("--rows", type=int, default=32, help="rows")
  parser.add_argument("--out", default="", help="a folder")
  parser.add_argument("--keep", action="store_true", help="keep it")
  parser.add_argument("--key", default="k", help="a key; default: $KEY")
  lines = [line.strip() for line in parser.format_help().splitlines()]
  assert "two" in lines and "lines" in lines
  told = [line for line in lines if "default" in line]
  assert told == [
    "--rows ROWS  rows (default: 32)",
    "--key KEY    a key; default: $KEY",
  ]
