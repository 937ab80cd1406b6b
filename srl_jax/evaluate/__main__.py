# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on suites of problems.

  python -m srl_jax.evaluate --weights=/tmp/srl --suites=aime24,math500 \\
    --out=/tmp/srl_eval
  python -m srl_jax.evaluate --weights=Qwen/Qwen2.5-7B-Instruct \\
    --suites=amc23 --protocol=qwen2.5-math --out=/tmp/qwen
  python -m srl_jax.evaluate --weights=embedded --suites=exam.jsonl \\
    --samples=8 --out=/tmp/exam --compare=/tmp/earlier_exam

Weights are a run's working directory, a Hugging Face folder, or a name on the
hub. The same command goes on where it was interrupted. The folder gets
table.md, table.csv, results.json, reasoning.md and all answers.
"""

from __future__ import annotations

import argparse
import difflib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import logging

from srl_jax import compilation_cache, inference, progress, storage
from srl_jax.arguments import HelpFormatter
from srl_jax.config import Config
from srl_jax.data import readers
from srl_jax.data.readers import DataConfig
from srl_jax.evaluate import evaluator, interventions
from srl_jax.evaluate.compare import Result, compare
from srl_jax.evaluate.contamination import contamination
from srl_jax.evaluate.inspect_log import check_installed, write_inspect_logs
from srl_jax.evaluate.journal import check_folder, read_results
from srl_jax.evaluate.protocols import (
  PROTOCOLS,
  Protocol,
  changed,
  find_protocol,
)
from srl_jax.main import join, load_config, versions
from srl_jax.processes import failures, stopping
from srl_jax.report import suites as tables
from srl_jax.storage import files
from srl_jax.storage.workdir import locked
from srl_jax.train.memory import device_bytes


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise ValueError(f"{message} (--help lists all options)")


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message and status 1 on bad input."""
  # At level INFO, libraries list the backends that they did not find.
  logging.set_verbosity(logging.WARNING)
  is_several = False
  try:
    args, overrides = _parse(argv)
    is_several = bool(args.coordinator_address or args.multi_host)
    if is_several:
      join(args.coordinator_address, args.num_processes, args.process_id)
    # Again, because JAX has set its own handler when it joined.
    stopping.listen(
      f"asked to stop; the answers so far are in {args.out}, and the same "
      "command goes on from there"
    )
    compilation_cache.use_default()
    with locked(args.out, "--out"):
      evaluate(args, overrides)
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


