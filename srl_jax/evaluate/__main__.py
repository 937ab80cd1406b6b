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
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
from absl import logging

from srl_jax import (
  compilation_cache,
  evaluation,
  files,
  inference,
  progress,
  stopping,
)
from srl_jax.config import Config
from srl_jax.data import readers
from srl_jax.data.readers import DataConfig
from srl_jax.evaluate import behaviours, summary
from srl_jax.evaluate.compare import Result, compare
from srl_jax.evaluate.contamination import contamination
from srl_jax.evaluate.estimates import Estimate
from srl_jax.evaluate.inspect_log import write_inspect_logs
from srl_jax.evaluate.journal import read_results
from srl_jax.evaluate.protocols import (
  PROTOCOLS,
  Protocol,
  changed,
  find_protocol,
)
from srl_jax.main import load_config, versions
from srl_jax.report.tables import Table


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message on bad input."""
  parser = _parser()
  args, overrides = parser.parse_known_args(argv)
  # At level INFO, libraries list the backends that they did not find.
  logging.set_verbosity(logging.WARNING)
  compilation_cache.use_default()
  stopping.listen()
  try:
    _check_flags(parser, args, overrides)
    evaluate(args, overrides)
  except (ValueError, RuntimeError, OSError) as error:
    sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m srl_jax.evaluate",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add("--weights", help="workdir, folder, hub name or 'embedded'")
  add("--config", help="experiment file with the model and its mesh")
  add("--suites", required=True, help="names, NAME=PATH, or paths, by commas")
  add("--out", required=True, type=pathlib.Path, help="folder of the results")
  add("--suites_folder", default="", help="folder with the suites' files")
  add("--protocol", default="paper", help=", ".join(PROTOCOLS))
  add("--samples", type=int, help="sampled answers per problem; 0: greedy only")
  add("--temperature", type=float, help="of sampled answers")
  add("--top_p", type=float, help="of sampled answers")
  add("--max_new_tokens", type=int, help="longest answer or turn, in tokens")
  add("--limit", type=int, default=0, help="problems per suite; 0: all")
  add("--seed", type=int, default=0)
  add("--answers_per_batch", type=int, default=64, help="decoded together")
  add("--compare", type=pathlib.Path, help="another --out: paired differences")
  add("--train_data", default="", help="to look for the problems in")
  add("--train_format", default="jsonl", help="as c.data.format")
  add(
    "--interventions",
    type=int,
    default=0,
    help="change think blocks in so "
    "many problems of each suite, and see what becomes of their answers",
  )
  add("--inspect", action="store_true", help="also write logs for Inspect")
  return parser


def _check_flags(parser, args, overrides) -> None:
  if not (args.weights or args.config):
    raise ValueError("give --weights=PATH, or --config with the weights in it")
  if overrides and not args.config:
    parser.error(f"{overrides[0]} is not understood")
  for name, least in (
    ("samples", 0),
    ("max_new_tokens", 1),
    ("limit", 0),
    ("seed", 0),
    ("answers_per_batch", 1),
    ("interventions", 0),
  ):
    value = getattr(args, name)
    if value is not None and value < least:
      raise ValueError(f"--{name}={value}; give {least} or more")


def evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> None:
  """Evaluates, writes the files of the folder, and prints the table."""
  protocol = _protocol(args)
  problems, domains = evaluation.read_suites(
    args.suites, args.suites_folder, args.limit
  )
  base = read_results(args.compare) if args.compare else []
  model = inference.load(_config(args, overrides), args.weights or "")
  plan = evaluation.fitted(
    model,
    evaluation.Plan(
      problems, domains, protocol, args.seed, args.answers_per_batch
    ),
  )
  if args.max_new_tokens and plan.protocol != protocol:
    raise ValueError(
      f"--max_new_tokens={args.max_new_tokens} is more than the model's "
      f"context of {model.max_positions} tokens leaves to an answer, which "
      f"is {plan.protocol.max_new_tokens} for the longest problem"
    )
  for line in _opening(model, plan):
    progress.say(line)
  results = evaluation.evaluate_suites(model, plan, args.out)
  interventions = {}
  if args.interventions and results:
    interventions = evaluation.intervene(
      model, plan, results, args.out / "interventions", args.interventions
    )
  if results:
    _write(args, plan.protocol, results, interventions, base)


def _config(args: argparse.Namespace, overrides: Sequence[str]) -> Config:
  if not args.config:
    return inference.config_of(args.weights)
  config = load_config(args.config, overrides)
  if not args.weights:
    return config
  mine = inference.config_of(args.weights)
  return dataclasses.replace(
    config,
    weights=mine.weights,
    tokenizer=mine.tokenizer,
    model=mine.model,
    template=mine.template,
  )


def _protocol(args: argparse.Namespace) -> Protocol:
  """The named protocol with the flags' changes."""
  sampling = {
    name: value
    for name in ("temperature", "top_p")
    if (value := getattr(args, name)) is not None
  }
  return changed(
    find_protocol(args.protocol), args.samples, args.max_new_tokens, **sampling
  )


def _opening(model: inference.ReadyModel, plan: evaluation.Plan) -> list[str]:
  """The first lines: what is done, by which rules."""
  protocol = plan.protocol
  suites = dict.fromkeys(problem.suite for problem in plan.problems)
  lines = [
    f"{model.name}: {len(plan.problems)} problems of {', '.join(suites)} on "
    f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    f"protocol {protocol.name}: {protocol.source}",
  ]
  lines += [f"  note: {note}" for note in protocol.notes]
  lines += [f"  here: {text}" for text in protocol.differences()]
  return lines


