# SPDX-License-Identifier: Apache-2.0
"""Where the time of an update step goes: the largest costs.

  python -m benchmarks.profile --work=w1 --model=small

It traces a few update steps, after one to compile. One core is used, so that
operations do not overlap and their times add. XLA's own time stamps of each
operation are summed by class: part of the model (from the names in the source),
pass and kind of operation. It works on CPU; an accelerator's trace has other
names.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Instruction(NamedTuple):
  """The optimized program's description of an operation."""

  shape: str
  opcode: str
  source: str


class Event(NamedTuple):
  """One run of an operation; `start` and `end` in ns."""

  start: float
  end: float
  program: str
  op: str


# Parts of the model; the first one in an operation's source name counts.
PARTS = (
  ("mlp", r"/mlp/"),
  ("attention projections", r"_project/|HMED->NRTD|/rope|rotate"),
  ("attention", r"/attention/|attend"),
  ("norms", r"norm"),
  ("optimizer", r"jit\(finish\)"),
  ("logits and their softmax", r"VD->|log_softmax|logsumexp|token_logps"),
  ("drawing", r"threefry|random|uniform|cumsum|argmax|fold_in"),
  ("cache writes", r"dynamic_update_slice"),
)
PASSES = (
  ("recomputed", "rematted_computation"),
  ("backward", r"transpose\(jvp"),
  ("forward", r"jvp\("),
)


