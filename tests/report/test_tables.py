# SPDX-License-Identifier: Apache-2.0
"""Tables of estimates as Markdown, CSV and JSON."""

import csv
import io
import json
import math

import pytest

from srl_jax.report import suite_tables
from srl_jax.report.tables import Table

TABLE = Table(
  ("suite", "level"),
  {
    ("a|b", "1"): {"avg@4": (0.5, 0.25, 0.875), "words": (450, 440.5, 470)},
    ("AIME, 24", ""): {"avg@4": (math.nan, math.nan, math.nan)},
  },
  units={"avg@4": "%", "words": "words"},
)


def test_markdown_shows_shares_in_percent():
  assert TABLE.markdown().splitlines() == [
    "| suite | level | avg@4 (%) | words |",
    "| --- | --- | ---: | ---: |",
    r"| a\|b | 1 | 50.0 [25.0, 87.5] | 450.0 [440.5, 470.0] |",
    "| AIME, 24 |  | - | - |",
  ]


def test_csv_has_three_columns_for_each_metric():
  first, second = csv.DictReader(io.StringIO(TABLE.csv()))
  assert first["suite"] == "a|b"
  assert [first[f"avg@4{x}"] for x in ("", " low", " high")] == [
    *("0.5", "0.25", "0.875")
  ]
  assert second["suite"] == "AIME, 24"
  assert second["words low"] == ""


def test_json_has_null_where_there_is_no_number():
  first, second = json.loads(TABLE.json())
  assert first["words"] == {"value": 450, "low": 440.5, "high": 470}
  assert second == {
    "suite": "AIME, 24",
    "level": "",
    "avg@4": {"value": None, "low": None, "high": None},
  }


def test_columns_can_be_chosen():
  units = {"words": ""}
  chosen = Table(TABLE.heads, TABLE.rows, units, metrics=("words",))
  assert chosen.markdown().startswith("| suite | level | words |\n")
  assert "avg@4" not in chosen.csv() + chosen.json()
  with pytest.raises(ValueError, match=r"no row has the metrics \['maj@4'\]"):
    Table(TABLE.heads, TABLE.rows, metrics=("maj@4",))


def test_rows_have_a_name_for_each_heading():
  with pytest.raises(ValueError, match="'AIME' has not one name"):
    Table(("suite",), {"AIME": {}})


def test_a_turned_table_has_a_row_for_each_metric():
  assert TABLE.turned().splitlines() == [
    r"| suite, level | a\|b, 1 | AIME, 24, |",
    "| --- | ---: | ---: |",
    "| avg@4 (%) | 50.0 [25.0, 87.5] | - |",
    "| words | 450.0 [440.5, 470.0] | - |",
  ]


def test_a_page_shows_the_largest_of_each_kind_and_files_show_all():
  metrics = ["greedy", "avg@4", "pass@1", "pass@2", "pass@4", "maj@4"]
  shapes = ["cut", "tokens", "words", "cut, greedy", "tokens, greedy"]
  kept = ["greedy", "avg@4", "pass@4", "maj@4", "cut", "tokens"]
  assert suite_tables.short(metrics + shapes) == kept
  # One sample: pass@1 is avg@1.
  assert suite_tables.short(["avg@1", "pass@1", "cut"]) == ["avg@1", "cut"]
  assert suite_tables.short(["greedy", *shapes[3:]]) == ["greedy", *shapes[3:]]
