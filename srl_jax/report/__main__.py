# SPDX-License-Identifier: Apache-2.0
"""Writes a report on runs: one page, which opens without a network.

  srl_jax report --workdir=/tmp/srl --out=report.html
  srl_jax report --workdir=RUN_0 --workdir=RUN_1 --out=report.html
  srl_jax report --trajectories=runs --out=report.html

Runs may be finished or under way. Runs that differ in their seed only are drawn
with their mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from srl_jax import storage
from srl_jax.arguments import HelpFormatter, check_least, errors_in_one_line
from srl_jax.report.evaluations import compare_evaluations, read_evaluations
from srl_jax.report.page import make_page
from srl_jax.report.runs import read_runs
from srl_jax.storage import files


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if there is nothing to report."""
  args = _parser().parse_args(argv)
  with errors_in_one_line():
    if not (args.workdir or args.evaluation or args.trajectories):
      raise ValueError(
        "there is nothing to report on; give --workdir=DIR of a run, "
        "--evaluation=DIR, or --trajectories=PATH of an agent"
      )
    check_least(args, rollouts=1, episodes=1)
    out = storage.path(args.out)
    files.check_writable(out, "--out")
    page = make_page(
      read_runs(args.workdir),
      args.rollouts,
      read_evaluations(args.evaluation),
      compare_evaluations(args.evaluation),
      args.trajectories,
      args.episodes,
    )
    data = page.encode("utf-8")
    out.write_bytes(data)
  print(f"the report is in {storage.absolute(out)} ({len(data) / 1e6:.1f} MB)")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="srl_jax report",
    description=__doc__.partition("\n")[0],
    formatter_class=HelpFormatter,
  )
  parser.add_argument(
    "--workdir",
    action="append",
    default=[],
    help="working directory of a run; may be given several times",
  )
  parser.add_argument(
    "--evaluation",
    action="append",
    default=[],
    metavar="DIR",
    help="--out of an evaluation; further ones are compared with the first",
  )
  parser.add_argument(
    "--trajectories",
    action="append",
    default=[],
    metavar="PATH",
    help="file or folder of agents' trajectories, as data.format=agents reads "
    "them, or of your own; give it again for further ones",
  )
  parser.add_argument("--out", default="report.html", help="file to write")
  parser.add_argument(
    "--rollouts",
    type=int,
    default=4000,
    metavar="N",
    help="how many samples of rollouts the page holds, about",
  )
  parser.add_argument(
    "--episodes",
    type=int,
    default=300,
    metavar="N",
    help="how many episodes the page holds, about",
  )
  return parser


if __name__ == "__main__":
  main()