def _write(
  args: argparse.Namespace,
  protocol: Protocol,
  results: Sequence[Result],
  interventions: Mapping[str, Mapping[str, Estimate]],
  base: Sequence[Result],
) -> None:
  """Writes the tables of a finished evaluation and prints the main one."""
  values = {r.suite: summary.values(r.problems, r.answers) for r in results}
  estimates = {suite: summary.estimates(v) for suite, v in values.items()}
  rows = {(suite,): found for suite, found in estimates.items()}
  main_table = _table(("suite",), rows)
  text = [_heading(args, protocol), _table(("suite",), rows, _short).markdown()]
  for by in ("level", "subject"):
    rows = {
      (result.suite, name): of_name
      for result in results
      for name, of_name in summary.rows(
        result.problems, values[result.suite], by
      ).items()
      if len({getattr(problem, by) for problem in result.problems}) > 1
    }
    if rows:
      text.append(_table(("suite", by), rows, _short).markdown())
  if args.train_data:
    text.append(_contamination(args, results))
  if base:
    text.append(_differences(args, base, results))
  reasoning = {
    (r.suite,): behaviours.summary(r.problems, r.answers)
    | dict(interventions.get(r.suite, {}))
    for r in results
  }
  files.write_text(args.out / "table.md", "\n".join(text))
  files.write_text(args.out / "table.csv", main_table.csv())
  files.write_text(
    args.out / "reasoning.md", _table(("suite",), reasoning).markdown()
  )
  files.write_json(
    args.out / "results.json",
    {
      "protocol": results[0].protocol,
      "versions": versions(),
      "suites": json.loads(main_table.json()),
      "reasoning": json.loads(_table(("suite",), reasoning).json()),
    },
  )
  if args.inspect:
    for result in results:
      write_inspect_logs(result, args.out / "inspect")
  progress.say("\n".join(text))
  progress.say(f"tables and answers are in {args.out}")


def _heading(args: argparse.Namespace, protocol: Protocol) -> str:
  lines = [f"Protocol {protocol.name} ({protocol.source}), seed {args.seed}"]
  lines += [f"- {text}" for text in protocol.differences()]
  return "\n".join(lines) + "\n"


def _table(
  heads: tuple[str, ...],
  rows: Mapping[tuple[str, ...], Mapping[str, Estimate]],
  choose: Callable[[Sequence[str]], Sequence[str]] = list,
) -> Table:
  metrics = list(dict.fromkeys(name for row in rows.values() for name in row))
  return Table(
    heads,
    {
      names: {name: dataclasses.astuple(x) for name, x in row.items()}
      for names, row in rows.items()
    },
    units={name: summary.unit_of(name) for name in metrics},
    metrics=tuple(choose(metrics)),
  )


def _short(metrics: Sequence[str]) -> list[str]:
  """The metrics that a page has room for; files have all of them.

  Of each kind with a k it is the largest k. How answers end and how long they
  are is that of sampled ones, if there are any.
  """
  last = {}
  for name in metrics:
    kind, at, _ = name.partition("@")
    if at:
      last[kind] = name
  is_sampled = "cut" in metrics
  shapes = ("cut", "no answer", "tokens")
  if not is_sampled:
    shapes = tuple(f"{name}, greedy" for name in shapes)
  chosen = {"greedy", *(last.get(kind) for kind in ("avg", "pass", "maj"))}
  return [name for name in metrics if name in chosen or name in shapes]


def _differences(
  args: argparse.Namespace, base: Sequence[Result], results: Sequence[Result]
) -> str:
  """Paired differences to another evaluation, suite by suite."""
  lines = [
    f"Differences to {args.compare}, paired by problem\n",
    "| suite | metric | before | here | difference | problems needed |",
    "| --- | --- | ---: | ---: | ---: | ---: |",
  ]
  before = {result.suite: result for result in base}
  for result in results:
    if result.suite not in before:
      raise ValueError(
        f"{args.compare} has no answers to {result.suite}; compare evaluations "
        "of the same suites"
      )
    found = compare([before[result.suite]], [result])
    lines += [
      f"| {result.suite} | {name} | {x.base:.3f} | {x.other:.3f} | {x} | "
      f"{x.problems_needed:,.0f} |"
      for name, x in found.items()
    ]
  return "\n".join(lines) + "\n"


def _contamination(args: argparse.Namespace, results: Sequence[Result]) -> str:
  """Which problems stand in the training data."""
  config = DataConfig(format=args.train_format, path=args.train_data)
  trajectories = readers.load_trajectories(config).trajectories
  lines = [f"Problems that stand in {args.train_data}\n"]
  for result in results:
    overlaps = contamination(result.problems, trajectories)
    flagged = [overlap for overlap in overlaps if overlap.is_flagged]
    lines.append(
      f"- {result.suite}: {len(flagged)} of {len(overlaps)} flagged, mean "
      f"overlap {sum(o.share for o in overlaps) / len(overlaps):.1%}"
    )
    lines += [
      f"    - {o.problem}: {o.found}/{o.grams} in {o.source}" for o in flagged
    ]
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  main()
