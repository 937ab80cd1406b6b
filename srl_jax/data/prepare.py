# SPDX-License-Identifier: Apache-2.0
"""Reads expert trajectories, reports on them, shows and writes them.

  srl_jax prepare --data.format=gsm8k --data.path=train.jsonl \\
    --data.valid_size=200 --out=prepared/gsm8k

The command compares up to 2,000 prompts of each split with the same prompts
rendered and tokenised in one piece, and names what makes their ids differ.
Without --out it writes nothing. With --out it writes trajectories, not tokens:
template, tokenizer and trunk settings only affect the report and --show, and
training may use other ones.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from srl_jax import storage, strict
from srl_jax.arguments import check_least, errors_in_one_line
from srl_jax.data import checks, prompts, readers, templates, writing
from srl_jax.data.build_report import BuildReport
from srl_jax.data.prompts import PromptReport
from srl_jax.data.readers import DataConfig, LoadedData
from srl_jax.data.records import Reject
from srl_jax.data.selection import tools_of
from srl_jax.data.trunks import ExpertTrunkConfig, Trunk, build_trunks
from srl_jax.tokenizers import (
  Tokenizer,
  TokenizerConfig,
  make_tokenizer,
  tokenizer_folder,
  with_local_files,
)
from srl_jax.trajectory import Trajectory

_CONFIGS = {
  "data": DataConfig,
  "trunks": ExpertTrunkConfig,
  "tokenizer": TokenizerConfig,
}
# Prompts of a split that are compared; long histories of agents take minutes.
_COMPARED = 2_000


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if the input cannot be used."""
  args = _parser().parse_args(argv)
  with errors_in_one_line():
    _run(args)


def _run(args: argparse.Namespace) -> None:
  configs = _configs(args)
  out = storage.path(args.out) if args.out else None
  if out:
    writing.check_free(out, args.as_)
  loaded = readers.load_trajectories(configs["data"])
  filled = [name for name, split in loaded.splits.items() if split]
  if args.show is not None and args.split not in filled:
    raise ValueError(
      f"--split={args.split} is empty; choose from {', '.join(filled)}"
    )
  of_tokenizer = with_local_files(configs["tokenizer"])
  tokenizer = make_tokenizer(of_tokenizer, _texts(loaded))
  template = templates.make_template(
    args.template,
    tokenizer,
    tokenizer_folder(of_tokenizer),
    args.observation_tokens,
  )
  if isinstance(template, templates.ChatTemplate):
    template.chat.check_thinking()
  reports: dict[str, BuildReport] = {}
  compared: dict[str, PromptReport] = {}
  for split in filled:
    bar = tqdm(loaded.splits[split], f"tokenise {split}", unit="trajectory")
    trunks, reports[split] = build_trunks(
      bar, template, tokenizer, configs["trunks"]
    )
    compared[split] = prompts.compare(
      tqdm(trunks, f"compare prompts of {split}", unit="trunk"),
      template,
      tokenizer,
      configs["trunks"].task,
      _COMPARED,
    )
    if args.show is not None and split == args.split:
      print(show(trunks, tokenizer, args.show))
  print(summary(reports, compared, args.group_size))
  if configs["tokenizer"].kind == "byte":
    print("tokens are bytes; --tokenizer.kind and .path name a model's")
  print(actions_summary(loaded.trajectories), end="")
  for reason, ids in loaded.left_out.items():
    print(f"{len(ids):,} trajectories left out, the first {ids[0]!r}: {reason}")
  for split, report in compared.items():
    for warning in report.warnings():
      print(f"warning: {split} split: {warning}")
  for warning in loaded.warnings:
    print(f"warning: {warning}")
  if configs["data"].path:  # Not of problems that are made on the spot.
    for warning in checks.warnings(loaded.trajectories):
      print(f"warning: {warning}")
  print(rejects_summary(loaded.rejects), end="")
  if out:
    _write(loaded, out, args.as_, configs["data"])


