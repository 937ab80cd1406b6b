# SPDX-License-Identifier: Apache-2.0
"""What lies in the folder of prepared data while they are written, and after.

tests/storage/test_bucket.py writes them to a bucket.
"""

import errno
import json

import pytest

from srl_jax.data import folders, prepare, readers, tfds_builders, writing
from srl_jax.data.readers import DataConfig
from srl_jax.data.schema import to_json
from tests.support.trajectories import sums

DATA = [sums(1 + i % 4, f"s{i}") for i in range(12)]
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "data.jsonl"
  lines = [json.dumps(to_json(t)) for t in DATA]
  path.write_text("\n".join([*lines, "not json"]), "utf-8")
  return path


def run(path, out, *args):
  prepare.main(
    ["--data.format=jsonl", f"--data.path={path}", f"--out={out}", *args]
  )


def test_a_full_disk_leaves_no_part_of_the_data(tmp_path, path, monkeypatch):
  out, flags = tmp_path / "out", ("--as=jsonl", "--data.valid_size=2")
  written = []

  def to_json_until_full(trajectory):
    # A command that is killed here leaves nothing that reads as data.
    with pytest.raises(ValueError, match="holds none of train"):
      folders.parts_of(out)
    written.append(trajectory)
    if len(written) == 12:
      raise FULL
    return to_json(trajectory)

  monkeypatch.setattr(writing.schema, "to_json", to_json_until_full)
  with pytest.raises(SystemExit, match=r"disk is full .* which begins anew$"):
    run(path, out, *flags)
  assert len(written) == 12 and not list(out.iterdir())
  monkeypatch.undo()
  run(path, out, *flags)
  names = {"train.jsonl", "valid.jsonl", "rejects.jsonl"}
  assert {x.name for x in out.iterdir()} == names


def test_a_disk_that_is_full_for_tfds_is_said_in_one_line(
  tmp_path, path, monkeypatch
):
  out = tmp_path / "out"

  def fail(*_):
    raise RuntimeError(said)

  monkeypatch.setattr(tfds_builders, "write", fail)
  said = "Failed to finalize: No space left on device; at byte 7"
  with pytest.raises(SystemExit, match=r"disk is full .* begins anew$"):
    run(path, out)
  assert not list(out.iterdir())
  said = "another mistake"
  with pytest.raises(RuntimeError, match="another mistake"):
    run(path, out)


def test_what_a_killed_command_left_is_not_read_and_goes(tmp_path, path):
  out = tmp_path / "out"
  left = out / f"{writing._UNFINISHED}x"
  tfds_builders.write({"train": DATA[:3]}, left, "left behind")
  with pytest.raises(ValueError, match="holds 0 TFDS datasets"):
    readers.load_trajectories(DataConfig("tfds", str(out)))
  run(path, out)
  assert not left.exists()
  again = readers.load_trajectories(DataConfig("tfds", str(out)))
  assert len(again.trajectories) == 12


def test_two_commands_do_not_write_to_a_folder_at_a_time(tmp_path, path):
  out = tmp_path / "out"
  with writing._unfinished(out) as new:
    with pytest.raises(SystemExit, match=r"another command .* wait for its"):
      run(path, out, "--as=jsonl")
    assert list(out.iterdir()) == [new]
  run(path, out, "--as=jsonl")


@pytest.mark.parametrize(
  ("form", "name"),
  [
    ("tfds", "expert_trajectories"),
    ("tfds", "rejects.jsonl"),
    ("jsonl", "valid.jsonl"),
    ("jsonl", "train.jsonl"),
    ("jsonl", "rejects.jsonl"),
  ],
)
def test_a_folder_of_other_data_is_refused_before_any_work(
  tmp_path, form, name
):
  out = tmp_path / "out"
  (out / name).mkdir(parents=True)
  with pytest.raises(SystemExit, match=f"out/{name} exists already; remove it"):
    run("nowhere.jsonl", out, f"--as={form}")


def test_a_file_is_no_folder_to_write_to(tmp_path, path):
  with pytest.raises(SystemExit, match="is a file; give a folder"):
    run(path, path)
