# SPDX-License-Identifier: Apache-2.0
"""One bad piece of JSON text costs no other, in lines and in documents."""

import contextlib
import json
import time

import pytest

from srl_jax.data import records, texts
from srl_jax.data.readers import DataConfig, load_trajectories

GOOD = [
  json.dumps({"problem": f"{n} + 1?", "steps": ["a", "b"]}).encode()
  for n in range(6)
]


def record(**fields):
  """A good record with some fields of raw JSON text."""
  fields = {"problem": '"p"', "steps": '["s"]', **fields}
  inside = ", ".join(f'"{key}": {value}' for key, value in fields.items())
  return f"{{{inside}}}".encode()


def nested(depth, opening="[", closing="]"):
  return opening * depth + closing * depth


BAD = {
  "lists that never close": (
    record(steps="[" * 100_000)[:-1],
    "(line)",
    "is nested too deeply",
  ),
  "deep lists": (record(steps=nested(100_000)), "(line)", "too deeply"),
  "deep objects": (
    record(metadata='{"a":' * 50_000 + "1" + "}" * 50_000),
    "(line)",
    "is nested too deeply",
  ),
  "lists that Python just reads": (
    record(steps=nested(900)),
    "steps[0]",
    "is a list",
  ),
  "objects that Python just reads": (
    record(more='{"a":' * 900 + "1" + "}" * 900),
    "more",
    "is unknown",
  ),
  "huge integer": (record(answer="7" * 5000), "(line)", "4300 digits"),
  "large integer": (record(answer="7" * 4000), "answer", "777... (a number)"),
  "float out of range": (record(answer="1e999"), "answer", "inf (a number)"),
  "infinity": (record(answer="-Infinity"), "answer", "-inf (a number)"),
  "half a surrogate pair": (record(problem='"\\ud800"'), "problem", "half a"),
  "half a pair in a key": (record(**{"\\udfff": "1"}), "\\udfff", "unknown"),
  "half a pair in metadata": (
    record(metadata='{"a": "\\ud800"}'),
    "metadata.a",
    "half a surrogate pair",
  ),
  "half a pair in a metadata key": (
    record(metadata='{"\\ud800": "a"}'),
    "metadata",
    "half a surrogate pair",
  ),
  "key given twice": (
    b'{"problem": "p", "steps": ["a"], "problem": "q"}',
    "problem",
    "is there twice",
  ),
  "key given twice inside": (
    record(steps='[{"text": "a", "text": "b"}]'),
    "text",
    "is there twice",
  ),
  "NUL byte": (record(problem='"\0"'), "(line)", "Invalid control character"),
  "block of NUL bytes": (bytes(4096), "(line)", "is not JSON"),
  "Latin-1": (
    record(problem='"caf\xe9"').decode("utf-8").encode("latin-1"),
    "(line)",
    "type: iconv -f WINDOWS-1252 -t UTF-8",
  ),
  "no text at all": (b"\x81\x8d\xff\xfe", "(line)", "is not UTF-8 at byte 0"),
  "long key": (record(**{"k" * 10**6: "1"}), "k" * 500, "is unknown"),
}


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize(("line", "field", "words"), BAD.values(), ids=BAD)
def test_a_bad_line_costs_no_other(tmp_path, line, field, words, place):
  path = tmp_path / "d.jsonl"
  path.write_bytes(b"\n".join([*GOOD[:place], line, *GOOD[place:]]))
  report = load_trajectories(DataConfig("jsonl", str(path)))
  assert len(report.trajectories) == 6
  [reject] = report.rejects
  assert reject.line == place + 1
  assert reject.field.startswith(field) and words in reject.reason
  # What is printed and written must be text that can be encoded.
  assert len(str(reject).encode("utf-8")) < 3000
  records.write_rejects(report.rejects, tmp_path / "rejects.jsonl")


def test_a_long_line_is_refused_without_being_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(texts, "MAX_LINE_BYTES", 2000)
  lines = [GOOD[0], record(problem=f'"{"x" * 5000}"'), GOOD[1]]
  (tmp_path / "d.jsonl").write_bytes(b"\n".join(lines))
  report = load_trajectories(DataConfig("jsonl", str(tmp_path / "d.jsonl")))
  assert [t.id for t in report.trajectories] == ["d-1", "d-3"]
  [reject] = report.rejects
  assert "is longer than" in reject.reason and len(reject.record) == 1000


def load(path, content):
  path.write_bytes(content)
  return load_trajectories(DataConfig("jsonl", str(path)))


DOCUMENTS = {
  "list in one line": b"[" + b",".join(GOOD) + b"]",
  "list of lines": b"[\n" + b",\n".join(GOOD) + b"\n]\n",
  "list with indents": json.dumps(
    list(map(json.loads, GOOD)), indent=2
  ).encode(),
  "objects over several lines": b"\n".join(
    json.dumps(json.loads(line), indent=1).encode() for line in GOOD
  ),
  "carriage returns": b"\r".join(GOOD),
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_records_of_a_document_are_read_as_lines_are(tmp_path, text):
  found = load(tmp_path / "d.json", text)
  assert found.splits == load(tmp_path / "d.jsonl", b"\n".join(GOOD)).splits


@pytest.mark.parametrize(
  "bad",
  [nested(100_000), "7" * 5000, '{"a": "\\ud800"}', '"]"', '"\\"}"', "true"],
)
def test_a_bad_element_of_a_list_costs_no_other(tmp_path, bad):
  text = b"[" + b", ".join([*GOOD[:2], bad.encode(), *GOOD[2:]]) + b"]"
  report = load(tmp_path / "d.json", text)
  assert [t.id for t in report.trajectories] == [
    f"d-{n}" for n in (1, 2, 4, 5, 6, 7)
  ]
  assert [reject.line for reject in report.rejects] == [3]


@pytest.mark.parametrize(
  "text",
  [
    b"[\n" + b",\n".join(GOOD),
    b"[" + b",\n".join(GOOD) + b"}",
    json.dumps(list(map(json.loads, GOOD)), indent=2).encode()[:-20],
    json.dumps(list(map(json.loads, GOOD))).encode()[:-20],
  ],
)
def test_a_list_that_is_cut_off_is_an_error(tmp_path, text):
  with pytest.raises(
    ValueError, match=r"d.json begins as a JSON list, and its"
  ):
    load(tmp_path / "d.json", text)


@pytest.mark.parametrize("indent", [None, 2])
def test_records_inside_an_object_are_refused_by_the_name_they_have_there(
  tmp_path, indent
):
  text = json.dumps({"data": list(map(json.loads, GOOD))}, indent=indent)
  with pytest.raises(ValueError, match="'data': is unknown"):
    load(tmp_path / "d.json", text.encode())


@pytest.mark.parametrize("text", ["[", '"', '\\"', '"\\', "[1,", "]", "a", ","])
def test_the_time_to_find_records_is_linear(tmp_path, text):
  # 1 MB takes 0.1 s; it would be minutes if each sign were tried with all.
  content = b"[" + text.encode() * (1_000_000 // len(text))
  start = time.thread_time()
  with contextlib.suppress(ValueError):
    texts.document(content, tmp_path)
  assert time.thread_time() - start < 10
