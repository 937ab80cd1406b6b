# SPDX-License-Identifier: Apache-2.0
"""Whole GRPO update steps, and sampling, beside other systems and the floor.

  python -m benchmarks.engine --work=w1 --model=tiny --peers=trl --cores=1
  python -m benchmarks.engine --work=w2 --layouts shared flat "flat padded"
  python -m benchmarks.engine --help

  w1        plain GRPO: 8 prompts of 64 tokens x 8 samples of 128
  w2        steps of trajectories: 8 x 6 nested prompts of 64, 112 ... 304
            tokens x 8 samples of 48
  w3        an agent: one trajectory of 12,000 tokens, 24 steps x 8 samples of
            64, each with the full history
  w4        w2 with real lengths: log-normal, 0.41 of the limit on average; four
            groups in ten are dropped, which TRL trains on all the same
  sampling  64 different prompts of 64 tokens, 128 sampled; no update

An update step is a rollout, a reward (similarity to a text, on the host) and
an update. Each contender has a process of its own, and they take turns. The
first update step of each compiles, or warms up, and is dropped; figures are
medians of the others. The run fails unless every contender samples, and trains
on, as many tokens as the workload says.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

from benchmarks import floor, measuring
from benchmarks.floor import Operations
from benchmarks.models import MODELS
from benchmarks.ours import LAYOUTS, Settings
from benchmarks.workload import Workload
from srl_jax.models import ModelConfig

# One token of each prompt is the stem of its branches.
WORKS = {
  "w1": Workload(8, 1, 8, 63, 0, 1, 128),
  "w2": Workload(8, 6, 8, 63, 48, 1, 48),
  "w3": Workload(1, 24, 8, 499, 500, 1, 64),
  "w4": Workload(8, 6, 8, 63, 48, 1, 48, fill=0.41, kept=0.6),
  "sampling": Workload(64, 1, 1, 63, 0, 1, 128),
}
PEERS = {"trl": "trl", "hf": "transformers"}


def add_work_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags that say what is run, and in which pieces."""
  parser.add_argument("--work", choices=WORKS, default="w1")
  parser.add_argument("--model", choices=MODELS, default="tiny")
  parser.add_argument("--vocab_size", type=int, default=0, help="0: model's")
  sizes = parser.add_argument_group("instead of the workload's own sizes")
  for field in dataclasses.fields(Workload):
    kind = type(field.default)
    sizes.add_argument("--" + field.name, type=kind, help=" ")
  pieces = parser.add_argument_group("pieces of ours; 0 for the default")
  for name in (
    "trunks_per_micro_batch",
    "max_logits",
    "attention_logits",
  ):
    pieces.add_argument("--" + name, type=int, default=0, help=" ")
  pieces.add_argument(
    "--remat",
    choices=get_args(get_type_hints(ModelConfig)["remat"]),
    default=ModelConfig().remat,
    help=" ",
  )


def ours_arguments(
  args: argparse.Namespace, layout: str = "shared"
) -> tuple[ModelConfig, Workload, Settings]:
  """Returns the arguments of `ours.Ours` from the flags."""
  model, work = MODELS[args.model], WORKS[args.work]
  model = dataclasses.replace(model, remat=args.remat)
  if args.vocab_size:
    model = dataclasses.replace(model, vocab_size=args.vocab_size)
  given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Workload)}
  given = {name: value for name, value in given.items() if value is not None}
  settings = Settings(
    layout=layout,
    trunks_per_micro_batch=args.trunks_per_micro_batch,
    max_logits=args.max_logits,
    attention_logits=args.attention_logits,
    trains=args.work != "sampling",
  )
  return model, dataclasses.replace(work, **given), settings


class Worker:
  """A contender's process."""

  def __init__(self, spec: dict[str, Any], log: str):
    self._log = log
    with open(log, "w") as errors:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, **_threads(len(spec["cores"]))},
      )
    self.ready = self._read()

  def reset(self) -> None:
    """Resets the peak of memory."""
    self._write("reset")

  def step(self) -> dict[str, float]:
    """Takes one update step and returns its cost."""
    self._write("step")
    return self._read()

  def close(self) -> None:
    """Ends the process."""
    # The context closes both pipes and waits.
    with self._process:
      with contextlib.suppress(BrokenPipeError):
        self._write("stop")
      try:
        self._process.wait(timeout=60)
      except subprocess.TimeoutExpired:
        self._process.kill()

  def _write(self, command):
    self._process.stdin.write(command + "\n")
    self._process.stdin.flush()

  def _read(self):
    line = self._process.stdout.readline()
    if not line:
      code = self._process.wait()
      with open(self._log) as file:
        last = "".join(file.readlines()[-15:])
      raise RuntimeError(f"a contender ended with status {code}:\n{last}")
    return json.loads(line)