def _parse(
  argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the flags, and the overrides of the experiment's fields."""
  parser = _Parser(
    prog="python -m srl_jax.evaluate",
    description=__doc__,
    formatter_class=HelpFormatter,
    allow_abbrev=False,
  )
  _add_flags(parser)
  args, rest = parser.parse_known_args(argv)
  overrides = [x for x in rest if args.config and "config." in x]
  for unknown in (x for x in rest if x not in overrides):
    name = unknown.partition("=")[0]
    known = [x for x in parser._option_string_actions if x.startswith("--")]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    parser.error(f"{name} is no option of this command{hint}")
  if not (args.weights or args.config):
    raise ValueError("give --weights=PATH, or --config with the weights in it")
  if not args.out:
    raise ValueError("--out is empty; give a folder for the results")
  if args.train_format and not args.train_data:
    raise ValueError(
      f"--train_format={args.train_format} says how to read --train_data, "
      "which is not given; give both or neither"
    )
  for name, least in (
    ("samples", 0),
    ("max_new_tokens", 1),
    ("max_turns", 1),
    ("limit", 0),
    ("seed", 0),
    ("answers_per_batch", 1),
    ("interventions", 0),
  ):
    value = getattr(args, name)
    if value is not None and value < least:
      raise ValueError(f"--{name}={value} is too low; give {least} or more")
  args.out = storage.path(args.out)
  args.compare = storage.path(args.compare) if args.compare else None
  if args.compare and (
    storage.absolute(args.compare) == storage.absolute(args.out)
  ):
    raise ValueError(
      "--compare and --out are the same folder; give --compare the --out of an "
      "earlier evaluation"
    )
  return args, overrides


def _add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--weights", help="workdir, folder, hub name or 'embedded'")
  add("--config", help="experiment file with the model and its mesh")
  add("--suites", required=True, help="names, NAME=PATH, or paths, by commas")
  add("--out", required=True, help="folder of the results")
  add("--suites_folder", default="", help="folder with the suites' files")
  add("--protocol", default="paper", help=", ".join(PROTOCOLS))
  add("--samples", type=int, help="sampled answers per problem; 0: greedy only")
  add("--temperature", type=float, help="for sampled answers")
  add("--top_p", type=float, help="for sampled answers")
  add("--max_new_tokens", type=int, help="longest answer or turn, in tokens")
  add("--max_turns", type=int, help="most turns of an answer turn by turn")
  add("--limit", type=int, default=0, help="problems per suite; 0: all")
  add("--seed", type=int, default=0, help="seed of all samples")
  add(
    "--answers_per_batch",
    type=int,
    default=64,
    help="answers decoded together; lower it if memory runs out",
  )
  add("--compare", help="another --out: paired differences")
  add("--train_data", default="", help="data to check for contamination")
  add("--train_format", help="as c.data.format; default: jsonl")
  add(
    "--interventions",
    type=int,
    default=0,
    help="change think blocks in so "
    "many problems of each suite, and see what becomes of their answers",
  )
  add("--inspect", action="store_true", help="also write logs for Inspect")
  add("--coordinator_address", help="host:port of process 0, if several")
  add("--num_processes", type=int, help="number of processes")
  add("--process_id", type=int, help="number of this process")
  add("--multi_host", action="store_true", help="join the hosts of a TPU pod")


def evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> None:
  """Evaluates, writes the files of the folder, and prints the table.

  What can be refused is refused before anything is sampled.
  """
  check_folder(args.out)
  protocol = _protocol(args)
  problems, domains = evaluator.read_suites(
    args.suites, args.suites_folder, args.limit
  )
  if args.inspect:
    check_installed()
  base = read_results(args.compare) if args.compare else []
  text = _contamination(args, tables.by_suite(problems))
  config = _config(args, overrides)
  with progress.task("loading the model"):
    model = inference.load(config, (args.weights or "").rstrip("/"))
  window = config.srl.trunks.context_turns
  plan = evaluator.Plan(
    problems, domains, protocol, args.seed, args.answers_per_batch, window
  )
  if args.interventions:
    interventions.check(plan)
  with progress.task("reading the problems"):
    plan = evaluator.fitted(model, plan)
  _check_limit(args, model, plan)
  facts = evaluator.facts(model, plan)
  _check_base(args.compare, base, facts, plan)
  before = evaluator.answered(model, plan, args.out)
  for line in [*_opening(model, plan), *_going_on(before)]:
    progress.say(line)
  results = evaluator.evaluate_suites(model, plan, args.out)
  shares = {}
  if args.interventions:
    shares = interventions.intervene(
      model, plan, results, args.out / "interventions", args.interventions
    )
  if results:
    found = tables.SuiteTables(results, base, shares)
    _write(args, facts, found, text)


def _config(args: argparse.Namespace, overrides: Sequence[str]) -> Config:
  if not args.config:
    return inference.config_of(args.weights)
  config = load_config(args.config, overrides)
  if not args.weights:
    return config
  return inference.with_weights(config, args.weights, overrides)


def _protocol(args: argparse.Namespace) -> Protocol:
  """The named protocol with the flags' changes."""

  def given(*names: str) -> dict[str, float]:
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}

  return changed(
    find_protocol(args.protocol),
    given("samples", "temperature", "top_p"),
    **given("max_new_tokens", "max_turns"),
  )


def _check_limit(
  args: argparse.Namespace, model: inference.ReadyModel, plan: evaluator.Plan
) -> None:
  """Refuses a limit that was asked for and is not the plan's."""
  fits = plan.protocol.max_new_tokens
  if args.max_new_tokens and fits != args.max_new_tokens:
    raise ValueError(
      f"--max_new_tokens={args.max_new_tokens} is too much for a context of "
      f"{model.max_positions} tokens; the longest problem leaves {fits}, so "
      f"give --max_new_tokens={fits} or less"
    )