def parse_program(text: str) -> dict[str, Instruction]:
  """Reads optimized HLO text as {name of operation: its description}."""
  found = {}
  pattern = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ([\w\-]+)\(")
  for line in text.splitlines():
    if match := pattern.match(line):
      name, shape, opcode = match.groups()
      source = re.search(r'op_name="([^"]*)"', line)
      found[name] = Instruction(
        re.sub(r"\{.*?\}", "", shape), opcode, source[1] if source else ""
      )
  return found


def classify(op: str, instruction: Instruction | None) -> str:
  """Returns the class of an operation, in words."""
  shape, opcode, source = instruction or Instruction("", "", "")
  part = next((name for name, x in PARTS if re.search(x, source)), "")
  phase = next((name for name, x in PASSES if re.search(x, source)), "")
  if "dot_general" in source or opcode == "dot":
    kind = "matrix products"
  elif re.match(r"(transpose_|wrapped_)?(copy|transpose)", op):
    kind = f"copies {shape}"
  elif not part:
    kind = re.sub(r"[.\d]+$", "", op)
  else:
    kind = "other operations"
  return ", ".join(x for x in (part, phase, kind) if x)


def own_times(
  events: Iterable[Event],
) -> dict[tuple[str, str], list[float]]:
  """Returns {(program, operation): seconds of each run}, without its body.

  A loop lasts as long as all operations of its body, so only its own time is
  counted. Events are those of one thread.
  """
  own: list[float] = []
  ordered = sorted(events, key=lambda e: (e.start, -e.end))
  open_at: list[int] = []
  for i, event in enumerate(ordered):
    while open_at and event.start >= ordered[open_at[-1]].end:
      open_at.pop()
    seconds = (event.end - event.start) / 1e9
    if open_at:
      own[open_at[-1]] -= seconds
    own.append(seconds)
    open_at.append(i)
  found: dict[tuple[str, str], list[float]] = {}
  for event, seconds in zip(ordered, own, strict=True):
    found.setdefault((event.program, event.op), []).append(seconds)
  return found


def undisturbed(seconds: Sequence[float]) -> float:
  """Returns the time of all runs if each takes the lower quartile.

  Shapes are static, so an operation takes the same time in every run. Time
  stamps are wall-clock times, and other work of the machine disturbed the
  slower runs.
  """
  return float(np.quantile(seconds, 0.25)) * len(seconds)


def by_class(
  seconds: Mapping[tuple[str, str], float],
  programs: Mapping[str, Mapping[str, Instruction]],
) -> dict[str, dict[str, float]]:
  """Returns {program: {class: seconds}}, the largest first."""
  found: dict[str, dict[str, float]] = {}
  for (program, op), value in seconds.items():
    name = classify(op, programs.get(program, {}).get(op))
    of_program = found.setdefault(program, {})
    of_program[name] = of_program.get(name, 0.0) + value
  return {
    program: dict(sorted(x.items(), key=lambda item: -item[1]))
    for program, x in found.items()
  }


def read_trace(folder: str) -> dict[tuple[str, str], float]:
  """Returns the times of all operations in a trace of `jax.profiler`."""
  import jax

  [path] = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
  found: dict[tuple[str, str], list[float]] = {}
  for plane in jax.profiler.ProfileData.from_file(path).planes:
    for line in plane.lines:
      events = []
      for event in line.events:
        stats = dict(event.stats)
        if "hlo_op" in stats:
          end_ns = event.start_ns + event.duration_ns
          program = str(stats["hlo_module"])
          events.append(
            Event(event.start_ns, end_ns, program, str(stats["hlo_op"]))
          )
      for key, seconds in own_times(events).items():
        found.setdefault(key, []).extend(seconds)
  return {key: undisturbed(seconds) for key, seconds in found.items()}


def read_programs(folder: str) -> dict[str, dict[str, Instruction]]:
  """Returns the optimized programs that XLA wrote into a folder, by name."""
  found: dict[str, dict[str, Instruction]] = {}
  for path in glob.glob(f"{folder}/*after_optimizations.txt"):
    program = os.path.basename(path).split(".")[1]
    with open(path, encoding="utf-8") as file:
      # The trace does not distinguish programs of the same name.
      found.setdefault(program, {}).update(parse_program(file.read()))
  return found


def report(times: Mapping[str, Mapping[str, float]], count: int) -> str:
  """Lists the `count` largest classes of each program of 1% or more."""
  whole = sum(sum(x.values()) for x in times.values())
  lines = []
  for program, classes in sorted(
    times.items(), key=lambda item: -sum(item[1].values())
  ):
    total = sum(classes.values())
    if total < 0.01 * whole:
      continue
    kinds: dict[str, float] = {"matrix products": 0.0, "copies": 0.0}
    for name, seconds in classes.items():
      kind = next((x for x in kinds if x in name), "other operations")
      kinds[kind] = kinds.get(kind, 0.0) + seconds
    shares = ", ".join(f"{x} {y / total:.0%}" for x, y in kinds.items())
    lines.append(f"{program}: {total:.3g} s ({shares})")
    for name, seconds in list(classes.items())[:count]:
      lines.append(f"  {seconds / total:6.1%}  {seconds:8.3g} s  {name}")
  return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  from benchmarks import engine

  parser = argparse.ArgumentParser(
    description="The largest costs of rollout and update.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  engine.add_work_flags(parser)
  parser.add_argument("--count", type=int, default=10, help="costs to name")
  parser.add_argument("--traced", type=int, default=3, help="steps traced")
  args = parser.parse_args(argv)
  # Set before XLA starts: one core, and a dump of all programs.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
  with tempfile.TemporaryDirectory() as folder:
    os.environ["XLA_FLAGS"] = (
      os.environ.get("XLA_FLAGS", "")
      + f" --xla_dump_to={folder}/hlo --xla_dump_hlo_as_text"
    )
    import jax

    from benchmarks import measuring, ours

    ours_ = ours.Ours(*engine.ours_arguments(args))
    ours_.step()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(f"{folder}/trace", profiler_options=options):
      for _ in range(args.traced):
        ours_.step()
    times = by_class(
      {
        key: seconds / args.traced
        for key, seconds in read_trace(f"{folder}/trace").items()
      },
      read_programs(f"{folder}/hlo"),
    )
    print(
      f"{args.work}, {args.model}, one core, per step\n"
      f"{measuring.describe_machine()}"
    )
    print(report(times, args.count))


if __name__ == "__main__":
  main()
