# SPDX-License-Identifier: Apache-2.0
"""Does a run that is ended at any moment go on to the same bits?

  python -m benchmarks.interruptions

A small run of two stages is ended at twelve moments by SIGKILL and at the same
twelve by SIGTERM or SIGINT, four times in each working directory, and started
again each time. A run that is ended while srl trains is damaged in three ways
and started again. What all of them leave is compared with what a run leaves
that nothing ended. Linux only: it looks for orphans in /proc.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from srl_jax.testing import experiment

# (name, the line of output it follows, seconds later at most). The delay is
# drawn; so the same moment falls on different lines of code.
MOMENTS = (
  ("start", "", 4.0),
  ("compilation", "srl: memory (of", 2.0),
  ("evaluation before", "srl: update: finish", 2.0),
  ("sft update", "sft  5/16  loss", 0.3),
  ("sft checkpoint", "sft 8/16  validation", 0.5),
  ("end of sft", "sft 16/16  validation", 0.1),
  ("evaluation after sft", "sft 16/16  validation", 2.0),
  ("srl sampling", "srl: rewards on", 0.5),
  ("srl update", "srl 2/6  reward", 0.5),
  ("srl checkpoint", "srl 3/6  validation", 0.5),
  ("end of srl", "srl 6/6  validation", 0.1),
  ("evaluation after srl", "srl 6/6  validation", 1.0),
)
# Moments of one working directory, in the order of a run.
CHAINS = (MOMENTS[0::3], MOMENTS[1::3], MOMENTS[2::3])
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The host scores in two worker processes, which must not outlive a run.
SETTINGS = (
  "--config.device_reward.on=host",
  "--config.reward_workers.count=2",
)
COMPARED = (
  "results.json",
  "model/model.safetensors",
  "solutions/before.jsonl",
  "solutions/after_sft.jsonl",
  "solutions/after_srl.jsonl",
)
_LIMIT_S = 900.0
_ORPHANS_S = 15.0


class Attempt:
  """A process of a run, whose output is read line by line."""

  def __init__(self, runs: experiment.Runs, workdir: pathlib.Path):
    self._process = subprocess.Popen(
      [*runs.command(workdir, "sft_srl"), *SETTINGS],
      env=runs.environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    self.lines: list[str] = []
    self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self) -> None:
    for line in self._process.stdout:
      self._queue.put(line.rstrip("\n"))
    self._queue.put(None)

  def wait_for(self, text: str, limit_s: float = _LIMIT_S) -> bool:
    """Reads on to a line with `text`; False if the output ends before."""
    deadline_s = time.monotonic() + limit_s
    while True:
      try:
        line = self._queue.get(timeout=max(0, deadline_s - time.monotonic()))
      except queue.Empty:
        return False
      if line is None:
        self._queue.put(None)  # For whoever asks next.
        return False
      self.lines.append(line)
      if text in line:
        return True

  def send(self, number: int) -> None:
    self._process.send_signal(number)

  def end(self) -> int:
    """Waits for the end; returns the status as a shell reports it."""
    while self.wait_for(""):
      pass
    status = self._process.wait(timeout=_LIMIT_S)
    return status if status >= 0 else 128 - status

  def orphans(self) -> list[int]:
    """Returns processes of the session that live on without the first."""
    deadline_s = time.monotonic() + _ORPHANS_S
    while left := _of_session(self._process.pid):
      if time.monotonic() > deadline_s:
        break
      time.sleep(0.2)
    return left


def _of_session(session: int) -> list[int]:
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:
      continue  # It has just ended.
    state, of = fields[0], int(fields[3])
    if of == session and state != "Z":
      found.append(int(path.parent.name))
  return found


@dataclasses.dataclass
class Drill:
  """What was tried, and what went wrong.

  Attributes:
    runs: makes command lines.
    folder: everything goes below it.
    whole: working directory of the run that nothing ended.
    faults: a line for each thing that went wrong.
    counts: how often each thing was tried.
  """

  runs: experiment.Runs
  folder: pathlib.Path
  whole: pathlib.Path
  faults: list[str] = dataclasses.field(default_factory=list)
  counts: dict[str, int] = dataclasses.field(default_factory=dict)

  def fault(self, line: str, attempt: Attempt | None = None) -> None:
    self.faults.append(line)
    print(f"  FAULT {line}", flush=True)
    for last in attempt.lines[-5:] if attempt else ():
      print(f"    | {last}", flush=True)

  def count(self, name: str) -> None:
    self.counts[name] = self.counts.get(name, 0) + 1

  def finish(self, workdir: pathlib.Path, name: str) -> list[str]:
    """Lets a run end and compares what it leaves; returns its lines."""
    attempt = Attempt(self.runs, workdir)
    status = attempt.end()
    if status:
      self.fault(f"{name}: the last attempt ended with {status}", attempt)
      return attempt.lines
    for file in COMPARED:
      if (workdir / file).read_bytes() != (self.whole / file).read_bytes():
        self.fault(f"{name}: {file} differs from the unbroken run's")
    if experiment.metric_rows(workdir) != experiment.metric_rows(self.whole):
      self.fault(f"{name}: the rows of metrics differ")
    self.count("finished and compared")
    print(f"{name}: finished", flush=True)
    return attempt.lines

  def interrupt(self, workdir, moment, number, delay_s) -> None:
    """Ends one attempt at a moment, and looks how it ends."""
    name, text, _ = moment
    what = f"{signal.Signals(number).name} at {name} + {delay_s:.2f} s"
    attempt = Attempt(self.runs, workdir)
    if text and not attempt.wait_for(text):
      attempt.end()
      self.fault(f"{what}: the line {text!r} did not come", attempt)
      return
    time.sleep(delay_s)
    begin_s = time.monotonic()
    attempt.send(number)
    # Before its first line, a process is still importing.
    says = number == signal.SIGKILL or attempt.wait_for("asked to stop")
    said_s = time.monotonic() - begin_s
    status = attempt.end()
    ended_s = time.monotonic() - begin_s
    if status == 0:
      self.count("ended before the signal")
      print(f"  {what}: was already at its end", flush=True)
      return
    self.count(signal.Signals(number).name)
    if status != 128 + number:
      self.fault(f"{what}: status {status}", attempt)
    if text and not says:
      self.fault(f"{what}: not a word", attempt)
    if says and said_s > 2:
      self.fault(f"{what}: the first word after {said_s:.1f} s", attempt)
    if any("Traceback" in line for line in attempt.lines):
      self.fault(f"{what}: a traceback", attempt)
    if left := attempt.orphans():
      self.fault(f"{what}: processes {left} live on")
    last = attempt.lines[-1][:60] if attempt.lines else ""
    print(f"  {what}: {status} after {ended_s:.1f} s  {last}", flush=True)

  def damage(self) -> None:
    """Damages the newest checkpoint of a run that was stopped in srl."""
    origin = self.folder / "damaged"
    attempt = Attempt(self.runs, origin)
    attempt.wait_for("srl 3/6  validation")
    # A kill might leave a single checkpoint whole, and nothing to go back to.
    attempt.send(signal.SIGTERM)
    attempt.end()
    for name, change in DAMAGES.items():
      workdir = self.folder / f"damaged by {name}"
      shutil.copytree(origin, workdir)
      steps = workdir / "stages" / "1_srl" / "steps"
      complete = [x for x in steps.iterdir() if x.name.isdigit()]
      *_, before, newest = sorted(complete, key=lambda path: int(path.name))
      files = [x for x in (newest / "state").rglob("*") if x.is_file()]
      change(max(files, key=lambda path: path.stat().st_size))
      lines = self.finish(workdir, f"damaged by {name}")
      for wanted in (
        f"{newest} is damaged",
        f"srl: resuming after update step {before.name} of 6",
      ):
        if not any(wanted in line for line in lines):
          self.fault(f"damaged by {name}: no line with {wanted!r}")
      self.count("damaged checkpoints")


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def _truncate(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
  "a flipped bit": _flip,
  "truncation": _truncate,
  "deletion": pathlib.Path.unlink,
}


def run(folder: pathlib.Path, seed: int) -> Drill:
  """Carries out the drill below a folder."""
  draws = random.Random(seed)
  runs = experiment.Runs(folder)
  whole = folder / "whole"
  drill = Drill(runs, folder, whole)
  begin_s = time.monotonic()
  attempt = Attempt(runs, whole)
  if attempt.end():
    raise RuntimeError("the unbroken run failed:\n" + "\n".join(attempt.lines))
  print(f"unbroken run: {time.monotonic() - begin_s:.0f} s", flush=True)
  for is_kill in (True, False):
    for index, moments in enumerate(CHAINS):
      name = f"chain {index} of {'kills' if is_kill else 'signals'}"
      print(name, flush=True)
      workdir = folder / name
      for turn, moment in enumerate(moments):
        number = SIGNALS[(index + turn) % 2]
        number = signal.SIGKILL if is_kill else number
        drill.interrupt(workdir, moment, number, draws.random() * moment[2])
      drill.finish(workdir, name)
  drill.damage()
  return drill


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the drill; returns 1 if anything went wrong."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.interruptions",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument(
    "--folder", type=pathlib.Path, help="where runs are kept; default: nowhere"
  )
  options = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as temporary:
    folder = options.folder or pathlib.Path(temporary)
    folder.mkdir(parents=True, exist_ok=True)
    drill = run(folder.resolve(), options.seed)
  for name, count in drill.counts.items():
    print(f"{count:3} x {name}")
  print(f"{len(drill.faults)} faults")
  for fault in drill.faults:
    print(f"  {fault}")
  return 1 if drill.faults else 0


if __name__ == "__main__":
  sys.exit(main())