def _configs(args: argparse.Namespace) -> dict[str, Any]:
  """Returns the configs that the flags say, by their prefixes."""
  check_least(args, group_size=1, observation_tokens=0)
  return {
    prefix: cls(
      **{
        field.name: getattr(args, f"{prefix}.{field.name}")
        for field in dataclasses.fields(cls)
      }
    )
    for prefix, cls in _CONFIGS.items()
  }


def show(trunks: Sequence[Trunk], tokenizer: Tokenizer, which: str) -> str:
  """Returns a branch point as the model sees it: decoded tokens and their ids.

  Args:
    trunks: the trunks to look in.
    tokenizer: the tokenizer that made the trunks.
    which: the branch point, as its 0-based number in order, or as a trajectory
      id and a 0-based step: "p-17/2".

  Raises:
    ValueError: there is no such branch point, or none at all.
  """
  points = [(r, p) for r in trunks for p in r.points]
  names = [f"{r.trajectory.id}/{p.step}" for r, p in points]
  if not points:
    raise ValueError(
      f"--show={which}: every branch point is dropped; leave --show out, and "
      "the table says why"
    )
  if which in names:
    index = names.index(which)
  elif which.isdecimal() and int(which) < len(points):
    index = int(which)
  else:
    raise ValueError(
      f"--show={which} is no branch point; give 0 to {len(points) - 1} or a"
      f" trajectory id and step such as {names[0]}"
    )
  trunk, point = points[index]
  parts = [f"branch point {index} of {len(points)}: {names[index]}"]
  for title, tokens in (
    ("trunk, as far as the branch sees it", trunk.tokens[: point.at]),
    ("stem, given at the head of the branch", point.stem),
    ("expert target, what SFT trains on", point.target_tokens),
  ):
    ids = textwrap.fill(" ".join(map(str, tokens)), 80)
    parts.append(f"---- {title}: {len(tokens)} tokens ----")
    parts.append(f"{tokenizer.decode(tokens)}\n---- ids ----\n{ids}")
  parts.append(f"---- what rewards compare with ----\n{point.target}\n")
  return "\n".join(parts)


def summary(
  reports: Mapping[str, BuildReport],
  compared: Mapping[str, PromptReport],
  group_size: int,
) -> str:
  """Returns a table of the reports with one column per split.

  `group_size` is the number of samples per step, from which the prompt tokens
  of a rollout follow.
  """
  rows: dict[str, list[Any]] = {"": list(reports)}
  is_part = any(compared[x].checked < r.points for x, r in reports.items())
  for split, report in reports.items():
    flat, shared = report.prompt_tokens(group_size)
    cells = {
      "trajectories": report.trajectories,
      "without reference answer": report.without_answer,
      "trunks": report.trunks,
      "branch points": report.points,
      **{
        f"{name} tokens, min / median / p95 / max": " / ".join(
          f"{n:,}" for n in dataclasses.astuple(stats)
        )
        for name, stats in report.lengths.items()
      },
      f"prompt tokens, {group_size} samples, flat": flat,
      f"prompt tokens, {group_size} samples, shared": shared,
      "flat / shared": f"{flat / max(shared, 1):.1f}",
      "prompts with the ids of their whole text": compared[split].equal,
    }
    if is_part:
      cells["prompts compared"] = compared[split].checked
    for label, cell in cells.items():
      rows.setdefault(label, []).append(cell)
  for reason in dict.fromkeys(d for r in reports.values() for d in r.drops):
    dropped = (len(r.drops.get(reason, ())) for r in reports.values())
    rows[f"dropped: {reason}"] = list(dropped)
  return _table(rows)


def actions_summary(trajectories: Sequence[Trajectory]) -> str:
  """Returns a line of how often agents use their tools; "" without any."""
  steps = [s for t in trajectories for s in t.steps if s.is_target]
  used = collections.Counter(name for s in steps for name in tools_of(s))
  if not used:
    return ""
  tools = ", ".join(f"{name} {n:,}" for name, n in used.most_common(20))
  return f"actions to learn: {tools}\n"


