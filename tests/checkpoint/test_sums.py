# SPDX-License-Identifier: Apache-2.0
"""A damaged checkpoint is named, and the one before it is used."""

import errno
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.checkpoint import CheckpointConfig, Checkpointer, sums
from srl_jax.checkpoint.sums import DamagedError

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
SHAPE = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=ONE)


def open_at(path, **options):
  return Checkpointer(path, CheckpointConfig(keep=9), **options)


@pytest.fixture
def saved(tmp_path, monkeypatch):
  """The folder of checkpoints 1 and 2, and the best parameters."""
  # Files are read in many parts, as large ones are.
  monkeypatch.setattr(sums, "_CHUNK_BYTES", 16)
  with open_at(tmp_path) as saver:
    for step in (1, 2):
      state = {"params": {"w": jnp.full(64, float(step))}}
      saver.save(step, state, {"r": np.full(3, step)}, {"step": step})
    saver.save_best(2, {"w": jnp.full(64, 2.0)}, 0.5)
  return tmp_path


def files_of(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


def restore_latest(saver):
  step = saver.latest_step()
  state, pool, meta = saver.restore(step, {"params": {"w": SHAPE}})
  return float(state["params"]["w"][5]), int(pool["r"][0]), meta["step"]


def damages(file, draw):
  """Yields contents that the file may be found with."""
  data = file.read_bytes()
  for _ in range(4):
    place = draw.randrange(len(data))
    flipped = data[place] ^ (1 << draw.randrange(8))
    yield data[:place] + bytes([flipped]) + data[place + 1 :]
  yield data[: len(data) // 2]
  yield b""
  yield None


def test_no_damage_of_any_file_goes_unseen(saved):
  draw = random.Random(0)
  seen = 0
  with open_at(saved, read_only=True) as saver:
    files = files_of(saved / "steps" / "2")
    assert len(files) > 6
    for file in files:
      before = file.read_bytes()
      for damage in damages(file, draw):
        file.unlink() if damage is None else file.write_bytes(damage)
        # A new process has read nothing yet.
        saver._intact.clear()
        try:
          assert restore_latest(saver) == (2.0, 2, 2)
          # Orbax's notes of times.
          assert file.name in ("_CHECKPOINT_METADATA", "commit_success.txt")
        except DamagedError as error:
          seen += 1
          assert f"{saved}/steps/2 is damaged: " in str(error)
        file.write_bytes(before)
    assert seen >= 7 * (len(files) - 3)


def flip(folder):
  """Flips a bit where the arrays are."""
  file = next(path for path in files_of(folder) if path.parent.name == "d")
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)
  return file


def test_a_run_goes_on_from_the_last_intact_checkpoint(saved, capsys):
  file = flip(saved / "steps" / "2")
  with open_at(saved) as saver:
    saver.set_damaged_aside()
    assert restore_latest(saver) == (1.0, 1, 1)
    assert saver.best() == (2, 0.5)
    saver.save(2, {"params": {"w": jnp.full(64, 7.0)}}, {}, {})
  name = file.relative_to(saved / "steps" / "2")
  assert capsys.readouterr().out == (
    f"warning: {saved}/steps/2 is damaged: {name} changed since it was "
    f"written; it is set aside in {saved}/damaged/steps\n"
  )
  assert (saved / "damaged" / "steps" / "2" / name).exists()
  with open_at(saved) as saver:
    saver.set_damaged_aside()
    assert saver.latest_step() == 2
  # The same step may be damaged again.
  flip(saved / "steps" / "2")
  with open_at(saved) as saver:
    saver.set_damaged_aside()
    assert restore_latest(saver) == (1.0, 1, 1)
  assert not (saved / "steps" / "2").exists()


def forget_sums(folder):
  """Makes a checkpoint what versions without checksums wrote."""
  shutil.rmtree(folder / "checksums")
  path = folder / "_CHECKPOINT_METADATA"
  metadata = json.loads(path.read_text())
  del metadata["item_handlers"]["checksums"]
  path.write_text(json.dumps(metadata))


def test_checkpoints_of_before_checksums_are_read_with_one_warning(
  saved, capsys
):
  for name in ("steps/1", "steps/2", "best/1"):
    forget_sums(saved / name)
  for _ in range(2):
    with open_at(saved) as saver:
      saver.set_damaged_aside()
      assert restore_latest(saver) == (2.0, 2, 2)
      assert saver.restore_best({"w": SHAPE})["w"][0] == 2
  [line] = capsys.readouterr().out.splitlines()
  assert line.startswith(f"warning: {saved} has checkpoints of a version of")


def test_a_checkpoint_that_has_lost_its_checksums_is_damaged(saved, capsys):
  shutil.rmtree(saved / "steps" / "2" / "checksums")
  with open_at(saved) as saver:
    saver.set_damaged_aside()
    assert saver.latest_step() == 1
  output = capsys.readouterr().out
  assert "steps/2 is damaged: there is no" in output
  assert "checksums/files.json" in output


def test_damaged_best_parameters_are_set_aside_or_refused(saved, capsys):
  flip(saved / "best" / "1")
  with (
    open_at(saved, read_only=True) as saver,
    pytest.raises(DamagedError, match="best/1 is damaged"),
  ):
    saver.restore_best({"w": SHAPE})
  with open_at(saved) as saver:
    saver.set_damaged_aside()
    assert saver.best() is None and saver.latest_step() == 2
    with pytest.raises(ValueError, match=r"no best parameters yet.*/damaged"):
      saver.restore_best({"w": SHAPE})
  assert "best/1 is damaged" in capsys.readouterr().out


def test_best_parameters_that_were_forgotten_are_not_taken_for_intact(saved):
  with open_at(saved) as saver:
    saver.restore_best({"w": SHAPE})
    saver.forget_best()
    assert saver.best() is None
    saver.save_best(1, {"w": jnp.full(64, 3.0)}, 0.5)
    saver.wait()
    flip(saved / "best" / "1")  # The number of those before.
    with pytest.raises(DamagedError, match="best/1 is damaged"):
      saver.restore_best({"w": SHAPE})


def test_training_does_not_begin_again_where_all_checkpoints_are_damaged(saved):
  for step in (1, 2):
    flip(saved / "steps" / str(step))
  with open_at(saved) as saver:
    with pytest.raises(DamagedError, match=r"no checkpoint in .* is intact"):
      saver.set_damaged_aside()
    assert saver.latest_step() == 2, "nothing was moved"


@pytest.mark.parametrize(
  ("number", "left"),
  [
    *((errno.ESTALE, 2), (errno.EACCES, 2)),
    *((errno.EIO, 1), (errno.EBADMSG, 1)),
  ],
)
def test_only_a_disk_that_has_lost_its_sectors_damages_a_checkpoint(
  number, left, saved, monkeypatch
):
  real = sums._sum

  def read(path):
    if "steps/2" in str(path):
      raise OSError(number, "as told")
    return real(path)

  monkeypatch.setattr(sums, "_sum", read)
  with open_at(saved) as saver:
    if left == 1:
      saver.set_damaged_aside()
    else:
      with pytest.raises(OSError, match="as told"):
        saver.set_damaged_aside()
    assert saver.latest_step() == left
    assert (saved / "damaged").exists() == (left == 1)


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_ends_with_the_same_bits(
  runs, whole, tmp_path, capsys
):
  def cut():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    runs.run(tmp_path, "sft_srl", events={("sft", 7): cut})
  flip(tmp_path / "stages" / "0_sft" / "steps" / "6")
  runs.run(tmp_path, "sft_srl")
  output = capsys.readouterr().out
  assert "steps/6 is damaged" in output
  assert "sft: resuming after update step 4 of 16" in output
  model = "model/model.safetensors"
  ours, theirs = (x / model for x in (tmp_path, whole.workdir))
  assert ours.read_bytes() == theirs.read_bytes()


def test_the_last_step_is_json_also_where_orbax_gives_an_int32(
  tmp_path, monkeypatch
):
  with Checkpointer(tmp_path, CheckpointConfig()) as saver:
    # As with several processes, where the first one tells the others.
    monkeypatch.setattr(saver._steps, "latest_step", lambda: np.int32(3))
    assert json.dumps(saver.latest_step()) == "3"
