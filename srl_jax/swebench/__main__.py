# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on SWE-bench: it writes patches, and scores them.

  srl_jax swebench --weights=/tmp/srl --suite=swebench_verified \\
    --repositories=/data/clones --out=/tmp/srl_swebench
  srl_jax swebench --weights=/tmp/srl --suite=swebench_verified \\
    --repositories=/data/clones --protocol=end-to-end --samples=8 \\
    --harness=/opt/swebench/bin/python --out=/tmp/srl_swebench_8

Repositories are git clones in a folder, named owner__name or owner/name. The
same command goes on where it was interrupted. The folder gets table.md,
table.csv, results.json, outcomes.jsonl, predictions/ and all answers.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import jax

from srl_jax import inference, progress, storage
from srl_jax.data import instances as reading
from srl_jax.data.suites import find_file
from srl_jax.domains.software.repositories import Git, make_git, open_clones
from srl_jax.domains.software.swebench import HARNESS_NAMES
from srl_jax.domains.suite import Suite
from srl_jax.evaluate import command_line, evaluator
from srl_jax.swebench import asking
from srl_jax.swebench.harness import Harness
from srl_jax.swebench.outcomes import outcomes
from srl_jax.swebench.prompts import PROTOCOLS, Task
from srl_jax.swebench.results import Results


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message and status 1 on bad input."""
  command_line.run(lambda: _parse(argv), _evaluate)


def _evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> None:
  with tempfile.TemporaryDirectory(prefix="srl_jax_git_") as folder:
    evaluate(args, overrides, make_git(folder))


def _parse(
  argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the flags, and the overrides of the experiment's fields."""
  parser = command_line.Parser("srl_jax swebench", __doc__, 4)
  add = parser.add_argument
  add("--suite", required=True, help="swebench_verified, NAME=PATH, or a path")
  add("--repositories", required=True, help="folder of git clones")
  add("--protocol", default="oracle", choices=PROTOCOLS)
  add("--found_files", help="file with the files to show, for oracle")
  add(
    "--max_file_tokens",
    type=int,
    default=60_000,
    help="most tokens of files in a prompt",
  )
  add(
    "--harness",
    metavar="PYTHON",
    help="run the official harness by this interpreter, which has swebench",
  )
  add("--harness_workers", type=int, default=4, help="instances at a time")
  args, overrides = parser.read(argv, max_file_tokens=1, harness_workers=1)
  _check(args)
  return args, overrides


def _check(args: argparse.Namespace) -> None:
  """Refuses values that make no sense."""
  if args.harness and (args.coordinator_address or args.multi_host):
    raise ValueError(
      "--harness is for one process, because the others would wait for it for "
      "hours; leave it out, and run the command that is printed"
    )
  if args.found_files and args.protocol != "oracle":
    raise ValueError(
      f"--found_files has no effect where the model names the files "
      f"(--protocol={args.protocol}); leave one of the two out"
    )


def evaluate(
  args: argparse.Namespace, overrides: Sequence[str], git: Git
) -> None:
  """Evaluates, writes the files of the folder, and prints the tables.

  What can be refused is refused before anything is sampled.

  Args:
    args: the flags.
    overrides: of the experiment's fields.
    git: runs git.
  """
  suite, path = reading.parse_suite(args.suite)
  path = find_file(suite, path, args.suites_folder)
  instances = reading.read_instances(suite, path, progress.warn)
  harness = _harness(args, suite, path)
  if args.harness:
    harness.check()
  clones = open_clones(args.repositories, git)
  with progress.task("loading the model"):
    config = command_line.config_of(args, overrides)
    model = inference.load(config, (args.weights or "").rstrip("/"))
  plan = evaluator.Plan(
    instances[: args.limit or None],
    {suite.name: suite.domain},
    command_line.protocol_of(args, PROTOCOLS[args.protocol], "max_new_tokens"),
    args.seed,
    args.answers_per_batch,
  )
  shown = None
  if args.found_files:
    shown = reading.read_found_files(args.found_files)
  task = Task(plan, clones, args.max_file_tokens, shown)
  asking.check_folder(model, task, args.out)
  count = f"{suite.name} ({len(task.instances)})"
  standard = PROTOCOLS[args.protocol]
  for line in command_line.opening(model, plan.protocol, count, standard):
    progress.say(line)
  asked = asking.prompts_for_edits(model, task, args.out / "files")
  answers = asking.ask_for_edits(model, task, asked, args.out / "edits")
  if jax.process_index() == 0:
    results = Results(model, task, outcomes(task, asked, answers))
    results.write(args.out, harness, is_run=bool(args.harness))


def _harness(
  args: argparse.Namespace, suite: Suite, path: pathlib.Path
) -> Harness:
  """The harness of a suite; its rows are the hub's, or those of the file."""
  dataset, lacking = HARNESS_NAMES.get(suite.name), ""
  if dataset is None:
    dataset = str(storage.absolute(path))
    lacking = reading.lacks_for_harness(path)
  if storage.is_remote(args.out):
    lacking = f"{args.out} is in a bucket, and it reads local files"
  return Harness(
    args.harness or "python",
    dataset,
    storage.absolute(args.out) / "harness",
    args.harness_workers,
    lacking,
  )


if __name__ == "__main__":
  main()
