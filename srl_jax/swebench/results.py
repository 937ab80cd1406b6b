# SPDX-License-Identifier: Apache-2.0
"""The files of a finished evaluation, and what is printed of them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from srl_jax import progress
from srl_jax.inference import ReadyModel
from srl_jax.report.tables import Table
from srl_jax.storage import files
from srl_jax.swebench import asking, tables
from srl_jax.swebench.harness import Harness, Report
from srl_jax.swebench.outcomes import MAJORITY, SampleOutcome
from srl_jax.swebench.predictions import write_found_files, write_predictions
from srl_jax.swebench.prompts import Task


class Results:
  """What a model's answers amount to."""

  def __init__(
    self,
    model: ReadyModel,
    task: Task,
    found: Mapping[str, Sequence[Sequence[SampleOutcome]]],
  ):
    """Keeps what is given.

    Args:
      model: the model.
      task: what it was asked.
      found: what became of the samples; see `outcomes`.
    """
    self._model, self._task, self._found = model, task, found

  def write(self, out: pathlib.Path, harness: Harness, is_run: bool) -> None:
    """Writes the files of a folder, and prints the tables.

    Args:
      out: the folder.
      harness: the official harness.
      is_run: whether it is to run; else its commands are printed.

    Raises:
      RuntimeError: the harness failed; everything else is written.
    """
    lines = [
      json.dumps(outcome.json()) + "\n"
      for rows in self._found.values()
      for row in rows
      for outcome in row
    ]
    files.write_text(out / "outcomes.jsonl", "".join(lines))
    if self._task.is_end_to_end:
      write_found_files(out / "found_files", self._found)
    name = self._model.name
    paths = write_predictions(out / "predictions", self._found, name)
    self._write_tables(out, {})
    if not is_run:
      progress.say(f"tables, patches and answers are in {out}")
      _say_commands(out, harness, paths)
      return
    reports: dict[str, list[Report]] = {}
    for way, of_way in paths.items():
      # Each of its patches is one of a sample.
      for path in of_way if way != MAJORITY else ():
        with progress.task(f"running the tests of {path.name}"):
          reports.setdefault(way, []).append(harness.run(path, name))
    if MAJORITY in self._found:
      reports[MAJORITY] = [self._majority(reports["sampled"])]
    self._write_tables(out, reports)
    for way, of_way in reports.items():
      for number, report in enumerate(of_way):
        if report.errors:
          progress.warn(
            f"the harness could not run {len(report.errors)} "
            f"instances ({way} {number}), which count as not resolved: "
            f"{', '.join(sorted(report.errors)[:5])}; see {harness.folder}, "
            "and remove its report to run them again"
          )
    progress.say(f"tables, patches and answers are in {out}")

  def _majority(self, samples: Sequence[Report]) -> Report:
    """What the samples' reports say of the patches that most samples have."""
    chosen = [row[0] for row in self._found[MAJORITY] if row[0].patch]
    resolved, errors = (
      frozenset(x.instance for x in chosen if x.instance in names[x.sample])
      for names in (
        [report.resolved for report in samples],
        [report.errors for report in samples],
      )
    )
    return Report(resolved, errors)

  def _write_tables(
    self, out: pathlib.Path, reports: Mapping[str, Sequence[Report]]
  ) -> None:
    facts = asking.facts(self._model, self._task)
    protocol = facts["protocol"]
    resolved = {
      way: [report.resolved for report in of_way]
      for way, of_way in reports.items()
    }
    main = tables.main_table(self._task.instances, self._found, resolved)
    others = {
      "without_patch": tables.without_patch(self._found),
      "failed_edits": tables.failed_edits(self._found),
    }
    left_out = tables.left_out(self._found)
    text = "\n".join(
      [
        f"{facts['model']} by protocol {protocol['name']}, seed "
        f"{facts['seed']}",
        *(f"- {text}" for text in protocol["differences"]),
        *(f"- {n} files not shown: {why}" for why, n in left_out.items()),
        "",
        main.markdown(),
        *(table.markdown() for table in others.values() if table),
      ]
    )
    files.write_text(out / "table.md", text)
    files.write_text(out / "table.csv", main.csv())
    files.write_json(
      out / "results.json",
      {
        **{name: facts[name] for name in ("model", "weights", "seed")},
        "protocol": protocol,
        "answers": _records(main),
        **{name: _records(table) for name, table in others.items()},
        "left_out": left_out,
        "harness_errors": {
          way: [sorted(report.errors) for report in of_way]
          for way, of_way in reports.items()
        },
      },
    )
    progress.say(f"\n{text}")


def _say_commands(
  out: pathlib.Path,
  harness: Harness,
  paths: Mapping[str, Sequence[pathlib.Path]],
) -> None:
  """Says how the tests are run, and writes that for all samples."""
  if harness.lacking:
    progress.say(f"SWE-bench's harness cannot run the tests: {harness.lacking}")
    return
  harness.folder.mkdir(parents=True, exist_ok=True)
  lines = [harness.shell(path) for of_way in paths.values() for path in of_way]
  files.write_text(out / "harness.sh", "".join(line + "\n" for line in lines))
  progress.say(
    "to run the tests, give --harness=PYTHON, or type, where Docker and "
    f"swebench>=5 are (or all of {out / 'harness.sh'}):\n{lines[0]}"
  )


def _records(table: Table | None) -> list[Any]:
  return json.loads(table.json()) if table else []
