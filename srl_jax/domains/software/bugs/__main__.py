# SPDX-License-Identifier: Apache-2.0
"""Writes tasks of repairing planted bugs, and experts' trajectories.

  python -m srl_jax.domains.software.bugs --count=2000 --out=bugs

The folder gets tasks.jsonl and repositories/, which repair_domain reads, and
trajectories.jsonl, which c.data.format="jsonl" reads. The same arguments give
the same files.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence

from srl_jax.arguments import check_least
from srl_jax.data import schema
from srl_jax.domains.randomness import Draws
from srl_jax.domains.software.bugs import sources
from srl_jax.domains.software.bugs.experts import STYLES, solve
from srl_jax.domains.software.bugs.planted import Planted, Planter
from srl_jax.domains.software.bugs.trials import Trials

_FILES = ("trajectories.jsonl", "tasks.jsonl")


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if it cannot write the tasks."""
  args = _parser().parse_args(argv)
  begin = time.monotonic()
  try:
    check_least(args, count=1)
    out = pathlib.Path(args.out)
    _check_free(out)
    modules = args.modules.split(",") if args.modules else sources.names()
    with Trials() as trials:
      planter = Planter(modules, trials)
      tasks = list(planter.draw(args.count, args.bugs, args.seed))
    if len(tasks) < args.count:
      more = ", or --bugs=2, of which there are more" if args.bugs == 1 else ""
      raise ValueError(
        f"got count={args.count}, but there are {len(tasks)} tasks of these"
        f" modules with {args.bugs} bug(s) each; ask for fewer{more}"
      )
    write(tasks, out, args.seed)
  except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
  seconds = time.monotonic() - begin
  print(_summary(planter, tasks))
  print(f"{len(tasks)} tasks in {args.out}, {seconds:.1f} s")


def _check_free(out: pathlib.Path) -> None:
  """Raises ValueError if a folder holds tasks or trajectories already."""
  for name in _FILES:
    if (out / name).exists():
      raise ValueError(
        f"{out / name} exists already; remove it or write elsewhere"
      )


def write(tasks: Iterable[Planted], out: pathlib.Path, seed: int) -> None:
  """Writes the files of tasks; each gets one expert, drawn from `seed`.

  The files of lines get their names when all is written.
  """
  out.mkdir(parents=True, exist_ok=True)
  parts = [out / f"{name}.part" for name in _FILES]
  written = set()
  with contextlib.ExitStack() as stack:
    trajectories, records = (
      stack.enter_context(part.open("w", encoding="utf-8")) for part in parts
    )
    for task in tasks:
      if task.source.name not in written:
        written.add(task.source.name)
        _write_repository(task.source, out)
      style = Draws("style", seed, task.id).choice(STYLES)
      record = schema.to_json(solve(task, style))
      records.write(json.dumps(task.record) + "\n")
      trajectories.write(json.dumps(record) + "\n")
  for part in parts:
    part.rename(part.with_suffix(""))


def _write_repository(source: sources.Source, out: pathlib.Path) -> None:
  for path, text in source.files().items():
    file = out / "repositories" / source.name / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _summary(planter: Planter, tasks: Sequence[Planted]) -> str:
  """Says how many mutants were tried, and where the bugs are."""
  lines = [f"mutants tried: {_counts(planter.tried)}"]
  bugs = [bug for task in tasks for bug in task.bugs]
  for what, names in (
    ("mutators", [bug.mutator for bug in bugs]),
    ("functions", [bug.function for bug in bugs]),
  ):
    lines.append(f"{what}: {_counts(collections.Counter(names))}")
  return "\n".join(lines)


def _counts(counter: collections.Counter[str]) -> str:
  return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m srl_jax.domains.software.bugs",
    description=__doc__.partition("\n")[0],
  )
  parser.add_argument("--count", type=int, default=1000, help="tasks to write")
  parser.add_argument("--out", default="bugs", help="folder to write")
  parser.add_argument(
    "--bugs",
    type=int,
    default=1,
    choices=(1, 2),
    help="bugs of a task, each in a function of its own",
  )
  parser.add_argument(
    "--modules",
    default="",
    help="modules whose functions get bugs, between commas; all by default."
    " To hold functions out, write training and test tasks of other modules",
  )
  parser.add_argument("--seed", type=int, default=0, help="seed of the tasks")
  return parser


if __name__ == "__main__":
  main()
