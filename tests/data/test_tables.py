# SPDX-License-Identifier: Apache-2.0
"""Tables are read as other libraries write them; a bad row costs no other."""

import datetime
import decimal
import json
import tracemalloc

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from srl_jax.data import tables
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.trajectory import Step

RECORDS = [
  {
    "id": f"r{n}",
    "problem": f"{n} + 1?",
    "steps": [{"text": "Add."}, {"text": f"{n + 1}", "title": "Say"}],
    "answer": f"{n + 1}",
    "metadata": {"odd" if n % 2 else "even": "yes"},
  }
  for n in range(6)
]


def write_stream(table, path):
  with pa.ipc.new_stream(str(path), table.schema) as writer:
    writer.write_table(table)


WRITERS = {
  "parquet": pa.parquet.write_table,
  "feather": pa.feather.write_feather,
  "stream": write_stream,
}


@pytest.fixture(params=WRITERS.values(), ids=WRITERS.keys())
def load(request, tmp_path):
  """Writes a table, in each form that can hold it, and loads it."""

  def run(table):
    path = tmp_path / "d.table"
    try:
      request.param(table, path)
    except pa.ArrowNotImplementedError as error:
      pytest.skip(f"there is no such file: {error}")
    return load_trajectories(DataConfig("jsonl", str(path)))

  return run


def table_of(steps=None, **columns):
  """A table of three records; `columns` replace what they hold."""
  steps = [["a"], ["b"], ["c"]] if steps is None else steps
  return pa.table({"problem": ["p", "q", "r"], "steps": steps, **columns})


def good(report):
  return [(t.problem, t.steps[0].text) for t in report.trajectories]


ALL = [("p", "a"), ("q", "b"), ("r", "c")]


def test_keys_that_other_rows_have_are_absent(load, tmp_path):
  report = load(pa.Table.from_pylist(RECORDS))
  path = tmp_path / "d.jsonl"
  path.write_text("\n".join(map(json.dumps, RECORDS)))
  assert not report.rejects
  assert (
    report.splits == load_trajectories(DataConfig("jsonl", str(path))).splits
  )
  assert report.trajectories[1].metadata == {"odd": "yes"}
  assert report.trajectories[1].steps[0] == Step("Add.")


def test_a_bad_row_leaves_nulls_in_others_that_are_absent(load):
  rows = [dict(record) for record in RECORDS]
  rows[2]["stpes"] = ["misspelt"]
  rows[4]["steps"] = [{"text": "a", "txet": "b"}]
  report = load(
    pa.Table.from_pylist(
      rows,
      pa.Table.from_pylist([{**rows[2], "steps": rows[4]["steps"]}]).schema,
    )
  )
  assert [t.id for t in report.trajectories] == ["r0", "r1", "r3", "r5"]
  assert [(r.line, r.field) for r in report.rejects] == [
    (3, "stpes"),
    (5, "steps[0].txet"),
  ]


STRINGS = {
  "large strings": pa.large_string(),
  "string views": pa.string_view(),
  "dictionary": pa.dictionary(pa.int32(), pa.string()),
  "bytes": pa.binary(),
  "large bytes": pa.large_binary(),
  "dictionary of bytes": pa.dictionary(pa.int8(), pa.binary()),
}


@pytest.mark.parametrize("kind", STRINGS.values(), ids=STRINGS.keys())
def test_strings_of_all_types_are_read(load, kind):
  texts = pa.array(["x", None, "ü"], kind)
  report = load(table_of(answer=texts))
  assert not report.rejects
  assert [t.answer for t in report.trajectories] == ["x", None, "ü"]


LISTS = {
  "large lists": pa.large_list(pa.large_string()),
  "lists of one length": pa.list_(pa.string(), 1),
  "lists of bytes": pa.list_(pa.binary()),
  "list views": pa.list_view(pa.string()),
  "large list views": pa.large_list_view(pa.string()),
}


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS.keys())
def test_lists_of_all_types_are_read(load, kind):
  report = load(table_of(pa.array([["a"], ["b"], ["c"]], kind)))
  assert not report.rejects and good(report) == ALL


def test_objects_of_bytes_are_objects_of_strings(load):
  step = pa.struct({"text": pa.binary(), "title": pa.large_binary()})
  steps = [[{"text": text, "title": b"T"}] for text in (b"a", b"b", b"c")]
  report = load(table_of(pa.array(steps, pa.list_(step))))
  assert good(report) == ALL and not report.rejects
  assert report.trajectories[0].steps[0].title == "T"


def test_nulls_after_the_last_step_are_absent_and_between_steps_refused(load):
  steps = [["a", "b", None], ["b", None, None], ["c", None, "d"]]
  report = load(table_of(pa.array(steps, pa.list_(pa.string(), 3))))
  assert [len(t.steps) for t in report.trajectories] == [2, 1]
  [reject] = report.rejects
  assert (reject.line, reject.field) == (3, "steps[1]")
  assert "is null between other steps" in reject.reason