def _check_base(
  folder: pathlib.Path | None,
  base: Sequence[Result],
  facts: Mapping[str, Any],
  plan: evaluator.Plan,
) -> None:
  """Refuses, before hours of sampling, what could not be compared.

  Raises:
    ValueError: protocols, suites or problems differ, or answers are missing.
  """
  if folder is None:
    return
  before = {result.suite: result for result in base}
  for suite, problems in tables.by_suite(plan.problems).items():
    if suite not in before:
      raise ValueError(
        f"{folder} has no answers to {suite}, but to {', '.join(before)}; "
        "compare evaluations of the same suites"
      )
    theirs = before[suite]
    # As if this model gave the same answers, and all of them.
    ours = Result(
      "this evaluation", suite, facts["protocol"], problems, theirs.answers
    )
    wanted = len(problems) * sum(x.samples for x in plan.protocol.decodings)
    try:
      compare([theirs], [ours])
      if len(theirs.answers) != wanted:
        raise ValueError(
          f"has {len(theirs.answers)} of {wanted} answers to {suite}; finish "
          "it first, by its own command"
        )
    except ValueError as error:
      raise ValueError(f"--compare={folder}: {error}") from error


def _opening(model: inference.ReadyModel, plan: evaluator.Plan) -> list[str]:
  """The first lines: what is done, by which rules, in how much memory."""
  protocol = plan.protocol
  suites = tables.by_suite(plan.problems)
  counts = ", ".join(f"{name} ({len(suites[name])})" for name in suites)
  lines = [
    f"{model.name} answers {counts} on {jax.device_count()} x "
    f"{jax.devices()[0].device_kind}",
    f"protocol {protocol.name}: {protocol.source}",
  ]
  lines += [f"  note: {note}" for note in protocol.notes]
  lines += [f"  here: {text}" for text in protocol.differences()]
  if protocol.mode == "solve":
    lines += _memory(model, plan)
  return lines


def _going_on(answers: int) -> list[str]:
  return [f"going on after {answers} answers"] if answers else []


def _memory(model: inference.ReadyModel, plan: evaluator.Plan) -> list[str]:
  """Says what the model takes, and what answers take at most."""
  size, params = evaluator.most_bytes(model, plan), model.param_bytes()
  there = sum(map(device_bytes, jax.local_devices())) * jax.process_count()
  lines = [
    f"memory: {_size(params)} for the model, and up to {_size(size)} for "
    f"{plan.answers_per_batch} answers at once, as they grow "
    "(--answers_per_batch)"
  ]
  if size + params > there:
    lines.append(
      f"warning: the devices have {_size(there)} together, so long answers may "
      "not fit; a lower --answers_per_batch takes less"
    )
  return lines


def _size(count: int) -> str:
  return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _write(
  args: argparse.Namespace,
  facts: Mapping[str, Any],
  found: tables.SuiteTables,
  contaminated: str,
) -> None:
  """Writes the tables of a finished evaluation and prints the main one."""
  protocol = facts["protocol"]
  lines = [
    f"{facts['model']} by protocol {protocol['name']}, seed {facts['seed']}",
    *(f"- {text}" for text in protocol["differences"]),
  ]
  parts = ["\n".join(lines) + "\n", found.markdown()]
  if found.differences:
    parts.append(
      tables.difference_markdown(found.differences, str(args.compare))
    )
  text = "\n".join([*parts, *filter(None, [contaminated])])
  files.write_text(args.out / "table.md", text)
  files.write_text(args.out / "table.csv", found.full().csv())
  files.write_text(args.out / "reasoning.md", found.reasoning().turned())
  files.write_json(
    args.out / "results.json",
    {
      **{name: facts[name] for name in ("model", "weights", "seed")},
      "protocol": protocol,
      "versions": versions(),
      **found.json(),
    },
  )
  if args.inspect:
    for result in found.results:
      write_inspect_logs(result, args.out / "inspect")
  progress.say(f"\n{text}")
  progress.say(f"tables and answers are in {args.out}")


def _contamination(
  args: argparse.Namespace, suites: Mapping[str, Sequence[Any]]
) -> str:
  """Which problems stand in what is trained on; "" if nobody asked."""
  if not args.train_data:
    return ""
  with progress.task(f"looking for the problems in {args.train_data}"):
    config = DataConfig(args.train_format or "jsonl", args.train_data)
    splits = readers.load_trajectories(config).splits
    trajectories = [*splits["train"], *splits["pretrain"]]
    return tables.contamination_markdown(
      {
        suite: contamination(problems, trajectories)
        for suite, problems in suites.items()
      },
      args.train_data,
    )


if __name__ == "__main__":
  main()
