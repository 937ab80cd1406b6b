# SPDX-License-Identifier: Apache-2.0
"""A whole run in a bucket: two processes, killed, resumed, evaluated, exported.

  python -m benchmarks.buckets

An emulator on this machine holds the data, the weights, the working directory
and all results. Each line says what was done and how long it took. The script
fails if a command fails, if a second run is let into the working directory, or
if a folder on this machine is called like the bucket.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.resources
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from srl_jax import storage
from srl_jax.metrics import read_rows
from srl_jax.testing import buckets

_BUCKET = "gs://srl-benchmark"
_RUN = f"{_BUCKET}/run"
_SMALL = {
  "weights": f"{_BUCKET}/student",
  "tokenizer.path": f"{_BUCKET}/student/tokenizer.model",
  "data.format": "jsonl",
  "data.path": f"{_BUCKET}/data",
  "data.train_size": 0,
  "data.valid_size": 0,
  "data.test_size": 0,
  "srl.update_steps": 4,
  "srl.validate_every": 2,
  "srl.groups_per_batch": 8,
  "checkpoint.every_update_steps": 1,
  "evaluate.samples": 0,
  "evaluate.modes": "('turns',)",
  "log_every": 1,
}
_DEADLINE_S = 1800.0


def main() -> None:
  """Runs everything; ends with an error at the first thing that fails."""
  with (
    buckets.emulated("srl-benchmark"),
    tempfile.TemporaryDirectory() as folder,
  ):
    os.environ |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": folder}
    with _timed("prepare data and weights in the bucket"):
      _prepare(pathlib.Path(folder))
    workdir = storage.path(_RUN)
    with _timed("train in two processes until they are killed"):
      _train_and_kill(workdir)
    with _timed("resume and finish in two processes"):
      _check(_start())
    rows = read_rows(workdir / "metrics.jsonl")
    steps = [x["update_step"] for x in rows if "srl/loss" in x]
    assert steps == sorted(set(steps)) == list(range(4)), steps
    out = f"--out={_BUCKET}/evaluation"
    exam = f"--suites={_BUCKET}/exam.jsonl"
    weights = f"--weights={_RUN}"
    with _timed("evaluate the model of the run"):
      _command("srl_jax.evaluate", weights, exam, out, "--max_new_tokens=64")
    with _timed("export the best checkpoint"):
      _command("srl_jax.export", f"--workdir={_RUN}", f"--out={_BUCKET}/export")
    with _timed("write a report"):
      evaluation = f"--evaluation={_BUCKET}/evaluation"
      page = f"--out={_BUCKET}/report.html"
      _command("srl_jax.report", f"--workdir={_RUN}", evaluation, page)
    for name in ("export/config.json", "report.html", "evaluation/table.md"):
      assert storage.path(f"{_BUCKET}/{name}").exists(), name
    assert not pathlib.Path("gs:").exists()
    found = storage.checksums(storage.path(_BUCKET))
    size = sum(x[0] for x in found.values())
    print(f"{len(found)} objects, {size / 1e6:.1f} MB in the bucket")


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
  start_s = time.monotonic()
  yield
  print(f"{time.monotonic() - start_s:6.1f} s  {what}", flush=True)


def _prepare(folder: pathlib.Path) -> None:
  sizes = ("train_size=64", "valid_size=8", "test_size=8")
  _command(
    "srl_jax.data.prepare",
    *("--data.format=registers", "--as=jsonl", "--template=plain"),
    *(f"--data.{size}" for size in sizes),
    f"--out={_BUCKET}/data",
  )
  student = (
    importlib.resources.files("srl_jax") / "assets" / "registers_student"
  )
  with importlib.resources.as_file(student) as files:
    storage.upload_folder(files, storage.path(f"{_BUCKET}/student"))
  text = storage.path(f"{_BUCKET}/data/test.jsonl").read_text()
  lines = []
  for line in text.splitlines():
    record = json.loads(line)
    lines.append({k: record[k] for k in ("id", "problem", "answer")})
  exam = "".join(json.dumps(x) + "\n" for x in lines)
  storage.path(f"{_BUCKET}/exam.jsonl").write_text(exam)


def _train_and_kill(workdir: pathlib.Path) -> None:
  """Kills both processes after a checkpoint, and tries a second run before."""
  run = _start()
  end_s = time.monotonic() + _DEADLINE_S
  while not list((workdir / "stages/0_srl/steps/1").glob("commit_success*")):
    if run.poll() is not None:
      _check(run)
    assert time.monotonic() < end_s, "no checkpoint"
    time.sleep(0.5)
  second = _start(processes=1)
  output, _ = second.communicate(timeout=_DEADLINE_S)
  assert second.returncode == 1 and "another run is working in" in output
  os.killpg(run.pid, signal.SIGKILL)
  run.communicate()


def _start(processes: int = 2) -> subprocess.Popen:
  fields = [f"--config.{name}={value}" for name, value in _SMALL.items()]
  command = [
    *(sys.executable, "-m", "launch.local", f"--processes={processes}", "--"),
    *(sys.executable, "-m", "srl_jax.main", f"--workdir={_RUN}"),
    *("--config=experiments/registers.py", *fields),
  ]
  return subprocess.Popen(
    command,
    env=os.environ | {"XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def _check(process: subprocess.Popen) -> None:
  output, _ = process.communicate(timeout=_DEADLINE_S)
  if process.returncode:
    sys.exit(f"{output}\nended with status {process.returncode}")


def _command(module: str, *arguments: str) -> None:
  command = [sys.executable, "-m", module, *arguments]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    sys.exit(f"{done.stdout}\n{done.stderr}\n{module} failed")


if __name__ == "__main__":
  argparse.ArgumentParser(description=__doc__).parse_args()
  main()