def _threads(cores: int) -> dict[str, str]:
  """Returns the environment of OpenMP and BLAS; XLA needs only pinning."""
  count = str(cores or len(os.sched_getaffinity(0)))
  return {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}


@contextlib.contextmanager
def workers(specs: dict[str, dict[str, Any]]) -> Iterator[dict[str, Worker]]:
  """Starts the processes one after the other, and ends them at the exit."""
  started: dict[str, Worker] = {}
  with tempfile.TemporaryDirectory() as folder:
    try:
      for i, (name, spec) in enumerate(specs.items()):
        started[name] = Worker(spec, f"{folder}/{i}.log")
      yield started
    finally:
      for worker in started.values():
        worker.close()


def contenders(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
  """Returns the contenders by name; the first is the baseline."""
  found = {}
  cores = sorted(os.sched_getaffinity(0))[: args.cores] if args.cores else []

  def add(name, layout="shared", work=None, **more):
    model, own_work, settings = ours_arguments(args, layout)
    found[name] = {
      "model": dataclasses.asdict(model),
      "work": dataclasses.asdict(work or own_work),
      "settings": dataclasses.asdict(settings),
      "cores": cores,
      "kind": "ours",
    } | more

  if args.work == "sampling":
    add("ours")
    _, work, _ = ours_arguments(args)
    if work.trajectories % 8 == 0:
      # This has as many samples, in groups that share their prompt.
      groups = {"trajectories": work.trajectories // 8, "samples": 8}
      add("ours, 8 per prompt", work=dataclasses.replace(work, **groups))
  else:
    for layout in args.layouts:
      add(f"ours, {layout}", layout)
  for peer in args.peers:
    settings = {"batch": args.peer_batch}
    add(peer.upper(), kind="peer", peer=peer, settings=settings)
  add("rate", kind="rate")
  return found


def measure(
  specs: dict[str, dict[str, Any]], repeats: int
) -> tuple[dict[str, dict[str, float]], float, list[str]]:
  """Runs all contenders in turns.

  Returns:
    ({contender: {quantity: median}}, operations per CPU second of matrix
    products, notes on versions and settings).

  Raises:
    AssertionError: the number of tokens is not that of the workload.
  """
  with workers(specs) as started:
    notes = [
      f"{name}: {', '.join(str(x) for x in worker.ready.values())}"
      for name, worker in started.items()
      if "versions" in worker.ready
    ]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in started}
    first = {name: worker.step() for name, worker in started.items()}
    for worker in started.values():
      worker.reset()
    for _ in range(repeats):
      for name, worker in started.items():
        found[name].append(worker.step())
    medians = {
      name: {key: statistics.median(x[key] for x in steps) for key in steps[0]}
      | {"first_peak_bytes": first[name]["peak_bytes"]}
      | {k: v for k, v in started[name].ready.items() if k.startswith("pre")}
      for name, steps in found.items()
    }
  rate = max(step["rate"] for step in found["rate"])
  del medians["rate"]
  for name, of_one in medians.items():
    check_tokens(name, of_one, specs[name])
  return medians, rate, notes


def check_tokens(
  name: str, found: dict[str, float], spec: dict[str, Any]
) -> None:
  """Fails unless the sampled and trained tokens are as many as predicted."""
  work = Workload(**spec["work"])
  expected = {"sampled": work.sampled_tokens}
  if spec["settings"].get("trains", found.get("trained", 0) > 0):
    # Peers train on groups that ours drops.
    is_peer = "peer" in spec
    expected["trained"] = (
      work.sampled_tokens if is_peer else work.trained_tokens
    )
  for what, count in expected.items():
    assert found[what] == count, (
      f"{name} {what} {found[what]} tokens a step; the workload has {count}"
    )


def quantities(
  found: dict[str, float], operations: Operations, rate: float
) -> dict[str, float]:
  """Returns the rows of the table; 0 where a quantity is unknown."""
  get = lambda name: found.get(name, 0.0)  # noqa: E731
  trains = bool(get("trained"))
  rollout = operations.prefill + operations.decode
  whole = rollout + operations.update * trains
  rows = {
    "step, s": get("wall_s"),
    "step, CPU s": get("cpu_s"),
    "  prefill, CPU s": get("prefill_cpu_s"),
    "  decode, CPU s": max(get("rollout_cpu_s") - get("prefill_cpu_s"), 0.0),
    "  reward, CPU s": get("reward_cpu_s"),
    "  update, CPU s": get("update_cpu_s"),
    "peak RSS of a step, MB": get("peak_bytes") / 1e6,
    "peak RSS, compiling too, MB": get("first_peak_bytes") / 1e6,
    "tokens sampled": get("sampled"),
    "tokens trained": get("trained"),
    "tokens per CPU s": get("sampled") / get("cpu_s"),
    "floor, CPU s": whole / rate,
    "share of floor, %": 100 * whole / rate / get("cpu_s"),
  }
  for name, part in (("rollout", rollout), ("update", operations.update)):
    seconds = get(f"{name}_cpu_s")
    rows[f"  {name}, %"] = 100 * part / rate / seconds if seconds else 0.0
  return rows


def needs_line(model: ModelConfig, work: Workload) -> str:
  """Says what a system without shared trunks would need."""
  needs = floor.needs_without_sharing(model, work)
  shared = sum(work.predicted())
  return (
    f"without sharing, by hand: {needs.copies} copies of prompts, "
    f"{needs.tokens:,} tokens a pass ({needs.padded_tokens:,} padded) instead "
    f"of {shared:,}; keys and values of padded rows {needs.kv_bytes / 1e9:.1f} "
    "GB"
  )


def missing(peers: Sequence[str]) -> list[str]:
  """Returns the peers that are not installed."""
  return [x for x in peers if importlib.util.find_spec(PEERS[x]) is None]


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command's flags."""
  parser = argparse.ArgumentParser(
    description="Steps and sampling beside other systems and the floor.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add_work_flags(parser)
  parser.add_argument(
    "--layouts", nargs="+", choices=LAYOUTS, default=["shared"], help="ours"
  )
  parser.add_argument(
    "--peers",
    nargs="*",
    choices=PEERS,
    default=[],
    help="trl trains, hf is transformers' generate and only samples",
  )
  parser.add_argument(
    "--peer_batch", type=int, default=0, help="TRL's micro-batch; 0: one"
  )
  parser.add_argument(
    "--cores", type=int, default=0, help="pin to so many; 0: all"
  )
  parser.add_argument("--repeats", type=int, default=5, help="turns timed")
  return parser


def main(argv: Sequence[str] | None = None) -> None:
  parser = make_parser()
  args = parser.parse_args(argv)
  wrong = "trl" if args.work == "sampling" else "hf"
  if wrong in args.peers:
    parser.error(f"--peers={wrong} does not do --work={args.work}")
  if absent := missing(args.peers):
    print(
      f"not installed, so left out: {', '.join(absent)}; to install: "
      "pip install -c constraints.txt -e '.[peers]'"
    )
    args.peers = [x for x in args.peers if x not in absent]
  model, work, settings = ours_arguments(args)
  if work.fill < 1 and args.layouts != ["shared"]:
    parser.error("--layouts: given lengths are only in the layout shared")
  specs = contenders(args)
  print(
    f"{args.work}, {args.model} model, vocabulary {model.vocab_size:,}, "
    f"{args.cores or 'all'} cores, {work}, {settings}, remat {model.remat}\n"
    f"{measuring.describe_machine()}",
    flush=True,
  )
  medians, rate, notes = measure(specs, args.repeats)
  print(*notes, sep="\n")
  print(f"matrix products: {rate / 1e9:.1f} GFLOP per CPU s")
  print(needs_line(model, work))
  counted = floor.operations(model, work)
  print(
    measuring.table(
      {name: quantities(x, counted, rate) for name, x in medians.items()}
    )
  )


if __name__ == "__main__":
  main()