def test_what_stands_for_absent_texts_is_absent(load):
  nothing = {
    "nulls": pa.nulls(3),
    "strings": pa.array([None, None, None], pa.string()),
    "NaN": pa.array([float("nan")] * 3),
  }
  for column in nothing.values():
    report = load(table_of(answer=column, domain=column, metadata=column))
    assert good(report) == ALL and not report.rejects
    assert {(t.answer, t.domain) for t in report.trajectories} == {
      (None, "general")
    }


def test_indices_of_rows_are_no_fields(load):
  index = pa.array([7, 8, 9])
  names = ("__index_level_0__", "__null_dask_index__", "Unnamed: 0")
  report = load(table_of(**dict.fromkeys(names, index)))
  assert good(report) == ALL and not report.rejects


def test_an_unknown_column_costs_the_rows_that_fill_it(load):
  report = load(table_of(index=pa.array([None, 8, 9])))
  assert good(report) == ALL[:1]
  assert {r.field for r in report.rejects} == {"index"}


def test_maps_and_their_json_text_are_objects(load):
  kinds = (
    pa.array([[("k", "v")], [], None], pa.map_(pa.string(), pa.string())),
    pa.array([[(b"k", b"v")], [], None], pa.map_(pa.binary(), pa.binary())),
    pa.array(['{"k": "v"}', "{}", None]),
    pa.array([{"k": "v"}, None, {"k": None}]),
  )
  for metadata in kinds:
    report = load(table_of(metadata=metadata))
    assert not report.rejects
    assert [t.metadata for t in report.trajectories] == [{"k": "v"}, {}, {}]


@pytest.mark.parametrize(
  "metadata",
  [
    pa.array([[(1, "v")], [], None], pa.map_(pa.int64(), pa.string())),
    pa.array(
      [[("k", "v"), ("k", "w")], [], []], pa.map_(pa.string(), pa.string())
    ),
    pa.array(["no JSON", "{}", "{}"]),
    pa.array([{"k": 1.0}, {"k": float("nan")}, None]),
  ],
)
def test_metadata_that_is_no_object_of_strings_costs_its_row(load, metadata):
  report = load(table_of(metadata=metadata))
  assert report.rejects[0].line == 1
  assert report.rejects[0].field.startswith("metadata")
  assert ("q", "b") in good(report)


def test_steps_may_be_an_object_of_lists_or_json_text(load):
  columns = [
    {"text": ["a", "x"], "title": ["T", None]},
    {"text": ["b"], "title": [None]},
    {"text": ["c"], "title": ["U"]},
  ]
  report = load(table_of(pa.array(columns)))
  assert good(report) == ALL and not report.rejects
  assert report.trajectories[0].steps == (Step("a", title="T"), Step("x"))
  text = [json.dumps([{"text": letter}]) for letter in "abc"]
  assert good(load(table_of(text))) == ALL
  uneven = [{"text": ["a", "b"], "title": ["T"]}, *columns[1:]]
  assert [r.field for r in load(table_of(pa.array(uneven))).rejects] == [
    "steps"
  ]


WRONG = {
  "decimal": (pa.array([decimal.Decimal("1.50")]), "is Decimal"),
  "time": (pa.array([datetime.datetime(2020, 1, 1)]), "is datetime"),
  "time out of Python's range": (
    pa.array([2**62], pa.timestamp("us")),
    "is Unreadable",
  ),
  "nanoseconds": (pa.array([1], pa.timestamp("ns")), "write it as a string"),
  "integer": (pa.array([7]), "is 7 (a number)"),
  "float": (pa.array([7.0]), "is 7.0 (a number)"),
  "boolean": (pa.array([True]), "is true (a boolean)"),
  "bytes of no text": (pa.array([b"\xff"]), "is bytes that are no UTF-8"),
  "list": (pa.array([["7"]]), "is a list"),
}


@pytest.mark.parametrize(("value", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_value_that_is_no_text_costs_its_row_only(load, value, words):
  column = pa.concat_arrays(
    [pa.nulls(1, value.type), value, pa.nulls(1, value.type)]
  )
  report = load(table_of(answer=column))
  assert good(report) == [ALL[0], ALL[2]]
  [reject] = report.rejects
  assert (reject.line, reject.field) == (2, "answer")
  assert words in reject.reason


def test_few_rows_are_in_memory_at_a_time(tmp_path):
  path = tmp_path / "d.parquet"
  table = pa.table({"problem": [f"{n:08}" * 1000 for n in range(2000)]})
  pa.parquet.write_table(table, path, row_group_size=100)
  tracemalloc.start()
  with path.open("rb") as file:
    assert sum(1 for _ in tables.rows(file, "Parquet")) == 2000
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  # All of them are 16 MB.
  assert peak < 8e6
