# SPDX-License-Identifier: Apache-2.0
"""How many bytes a second go into a checkpoint, on a disk and in a bucket?

  python -m benchmarks.saving --megabytes=512 --folder=/tmp

A spot VM has 30 seconds from SIGTERM to its end. The bucket is an emulator on
this machine, unless --folder is one (gs://BUCKET/FOLDER). Each checkpoint is
restored and compared. A plain write of the same bytes stands beside it. "sums"
is the part of saving in which the first process reads all files again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from srl_jax import storage
from srl_jax.checkpoint import CheckpointConfig, Checkpointer, sums
from srl_jax.testing import buckets

_ARRAY_BYTES = 2**24


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures one folder, or one on this disk and one in an emulated bucket."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.saving")
  parser.add_argument("--megabytes", type=int, default=512)
  parser.add_argument("--folder", help="where; a disk, or gs://BUCKET/FOLDER")
  options = parser.parse_args(arguments)
  state = make_state(options.megabytes * 10**6)
  print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
  print(
    "where                 MB  copied s  saved s   MB/s  plain MB/s  ratio  "
    "sums s"
  )
  if options.folder:
    print(line(options.folder, measure(options.folder, state)))
    return
  with tempfile.TemporaryDirectory() as folder:
    print(line("disk", measure(folder, state)))
  with buckets.emulated("srl-saving"):
    print(line("emulated bucket", measure("gs://srl-saving", state)))


def make_state(size: int) -> dict[str, jax.Array]:
  """Returns arrays of `size` bytes that cannot be compressed."""
  count = max(1, size // _ARRAY_BYTES)
  keys = jax.random.split(jax.random.key(0), count)
  shape = (size // count // 4,)
  return {
    f"w{i}": jax.random.normal(key, shape, jnp.float32)
    for i, key in enumerate(keys)
  }


def measure(folder: str, state: dict[str, jax.Array]) -> dict[str, float]:
  """Saves a state and the same bytes plainly; returns bytes and seconds.

  Raises:
    AssertionError: what is restored is not what was saved.
  """
  path = epath.Path(storage.path(folder)) / f"saving-{uuid.uuid4().hex[:8]}"
  jax.block_until_ready(state)
  with Checkpointer(path, CheckpointConfig()) as saver:
    begin_s = time.monotonic()
    saver.save(1, state, {}, {})
    copied_s = time.monotonic() - begin_s
    saver.wait()
    saved_s = time.monotonic() - begin_s
    wanted = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    begin_s = time.monotonic()
    sums.check(path / "steps" / "1")
    sums_s = time.monotonic() - begin_s
    restored, _, _ = saver.restore(1, wanted)
  for name, x in state.items():
    np.testing.assert_array_equal(x, restored[name])
  data = b"".join(np.asarray(x).tobytes() for x in state.values())
  begin_s = time.monotonic()
  (path / "plain").write_bytes(data)
  if not storage.is_remote(path):
    with (path / "plain").open("rb") as file:
      os.fsync(file.fileno())
  plain_s = time.monotonic() - begin_s
  path.rmtree()
  return {
    "bytes": len(data),
    "copied_s": copied_s,
    "saved_s": saved_s,
    "plain_s": plain_s,
    "sums_s": sums_s,
  }


def line(where: str, measured: dict[str, float]) -> str:
  """Returns a row of the table."""
  megabytes = measured["bytes"] / 1e6
  rate = megabytes / measured["saved_s"]
  plain = megabytes / measured["plain_s"]
  return (
    f"{where:16} {megabytes:7.0f}  {measured['copied_s']:8.2f}  "
    f"{measured['saved_s']:7.2f}  {rate:5.0f}  {plain:10.0f}  "
    f"{rate / plain:5.2f}  {measured['sums_s']:6.2f}"
  )


if __name__ == "__main__":
  main()