def rejects_summary(rejects: Sequence[Reject]) -> str:
  """Returns a line per field that caused rejects: their count and the first."""
  by_field: dict[str, list[Reject]] = {}
  for reject in rejects:
    by_field.setdefault(reject.field, []).append(reject)
  return "".join(
    f"{len(cases):,} records refused for {field!r}, the first: {cases[0]}\n"
    for field, cases in by_field.items()
  )


def _table(rows: Mapping[str, list[Any]]) -> str:
  text = [
    [label, *(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)]
    for label, cells in rows.items()
  ]
  widths = [max(map(len, column)) for column in zip(*text, strict=True)]
  return "\n".join(
    "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
    for row in text
  )


def _write(
  loaded: LoadedData,
  folder: pathlib.Path,
  form: writing.Form,
  config: DataConfig,
) -> None:
  description = f"Made from {config.format} data: {config.path}"
  written = writing.write(loaded, folder, form, description)
  if loaded.rejects:
    print(f"refused records: {folder / 'rejects.jsonl'}")
  domain = f" data.domain={config.domain}" if config.domain else ""
  print(
    f"wrote {written}\nuse it: data.format={form} data.path={folder}{domain}"
  )


def _texts(loaded: LoadedData):
  """Yields the texts that a new tokenizer is trained on: problems and steps."""
  for trajectory in loaded.splits["pretrain"] + loaded.splits["train"]:
    yield trajectory.problem
    for step in trajectory.steps:
      texts = (step.text, step.title, step.observation, step.thought)
      yield from filter(None, texts)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="srl_jax prepare",
    usage="%(prog)s --data.format=F --data.path=P [--out=O] [options]",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--out", help="folder to write the splits to, and rejects.jsonl")
  add(
    "--as",
    dest="as_",
    choices=typing.get_args(writing.Form),
    default="tfds",
    help="form to write: TFDS (array_record), or one JSON object per line",
  )
  add(
    "--template",
    choices=templates.NAMES,
    default="chatml",
    help="wording: chat (the checkpoint's own chat template), text (base "
    "models without one), chatml, or plain (default: %(default)s)",
  )
  add(
    "--observation_tokens",
    type=int,
    default=0,
    help="tokens shown of what an environment answered; 0 for all",
  )
  add("--group_size", type=int, default=8, help="samples per step, to count")
  add("--show", help="print a branch point: its number, or trajectory id/step")
  add(
    "--split",
    choices=readers.SPLITS,
    default="train",
    help="where --show looks (default: %(default)s)",
  )
  for prefix, cls in _CONFIGS.items():
    group = parser.add_argument_group(f"{prefix} ({cls.__name__})")
    for field in dataclasses.fields(cls):
      _add_field(group, prefix, cls, field)
  return parser


def _true_or_false(text: str) -> bool:
  values = {"true": True, "false": False}
  if text.lower() not in values:
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
  return values[text.lower()]


def _add_field(group, prefix: str, cls: type, field: dataclasses.Field) -> None:
  """Adds the option --prefix.field as the dataclass declares it."""
  kind = typing.get_type_hints(cls)[field.name]
  options: dict[str, Any] = {"type": kind}
  if kind is bool:
    # As in --config.data.strict=False of a run.
    options = {"type": _true_or_false, "nargs": "?", "const": True}
  elif typing.get_origin(kind) is typing.Literal:
    options = {"choices": typing.get_args(kind)}
  text = strict.field_texts(cls)[field.name]
  group.add_argument(
    f"--{prefix}.{field.name}",
    default=field.default,
    help=f"{text} (default: {field.default!r})".replace("%", "%%"),
    **options,
  )


if __name__ == "__main__":
  main()
