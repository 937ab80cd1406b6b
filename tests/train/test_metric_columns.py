# SPDX-License-Identifier: Apache-2.0
"""metrics.txt explains every column that a run writes, and no other."""

import csv
import dataclasses

from srl_jax.train import metric_columns
from srl_jax.update.grpo import GrpoMetrics
from tests.support.columns import explained, patterns


def written(workdir):
  with (workdir / "metrics.csv").open() as file:
    return {x for x in next(csv.reader(file)) if x != "update_step"}


def test_every_column_is_explained_and_every_explanation_has_its_column(
  runs, whole, tmp_path
):
  suite = tmp_path / "exam.jsonl"
  suite.write_text('{"problem": "1: 2", "answer": "2"}\n')
  runs.run(
    tmp_path / "run",
    "sft_srl",
    sft__update_steps=1,
    srl__update_steps=1,
    evaluate__suites=(str(suite),),
    evaluate__suite_samples=0,
    evaluate__suite_tokens=2,
    evaluate__suites_every_update_steps=1,
    srl__dynamic_sampling__enabled=False,
    srl__reward__function="srl_jax.testing.experiment:half",
    reward_workers__count=0,
  )
  runs.run(
    tmp_path / "outcomes",
    "episodes",
    episodes__turns=1,
    episodes__update_steps=1,
    episodes__max_rounds=1,
  )
  outcomes = written(tmp_path / "outcomes")
  assert {"episodes/turns", "episodes/skipped_updates"} <= outcomes
  names = {
    title: {f"episodes/{row[0]}" for row in rows}
    for title, rows in metric_columns.sections().items()
  }
  # Its update may have been skipped.
  of_update = {f"episodes/{x.name}" for x in dataclasses.fields(GrpoMetrics)}
  assert names["srl, rlvr and episodes"] - of_update <= outcomes
  assert not names["srl and rlvr"] & outcomes
  found = written(whole.workdir) | written(tmp_path / "run") | outcomes
  assert {"srl/validation_value", "srl/suite_exam"} <= found
  matched = {column: explained(column) for column in found}
  assert not [column for column, by in matched.items() if by is None]
  # Only fused update steps leave samples unscored.
  assert patterns() - set(matched.values()) == {"rl/unscored"}


def test_the_file_has_a_line_with_unit_and_meaning_per_column(whole):
  text = (whole.workdir / "metrics.txt").read_text()
  assert text == metric_columns.describe_columns()
  lines = text.splitlines()
  for pattern in patterns():
    name = pattern.partition("/")[2]
    found = [line.split() for line in lines if line.split()[:1] == [name]]
    assert found and all(len(words) > 4 for words in found), name
