# SPDX-License-Identifier: Apache-2.0
"""Help texts tell defaults, and commands fail in one line."""

import argparse
import errno
import importlib

import pytest

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


@pytest.mark.parametrize(
  ("command", "does", "flags"),
  [
    ("chat.__main__", "_chat", ["--weights=x"]),
    ("data.prepare", "_run", []),
    ("export", "export", ["--workdir=x", "--out=y"]),
    ("report.__main__", "read_runs", ["--workdir=x"]),
    ("serve.__main__", "serve", ["--weights=x"]),
    ("show", "draw_samples", ["--workdir=x"]),
  ],
)
def test_a_full_disk_ends_each_command_in_one_line(
  monkeypatch, tmp_path, command, does, flags
):
  def fail(*_args, **_named):
    raise error

  monkeypatch.chdir(tmp_path)
  module = importlib.import_module(f"srl_jax.{command}")
  monkeypatch.setattr(module, does, fail)
  error = OSError(errno.ENOSPC, "No space left on device", "x")
  with pytest.raises(SystemExit, match=r"^error: the disk of x is full"):
    module.main(flags)
  error = KeyError("a mistake in the code")
  with pytest.raises(KeyError):
    module.main(flags)
