# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint on suites of problems.

  srl_jax evaluate --weights=/tmp/srl --suites=aime24,math500 \\
    --out=/tmp/srl_eval
  srl_jax evaluate --weights=Qwen/Qwen2.5-7B-Instruct \\
    --suites=amc23 --protocol=qwen2.5-math --out=/tmp/qwen
  srl_jax evaluate --weights=registers_student --suites=exam.jsonl \\
    --samples=8 --out=/tmp/exam --compare=/tmp/earlier_exam

Weights are a run's working directory, a Hugging Face folder, or a name on the
hub. The same command goes on where it was interrupted. The folder gets
table.md, table.csv, results.json, reasoning.md and all answers.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from srl_jax import inference, progress, storage
from srl_jax.data import readers
from srl_jax.data.readers import DataConfig
from srl_jax.evaluate import command_line, evaluator, interventions
from srl_jax.evaluate.compare import Result, check_alike
from srl_jax.evaluate.contamination import contamination
from srl_jax.evaluate.inspect_log import check_installed, write_inspect_logs
from srl_jax.evaluate.journal import check_folder, read_results
from srl_jax.evaluate.protocols import PROTOCOLS, find_protocol
from srl_jax.report import suite_tables as tables
from srl_jax.storage import files
from srl_jax.storage.workdir import versions
from srl_jax.train.memory import device_bytes, readable


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message and status 1 on bad input."""
  command_line.run(lambda: _parse(argv), evaluate)


def _parse(
  argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the flags, and the overrides of the experiment's fields."""
  parser = command_line.Parser("srl_jax evaluate", __doc__, 64)
  add = parser.add_argument
  add("--suites", required=True, help="names, NAME=PATH, or paths, by commas")
  add("--protocol", default="paper", help=", ".join(PROTOCOLS))
  add("--max_turns", type=int, help="most turns of an answer turn by turn")
  add("--compare", help="another --out: paired differences")
  add("--train_data", default="", help="data to check for contamination")
  add("--train_format", help="as c.data.format; default: jsonl")
  add(
    "--interventions",
    type=int,
    default=0,
    help="change think blocks in so many problems of each suite, and see what "
    "becomes of their answers",
  )
  add("--inspect", action="store_true", help="also write logs for Inspect")
  args, overrides = parser.read(argv, max_turns=1, interventions=0)
  if args.train_format and not args.train_data:
    raise ValueError(
      f"--train_format={args.train_format} says how to read --train_data, "
      "which is not given; give both or neither"
    )
  args.compare = storage.path(args.compare) if args.compare else None
  if args.compare and (
    storage.absolute(args.compare) == storage.absolute(args.out)
  ):
    raise ValueError(
      "--compare and --out are the same folder; give --compare the --out of an "
      "earlier evaluation"
    )
  return args, overrides


def evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> None:
  """Evaluates, writes the files of the folder, and prints the table.

  What can be refused is refused before anything is sampled.
  """
  check_folder(args.out)
  standard = find_protocol(args.protocol)
  limits = ("max_new_tokens", "max_turns")
  protocol = command_line.protocol_of(args, standard, *limits)
  config = command_line.config_of(args, overrides)
  problems, domains = evaluator.read_suites(
    args.suites, args.suites_folder, args.limit, config.data.domain
  )
  if args.inspect:
    check_installed()
  base = read_results(args.compare) if args.compare else []
  text = _contamination(args, tables.by_suite(problems))
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
      check_alike([theirs, ours])
      if len(problems) < 2:
        raise ValueError(
          f"{suite} has one problem, and a difference needs two or more; raise "
          "--limit"
        )
      if len(theirs.answers) != wanted:
        raise ValueError(
          f"has {len(theirs.answers)} of {wanted} answers to {suite}; finish "
          "it first, by its own command"
        )
    except ValueError as error:
      raise ValueError(f"--compare={folder}: {error}") from error


def _opening(model: inference.ReadyModel, plan: evaluator.Plan) -> list[str]:
  """The first lines: what is done, by which rules, in how much memory."""
  suites = tables.by_suite(plan.problems)
  counts = ", ".join(f"{name} ({len(suites[name])})" for name in suites)
  lines = command_line.opening(model, plan.protocol, counts)
  if plan.protocol.mode == "solve":
    lines += _memory(model, plan)
  return lines


def _going_on(answers: int) -> list[str]:
  return [f"going on after {answers} answers"] if answers else []


def _memory(model: inference.ReadyModel, plan: evaluator.Plan) -> list[str]:
  """Says what the model takes, and what answers take at most."""
  size, params = evaluator.most_bytes(model, plan), model.param_bytes()
  there = sum(map(device_bytes, jax.local_devices())) * jax.process_count()
  lines = [
    f"memory: {readable(params)} for the model, and up to {readable(size)} for "
    f"{plan.answers_per_batch} answers at once, as they grow "
    "(--answers_per_batch)"
  ]
  if size + params > there:
    lines.append(
      f"warning: the devices have {readable(there)} together, so long answers "
      "may not fit; a lower --answers_per_batch takes less"
    )
  return lines


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
