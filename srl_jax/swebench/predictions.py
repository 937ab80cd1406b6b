# SPDX-License-Identifier: Apache-2.0
"""Predictions: patches in the form that SWE-bench's harness reads."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence

from srl_jax.storage import files
from srl_jax.swebench.outcomes import MAJORITY, SampleOutcome


def write_predictions(
  folder: pathlib.Path,
  found: Mapping[str, Sequence[Sequence[SampleOutcome]]],
  model: str,
) -> dict[str, list[pathlib.Path]]:
  """Writes greedy.jsonl, sample_0.jsonl, ... and majority.jsonl.

  Each has a line for every instance, also for those without a patch.

  Args:
    folder: the folder.
    found: what became of the samples; see `outcomes`.
    model: what the predictions call the model.

  Returns:
    The files of each way of choosing a patch, one for each sample.
  """
  paths: dict[str, list[pathlib.Path]] = {}
  for name, rows in found.items():
    for sample in range(len(rows[0])):
      is_single = name in ("greedy", MAJORITY)
      stem = name if is_single else f"sample_{sample}"
      path = folder / f"{stem}.jsonl"
      files.write_text(path, "".join(_line(row[sample], model) for row in rows))
      paths.setdefault(name, []).append(path)
  return paths


def _line(outcome: SampleOutcome, model: str) -> str:
  record = {
    "instance_id": outcome.instance,
    "model_name_or_path": model,
    "model_patch": outcome.patch,
  }
  return json.dumps(record) + "\n"


def write_found_files(
  folder: pathlib.Path, found: Mapping[str, Sequence[Sequence[SampleOutcome]]]
) -> None:
  """Writes which files each sample was to see, as `--found_files` reads it."""
  for name, rows in found.items():
    if name != MAJORITY:
      for sample in range(len(rows[0])):
        stem = name if name == "greedy" else f"sample_{sample}"
        lines = [
          json.dumps(
            {
              "instance_id": row[sample].instance,
              "found_files": list(row[sample].found),
            }
          )
          for row in rows
        ]
        text = "".join(line + "\n" for line in lines)
        files.write_text(folder / f"{stem}.jsonl", text)
