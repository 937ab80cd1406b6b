# SPDX-License-Identifier: Apache-2.0
"""SWE-bench's official harness: its command, its run, its report.

The harness runs the tests of each instance in a Docker image and says which
issues are resolved. It needs Docker and the package swebench, which may be
installed in an environment of its own. Nothing of it is imported here.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
from typing import NamedTuple

_LINES = 20  # Of what a failed harness has said.


class Report(NamedTuple):
  """What the harness says of a file of predictions.

  Attributes:
    resolved: ids of the instances that are resolved.
    errors: ids of those that it could not run.
  """

  resolved: frozenset[str]
  errors: frozenset[str]


class Harness(NamedTuple):
  """How the harness is called.

  Attributes:
    python: the interpreter of the environment that has swebench.
    dataset: name of the data set on the hub, or a file with its rows.
    folder: where it keeps its logs and reports.
    workers: instances that it runs at a time.
    lacking: why it cannot run the data set; "" if it can.
  """

  python: str
  dataset: str
  folder: pathlib.Path
  workers: int = 4
  lacking: str = ""

  def command(self, predictions: pathlib.Path) -> list[str]:
    """Returns the command that runs the tests of a file of predictions."""
    return [
      *(self.python, "-m", "swebench.harness.run_evaluation"),
      *("--dataset_name", self.dataset, "--split", "test"),
      *("--predictions_path", str(predictions.absolute())),
      *("--run_id", _run_id(predictions)),
      *("--max_workers", str(self.workers), "--report_dir", "."),
    ]

  def shell(self, predictions: pathlib.Path) -> str:
    """Returns the same as a line for the shell."""
    return f"cd {shlex.quote(str(self.folder))} && " + shlex.join(
      self.command(predictions)
    )

  def check(self) -> None:
    """Refuses what the harness could not do, before anything is sampled.

    Raises:
      ValueError: Docker or swebench is missing; the message says what to do.
    """
    if self.lacking:
      raise ValueError(
        f"--harness={self.python}: {self.lacking}; give rows of SWE-bench's "
        "data sets of version 5, or leave --harness out"
      )
    cure = (
      "leave --harness out, and run the command that is printed where they are"
    )
    if shutil.which(self.python) is None:
      raise ValueError(
        f"--harness={self.python} is no program; give the python of an "
        "environment with swebench (pip install 'swebench>=5')"
      )
    for what, command in (
      (
        "the module swebench.harness.run_evaluation",
        [self.python, "-c", "import swebench.harness.run_evaluation"],
      ),
      ("a running Docker", ["docker", "info"]),
    ):
      said = _failure(command)
      if said is not None:
        raise ValueError(
          f"--harness={self.python} needs {what} ({said}); install it, or "
          f"{cure}"
        )

  def run(self, predictions: pathlib.Path, model: str) -> Report:
    """Runs the harness on a file of predictions, or reads what it said before.

    Args:
      predictions: the file.
      model: what it calls the model.

    Raises:
      RuntimeError: the harness failed; the message has its last lines.
      ValueError: its report cannot be read.
    """
    name = model.replace("/", "__")
    report = self.folder / f"{name}.{_run_id(predictions)}.json"
    if not report.is_file():
      self.folder.mkdir(parents=True, exist_ok=True)
      log = report.with_suffix(".log")
      with log.open("wb") as file:
        status = subprocess.run(
          self.command(predictions),
          cwd=self.folder,
          stdin=subprocess.DEVNULL,
          stdout=file,
          stderr=subprocess.STDOUT,
          check=False,
        ).returncode
      if status or not report.is_file():
        text = log.read_text("utf-8", "replace").strip()
        said = "\n".join(text.splitlines()[-_LINES:])
        raise RuntimeError(
          f"the harness ended with status {status} and without a report; the "
          "patches are kept, and the same command tries again. It said "
          f"({log}):\n{said}"
        )
    return read_report(report)


def read_report(path: pathlib.Path) -> Report:
  """Reads a report of the harness.

  Raises:
    ValueError: it is none.
  """
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    return Report(
      frozenset(found["resolved_ids"]), frozenset(found["error_ids"])
    )
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise ValueError(
      f"{path} is no report of SWE-bench's harness ({error!r}); remove it, and "
      "the same command runs the harness again"
    ) from error


def _run_id(predictions: pathlib.Path) -> str:
  """Names a run; the harness does not run the same name twice."""
  digest = hashlib.sha256(predictions.read_bytes()).hexdigest()
  return f"{predictions.stem}-{digest[:12]}"


def _failure(command: list[str]) -> str | None:
  """Runs a command; returns the last line that it said if it failed."""
  try:
    done = subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      env=os.environ | {"PYTHONWARNINGS": "ignore"},
      timeout=120,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired) as error:
    return str(error)
  said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
  return (
    (said.splitlines() or ["no reason given"])[-1] if done.returncode else None
  )
