# SPDX-License-Identifier: Apache-2.0
"""What the commands that evaluate a checkpoint have in common."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import logging

from srl_jax import compilation_cache, inference, storage
from srl_jax import config as config_lib
from srl_jax.arguments import HelpFormatter, check_least
from srl_jax.config import Config
from srl_jax.evaluate.protocols import Protocol, changed
from srl_jax.processes import failures, stopping
from srl_jax.processes.joining import join
from srl_jax.storage.workdir import locked


class Parser(argparse.ArgumentParser):
  """The flags that all these commands have; mistakes are ValueErrors."""

  def __init__(self, prog: str, description: str, answers_per_batch: int):
    super().__init__(
      prog=prog,
      description=description,
      formatter_class=HelpFormatter,
      allow_abbrev=False,
    )
    add = self.add_argument
    add("--weights", help="workdir, folder, hub name or 'registers_student'")
    add("--config", help="experiment file with the model and its mesh")
    add("--out", required=True, help="folder of the results")
    add("--suites_folder", default="", help="folder with the suites' files")
    add(
      "--samples",
      type=int,
      help="sampled answers to each problem; 0: the greedy one only",
    )
    add("--temperature", type=float, help="for sampled answers")
    add("--top_p", type=float, help="for sampled answers")
    add("--max_new_tokens", type=int, help="longest answer or turn, in tokens")
    add("--limit", type=int, default=0, help="problems per suite; 0: all")
    add("--seed", type=int, default=0, help="seed of all samples")
    add(
      "--answers_per_batch",
      type=int,
      default=answers_per_batch,
      help="answers decoded together; lower it if memory runs out",
    )
    add("--coordinator_address", help="host:port of process 0, if several")
    add("--num_processes", type=int, help="number of processes")
    add("--process_id", type=int, help="number of this process")
    add("--multi_host", action="store_true", help="join the hosts of a TPU pod")

  def error(self, message: str) -> NoReturn:
    raise ValueError(f"{message} (--help lists all options)")

  def read(
    self, argv: Sequence[str] | None, **least: int
  ) -> tuple[argparse.Namespace, list[str]]:
    """Returns the flags, and the overrides of the experiment's fields.

    Args:
      argv: the words of the command line; None for those of this process.
      **least: the lowest allowed values of further numbers.

    Raises:
      ValueError: a flag is unknown, lacks or makes no sense.
    """
    args, rest = self.parse_known_args(argv)
    overrides = [x for x in rest if args.config and "config." in x]
    known = [x for x in self._option_string_actions if x.startswith("--")]
    for unknown in (x for x in rest if x not in overrides):
      name = unknown.partition("=")[0]
      near = difflib.get_close_matches(name, known, n=1)
      hint = f"; did you mean {near[0]}?" if near else ""
      self.error(f"{name} is no option of this command{hint}")
    if not (args.weights or args.config):
      raise ValueError(
        "give --weights=PATH, or --config with the weights in it"
      )
    if not args.out:
      raise ValueError("--out is empty; give a folder for the results")
    check_least(
      args,
      samples=0,
      max_new_tokens=1,
      limit=0,
      seed=0,
      answers_per_batch=1,
      **least,
    )
    args.out = storage.path(args.out)
    return args, overrides


def run(
  read: Callable[[], tuple[argparse.Namespace, list[str]]],
  evaluate: Callable[[argparse.Namespace, list[str]], None],
) -> None:
  """Runs a command; exits with a message and status 1 on bad input.

  Args:
    read: returns the flags and the overrides, as `Parser.read`.
    evaluate: does the rest; the folder of the results is locked meanwhile.
  """
  # At level INFO, libraries list the backends that they did not find.
  logging.set_verbosity(logging.WARNING)
  is_several = False
  try:
    args, overrides = read()
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


def config_of(args: argparse.Namespace, overrides: Sequence[str]) -> Config:
  """The configuration of the model that is asked."""
  if not args.config:
    return inference.config_of(args.weights)
  config = config_lib.load(args.config, overrides)
  if not args.weights:
    return config
  return inference.with_weights(config, args.weights, overrides)


def protocol_of(
  args: argparse.Namespace, standard: Protocol, *limits: str
) -> Protocol:
  """A protocol with the changes of the flags, `limits` among them."""

  def given(*names: str) -> dict[str, Any]:
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}

  return changed(
    standard, given("samples", "temperature", "top_p"), **given(*limits)
  )


def opening(
  model: inference.ReadyModel,
  protocol: Protocol,
  asked: str,
  standard: Protocol | None = None,
) -> list[str]:
  """The first lines: what is done, and by which rules.

  Args:
    model: who answers.
    protocol: the rules.
    asked: what is answered, in words.
    standard: the protocol of that name, if it is none of suites.
  """
  return [
    f"{model.name} answers {asked} on {jax.device_count()} x "
    f"{jax.devices()[0].device_kind}",
    f"protocol {protocol.name}: {protocol.source}",
    *(f"  note: {note}" for note in protocol.notes),
    *(f"  here: {text}" for text in protocol.differences(standard)),
  ]
