# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on SWE-bench: it writes patches, and scores them.

  python -m srl_jax.swebench --weights=/tmp/srl --suite=swebench_verified \\
    --repositories=/data/clones --out=/tmp/srl_swebench
  python -m srl_jax.swebench --weights=/tmp/srl --suite=swebench_verified \\
    --repositories=/data/clones --protocol=end-to-end --samples=8 \\
    --harness=/opt/swebench/bin/python --out=/tmp/srl_swebench_8

Repositories are git clones in a folder, named owner__name or owner/name. The
same command goes on where it was interrupted. The folder gets table.md,
table.csv, results.json, outcomes.jsonl, predictions/ and all answers.
"""

from __future__ import annotations

import argparse
import difflib
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import logging

from srl_jax import compilation_cache, inference, progress, storage
from srl_jax.arguments import HelpFormatter
from srl_jax.config import Config
from srl_jax.data import instances as reading
from srl_jax.data.suites import find_file
from srl_jax.domains.software.repositories import Git, make_git, open_clones
from srl_jax.domains.software.swebench import HARNESS_NAMES
from srl_jax.domains.suite import Suite
from srl_jax.evaluate import evaluator
from srl_jax.evaluate.protocols import Protocol, changed
from srl_jax.main import join, load_config
from srl_jax.processes import failures, stopping
from srl_jax.storage.workdir import locked
from srl_jax.swebench import asking
from srl_jax.swebench.harness import Harness
from srl_jax.swebench.outcomes import outcomes
from srl_jax.swebench.prompts import PROTOCOLS, Task
from srl_jax.swebench.results import Results


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise ValueError(f"{message} (--help lists all options)")


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message and status 1 on bad input."""
  # At level INFO, libraries list the backends that they did not find.
  logging.set_verbosity(logging.WARNING)
  is_several = False
  try:
    args = _parse(argv)
    is_several = bool(args.coordinator_address or args.multi_host)
    if is_several:
      join(args.coordinator_address, args.num_processes, args.process_id)
    # After JAX has set its own handler, if it joined.
    stopping.listen(
      f"asked to stop; the answers so far are in {args.out}, and the same "
      "command goes on from there"
    )
    compilation_cache.use_default()
    with (
      locked(args.out, "--out"),
      tempfile.TemporaryDirectory(prefix="srl_jax_git_") as folder,
    ):
      evaluate(args, make_git(folder))
  except (
    ValueError,
    RuntimeError,
    OSError,
    *failures.of_buckets(),
  ) as error:
    said = failures.in_one_line(error, resumes=True)
    print(f"error: {said}", file=sys.stderr, flush=True)
    if is_several:
      # An orderly exit waits minutes for the other processes.
      os._exit(1)
    sys.exit(1)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = _Parser(
    prog="python -m srl_jax.swebench",
    description=__doc__,
    formatter_class=HelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--weights", help="workdir, folder, hub name or 'embedded'")
  add("--config", help="experiment file with the model and its mesh")
  add("--suite", required=True, help="swebench_verified, NAME=PATH, or a path")
  add("--repositories", required=True, help="folder of git clones")
  add("--out", required=True, help="folder of the results")
  add("--protocol", default="oracle", choices=PROTOCOLS)
  add("--suites_folder", default="", help="folder with the suites' files")
  add("--found_files", help="file with the files to show, for oracle")
  add("--samples", type=int, help="sampled answers besides the greedy one")
  add("--temperature", type=float, help="for sampled answers")
  add("--top_p", type=float, help="for sampled answers")
  add("--max_new_tokens", type=int, help="longest answer, in tokens")
  add(
    "--max_file_tokens",
    type=int,
    default=60_000,
    help="most tokens of files in a prompt",
  )
  add("--limit", type=int, default=0, help="number of instances; 0: all")
  add("--seed", type=int, default=0, help="seed of all samples")
  add(
    "--answers_per_batch",
    type=int,
    default=4,
    help="answers decoded together; lower it if memory runs out",
  )
  add(
    "--harness",
    metavar="PYTHON",
    help="run the official harness by this interpreter, which has swebench",
  )
  add("--harness_workers", type=int, default=4, help="instances at a time")
  add("--coordinator_address", help="host:port of process 0, if several")
  add("--num_processes", type=int, help="number of processes")
  add("--process_id", type=int, help="number of this process")
  add("--multi_host", action="store_true", help="join the hosts of a TPU pod")
  args, rest = parser.parse_known_args(argv)
  for unknown in rest:
    name = unknown.partition("=")[0]
    known = [x for x in parser._option_string_actions if x.startswith("--")]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    parser.error(f"{name} is no option of this command{hint}")
  _check(args)
  args.out = storage.path(args.out)
  return args


def _check(args: argparse.Namespace) -> None:
  """Refuses values that make no sense."""
  if not (args.weights or args.config):
    raise ValueError("give --weights=PATH, or --config with the weights in it")
  for name, least in (
    ("samples", 0),
    ("max_new_tokens", 1),
    ("max_file_tokens", 1),
    ("limit", 0),
    ("seed", 0),
    ("answers_per_batch", 1),
    ("harness_workers", 1),
  ):
    value = getattr(args, name)
    if value is not None and value < least:
      raise ValueError(f"--{name}={value} is too low; give {least} or more")
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


def evaluate(args: argparse.Namespace, git: Git) -> None:
  """Evaluates, writes the files of the folder, and prints the tables.

  What can be refused is refused before anything is sampled.

  Args:
    args: the flags.
    git: runs git.
  """
  suite, path = reading.parse_suite(args.suite)
  path = find_file(suite, path, args.suites_folder)
  warn = lambda line: progress.say(f"warning: {line}")  # noqa: E731
  instances = reading.read_instances(suite, path, warn)
  harness = _harness(args, suite, path)
  if args.harness:
    harness.check()
  clones = open_clones(args.repositories, git)
  with progress.task("loading the model"):
    model = inference.load(_config(args), (args.weights or "").rstrip("/"))
  plan = evaluator.Plan(
    instances[: args.limit or None],
    {suite.name: suite.domain},
    _protocol(args),
    args.seed,
    args.answers_per_batch,
  )
  shown = None
  if args.found_files:
    shown = reading.read_found_files(args.found_files)
  task = Task(plan, clones, args.max_file_tokens, shown)
  for line in _opening(model, task):
    progress.say(line)
  asked = asking.prompts_for_edits(model, task, args.out / "files")
  answers = asking.ask_for_edits(model, task, asked, args.out / "edits")
  if jax.process_index() == 0:
    results = Results(model, task, outcomes(task, asked, answers))
    results.write(args.out, harness, is_run=bool(args.harness))


def _config(args: argparse.Namespace) -> Config:
  if not args.config:
    return inference.config_of(args.weights)
  config = load_config(args.config)
  return (
    inference.with_weights(config, args.weights) if args.weights else config
  )


def _protocol(args: argparse.Namespace) -> Protocol:
  """The named protocol with the flags' changes."""

  def given(*names: str) -> dict[str, float]:
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}

  return changed(
    PROTOCOLS[args.protocol],
    given("samples", "temperature", "top_p"),
    **given("max_new_tokens"),
  )


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


def _opening(model: inference.ReadyModel, task: Task) -> list[str]:
  """The first lines: what is done, and by which rules."""
  protocol = task.plan.protocol
  standard = PROTOCOLS[protocol.name]
  return [
    f"{model.name} answers {task.instances[0].suite} ({len(task.instances)}) "
    f"on {jax.device_count()} x {jax.devices()[0].device_kind}",
    f"protocol {protocol.name}: {protocol.source}",
    *(f"  note: {note}" for note in protocol.notes),
    *(f"  here: {text}" for text in protocol.differences(standard)),
  ]


if __name__ == "__main__":
  main()
