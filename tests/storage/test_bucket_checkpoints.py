# SPDX-License-Identifier: Apache-2.0
"""Tests of checkpoints on gs://, on an emulator of buckets."""

from unittest import mock

import jax
import numpy as np
import pytest

from srl_jax import storage
from srl_jax.checkpoint import CheckpointConfig, Checkpointer
from srl_jax.checkpoint.sums import DamagedError

pytest.importorskip("gcsfs")
# What libraries of Google's do is not ours; sockets are closed at the end.
pytestmark = [
  pytest.mark.usefixtures("bucket"),
  pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning"
  ),
]

STATE = {"params": {"w": np.arange(12.0, dtype=np.float32).reshape(3, 4)}}


def device_state():
  return jax.tree.map(jax.numpy.asarray, STATE)


def abstract_state():
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    device_state(),
  )


def save(folder, steps=(1, 2, 3)):
  with Checkpointer(folder, CheckpointConfig(keep=2)) as saver:
    for step in steps:
      saver.save(step, device_state(), {"x": np.arange(3)}, {"at": step})
      saver.save_best(step, device_state()["params"], float(step))
    saver.wait()
    assert saver.best() == (steps[-1], float(steps[-1]))
    return saver.restore_best(abstract_state()["params"])


def test_checkpoints_are_saved_kept_and_restored(folder):
  best = save(folder)
  np.testing.assert_array_equal(best["w"], STATE["params"]["w"])
  with Checkpointer(folder, CheckpointConfig(), read_only=True) as saver:
    assert saver.latest_step() == 3
    state, pool, meta = saver.restore(3, abstract_state())
    np.testing.assert_array_equal(state["params"]["w"], STATE["params"]["w"])
    assert pool["x"].tolist() == [0, 1, 2] and meta == {"at": 3}
    with pytest.raises(ValueError, match="no checkpoint 1; there is: 2, 3"):
      saver.restore(1, abstract_state())


def test_a_step_without_its_commit_file_is_passed_over(folder):
  save(folder)
  [commit] = (folder / "steps" / "3").glob("commit_success*")
  commit.unlink()
  with Checkpointer(folder, CheckpointConfig()) as saver:
    assert saver.latest_step() == 2


def test_a_changed_checkpoint_is_set_aside(folder):
  save(folder)
  parts = storage.list_files(folder / "steps" / "3" / "state")
  largest = max(parts, key=storage.size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(bytes(data))
  with (
    Checkpointer(folder, CheckpointConfig(), read_only=True) as saver,
    pytest.raises(DamagedError, match="changed since it was written"),
  ):
    saver.restore(3, abstract_state())
  # A move that was killed has moved this.
  aside = folder / "damaged" / "steps" / "3"
  (aside / "moved").write_bytes(b"x")
  with Checkpointer(folder, CheckpointConfig()) as saver:
    saver.set_damaged_aside()
    assert saver.latest_step() == 2
  assert (aside / "moved").is_file() and (aside / "state").is_dir()


def test_a_bucket_that_does_not_answer_damages_no_checkpoint(
  folder, monkeypatch
):
  save(folder)
  unreachable = OSError(101, "Network is unreachable")
  for error in (unreachable, TimeoutError(), OSError("Forbidden: no access")):
    monkeypatch.setattr(storage, "checksums", mock.Mock(side_effect=error))
    with Checkpointer(folder, CheckpointConfig()) as saver:
      with pytest.raises(type(error)):
        saver.set_damaged_aside()
      assert saver.latest_step() == 3 and saver.best() == (3, 3.0)
