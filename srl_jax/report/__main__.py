# SPDX-License-Identifier: Apache-2.0
"""Writes a report on runs: one page, which opens without a network.

  python -m srl_jax.report --workdir=/tmp/srl --out=report.html
  python -m srl_jax.report --workdir=RUN_0 --workdir=RUN_1 --out=report.html

Runs may be finished or under way. Runs that differ in their seed only are drawn
with their mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from srl_jax import failures, storage
from srl_jax.report.evaluations import compare_evaluations, read_evaluations
from srl_jax.report.page import make_page
from srl_jax.report.runs import read_runs


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if there is nothing to report."""
  parser = argparse.ArgumentParser(
    prog="python -m srl_jax.report", description=__doc__.partition("\n")[0]
  )
  parser.add_argument(
    "--workdir",
    action="append",
    required=True,
    help="of a run; give it again for further runs",
  )
  parser.add_argument(
    "--evaluation",
    action="append",
    default=[],
    metavar="DIR",
    help="--out of an evaluation; further ones are compared with the first",
  )
  parser.add_argument("--out", default="report.html", help="file to write")
  parser.add_argument(
    "--rollouts",
    type=int,
    default=4000,
    metavar="N",
    help="how many samples of rollouts the page holds, about",
  )
  args = parser.parse_args(argv)
  try:
    if args.rollouts < 1:
      raise ValueError(f"got rollouts={args.rollouts}; ask for 1 or more")
    out = storage.path(args.out)
    page = make_page(
      read_runs(args.workdir),
      args.rollouts,
      read_evaluations(args.evaluation),
      compare_evaluations(args.evaluation),
    )
    data = page.encode("utf-8")
    out.write_bytes(data)
  except (ValueError, OSError, *failures.of_buckets()) as error:
    sys.exit(f"error: {failures.in_one_line(error)}")
  print(f"the report is in {storage.absolute(out)} ({len(data) / 1e6:.1f} MB)")


if __name__ == "__main__":
  main()
