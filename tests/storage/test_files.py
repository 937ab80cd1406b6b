# SPDX-License-Identifier: Apache-2.0
"""Files on a disk: whole or as they were, and flushed before checkpoints."""

import pathlib

import jax
import pytest

from srl_jax.storage import files, mirror


def test_a_write_that_is_cut_off_leaves_the_file_as_it_was(
  tmp_path, monkeypatch
):
  write = pathlib.Path.write_bytes

  def write_half(path, data):
    write(path, data[: len(data) // 2])
    raise OSError("the disk is full")

  files.write_text(tmp_path / "a.json", "before")
  monkeypatch.setattr(pathlib.Path, "write_bytes", write_half)
  with pytest.raises(OSError, match="the disk is full"):
    files.write_text(tmp_path / "a.json", "after")
  assert (tmp_path / "a.json").read_text() == "before"


def test_of_several_processes_the_first_writes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  files.write_text(tmp_path / "a.json", "text")
  assert not list(tmp_path.iterdir())


def test_what_a_writer_holds_in_memory_is_written_before_a_checkpoint(tmp_path):
  with (tmp_path / "rows").open("a") as file:
    folder = mirror.Mirror(tmp_path, file.flush)
    file.write("row")
    mirror.copy_all()
    assert (tmp_path / "rows").read_text() == "row"
    folder.close()
