# SPDX-License-Identifier: Apache-2.0
"""Compressed files are read whatever their names; what is not read is named."""

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from srl_jax.data import sources
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.trajectory import RecordError

RECORDS = [
  {"problem": f"{n} + 1?", "steps": [f"It is {n + 1}."]} for n in range(40)
]
TEXT = "".join(json.dumps(record) + "\n" for record in RECORDS)


def by_arrow(codec):
  def compress(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, codec) as stream:
      stream.write(content)
    return sink.getvalue().to_pybytes()

  return compress


COMPRESS = {
  "gz": gzip.compress,
  "bz2": bz2.compress,
  "xz": lzma.compress,
  "zst": by_arrow("zstd"),
  "lz4": by_arrow("lz4"),
}


def problems(path):
  report = load_trajectories(DataConfig("jsonl", str(path)))
  assert not report.rejects
  return [t.problem for t in report.trajectories]


def refusal(path, content):
  path.write_bytes(content)
  with pytest.raises(ValueError) as caught:
    load_trajectories(DataConfig("jsonl", str(path)))
  return str(caught.value)


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS.keys())
@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.dat"])
def test_compression_is_recognised_by_the_content(tmp_path, name, compress):
  (tmp_path / name).write_bytes(compress(TEXT.encode()))
  assert problems(tmp_path / name) == [r["problem"] for r in RECORDS]


def test_a_file_that_is_named_as_compressed_and_is_not_is_read(tmp_path):
  (tmp_path / "d.jsonl.gz").write_text(TEXT)
  assert len(problems(tmp_path / "d.jsonl.gz")) == len(RECORDS)


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS.keys())
def test_files_that_were_joined_or_compressed_twice_are_read(
  tmp_path, compress
):
  packed = compress(TEXT.encode())
  (tmp_path / "joined").write_bytes(packed + packed)
  assert len(problems(tmp_path / "joined")) == 2 * len(RECORDS)
  (tmp_path / "twice").write_bytes(gzip.compress(packed))
  assert len(problems(tmp_path / "twice")) == len(RECORDS)


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS.keys())
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path, compress):
  packed, path = compress(TEXT.encode()), tmp_path / "d.jsonl"
  for end in (len(packed) // 2, len(packed) - 3):
    said = refusal(path, packed[:end])
    assert said.startswith(f"{path} is cut off or damaged (")
    assert said.endswith("copy or write it again")


def test_a_table_that_is_cut_off_is_named(tmp_path):
  path, whole = tmp_path / "d.parquet", io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), whole)
  said = refusal(path, whole.getvalue()[:-100])
  assert said.startswith(f"{path} is cut off or damaged (")


def test_a_compressed_table_is_read(tmp_path):
  whole = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), whole)
  for name in ("gz", "zst"):
    (tmp_path / name).write_bytes(COMPRESS[name](whole.getvalue()))
    assert len(problems(tmp_path / name)) == len(RECORDS)


def test_what_cannot_be_opened_is_named(tmp_path):
  with pytest.raises(ValueError, match="cannot be read: Is a directory; check"):
    list(sources.rows(tmp_path))


ENCODINGS = {
  "utf-16": "UTF-16",
  "utf-16-le": "UTF-16LE",
  "utf-16-be": "UTF-16BE",
  "utf-32": "UTF-32",
  "utf-32-le": "UTF-32LE",
  "utf-32-be": "UTF-32BE",
}


@pytest.mark.parametrize(("codec", "name"), ENCODINGS.items())
def test_another_encoding_is_named_with_what_to_type(tmp_path, codec, name):
  path, new = tmp_path / "d.jsonl", tmp_path / "utf8-d.jsonl"
  said = (
    f"{path} is {name} text; only UTF-8 is read; type: iconv -f {name} -t UTF-8"
    f" {path} > {new} and give that file"
  )
  assert refusal(path, TEXT.encode(codec)) == said
  packed = gzip.compress(TEXT.encode(codec))
  assert refusal(path, packed) == f"{said}; unpack it before"


def test_a_mark_of_utf8_is_no_part_of_the_text(tmp_path):
  for text in (TEXT, json.dumps(RECORDS)):
    (tmp_path / "d").write_text(text, encoding="utf-8-sig")
    assert len(problems(tmp_path / "d")) == len(RECORDS)


def archive(kind):
  packed = io.BytesIO()
  if kind == "zip":
    with zipfile.ZipFile(packed, "w") as file:
      # Of 1980: some times of today have a quotation mark in their bytes.
      file.writestr(zipfile.ZipInfo("d.jsonl"), TEXT)
  else:
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
      file.addfile(tarfile.TarInfo("d.jsonl"))
  return packed.getvalue()


@pytest.mark.parametrize(
  ("content", "begins"),
  [
    (archive("zip"), r"b'PK\\x03\\x04"),
    (archive("tar"), r"b'd\.jsonl\\x00"),
    (b"SQLite format 3\0" + TEXT.encode(), "b'SQLite format 3"),
    (b"\x83\xafp\xd1\r\x88J?" + bytes(56), r"b'\\x83\\xafp"),
    (b"\n<!doctype html>\n<html>", "b'<!doctype html>"),
    (b"problem,answer\n1+1?,2\n", "b'problem,answer"),
    (b"problem,answer\n$\\frac{1}{2}$?,0.5\n", "b'problem,answer"),
    (gzip.compress(b"problem,answer\n1+1?,2\n", mtime=0), "b'problem,answer"),
  ],
  # Without names, they would hold the time at which gzip packed them.
  ids=[
    "zip",
    "tar",
    "sqlite",
    "array-record",
    "html",
    "csv",
    "csv-tex",
    "csv-gz",
  ],
)
def test_what_holds_no_records_is_named_with_what_to_do(
  tmp_path, content, begins
):
  path = tmp_path / "d.jsonl"
  said = refusal(path, content)
  assert re.match(f"{path} begins with {begins}.* and is neither JSON", said)
  assert "unpack an archive (unzip, tar -xf)" in said
  assert "CSV by pandas.read_csv(path, dtype=str).to_json(" in said


def test_a_pointer_of_git_lfs_is_named_with_what_fetches_the_data(tmp_path):
  pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0{\n"
  assert refusal(tmp_path / "d.jsonl", pointer) == (
    f"{tmp_path}/d.jsonl is a Git LFS pointer and not the data; type: git lfs"
    " pull"
  )


LONG = 'of a: {"' + 600 * "x" + "}\n"  # Longer than what is looked at.


@pytest.mark.parametrize("first", ["", "cut off}\n", "{\0}\n", LONG])
def test_a_first_line_that_is_no_record_costs_no_other(tmp_path, first):
  path = tmp_path / "d.csv"
  path.write_text(first + TEXT)
  rows = list(sources.rows(path))
  assert len(rows) == len(RECORDS) + bool(first)


def test_one_object_over_many_lines_is_one_record(tmp_path):
  path = tmp_path / "d.json"
  good = json.dumps(RECORDS[0], indent=2)
  path.write_text(good, "utf-8")
  assert len(list(sources.rows(path))) == 1
  path.write_text(good[:-3], "utf-8")
  [row] = sources.rows(path)
  with pytest.raises(RecordError, match="is not JSON"):
    row.decode(row.raw)
  # Lines after a bad one are still read line by line.
  path.write_text("{\n" + json.dumps(RECORDS[0]), "utf-8")
  assert [row.number for row in sources.rows(path)] == [1, 2]
