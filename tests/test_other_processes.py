# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of four processes goes on with two and with one."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import orbax.checkpoint as ocp
import pytest

from srl_jax.checkpoint import pool

ROOT = pathlib.Path(__file__).parents[1]
# Takes batches, pools two samples per branch point and takes the oldest groups
# away, as update steps do. The state has one part per device.
RUN = """
import sys
import jax, jax.numpy as jnp, numpy as np
from srl_jax import sharding
from srl_jax.processes import joining
from srl_jax.checkpoint import CheckpointConfig, Checkpointer
from srl_jax.data.batching import widths
from srl_jax.data.pipeline import make_batches
from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import TrunkConfig, build_trunks
from tests.support.trajectories import sums
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.types import make_branches
from srl_jax.update.groups import Pool, make_groups

workdir, last, *flags = sys.argv[1:]
address, count, index = (flag.partition("=")[2] for flag in flags)
joining.join(address, int(count), int(index))
trunks, _ = build_trunks(
  [sums(1 + i % 5, f"r{i}") for i in range(10)],
  PlainTemplate(), ByteTokenizer(), TrunkConfig(),
)
size = widths(trunks)
stream = make_batches(
  trunks, seed=0, batch_size=4, trunk_width=size.trunk, points=2,
  stem_width=size.stem,
)
mesh = sharding.make_mesh(sharding.MeshConfig())
split = sharding.ShardingRules().spec(("batch",))
split = jax.sharding.NamedSharding(mesh, split)
state = {"w": jax.make_array_from_callback(
  (8,), split, lambda part: np.arange(8, dtype=np.int32)[part]
)}
update = jax.jit(lambda w, ids: 3 * w + ids.sum())
pool = Pool()
with Checkpointer(workdir, CheckpointConfig()) as saver:
  saver.set_damaged_aside()
  first = saver.latest_step() or 0
  if first:
    wanted = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=split)
    state, saved, meta = saver.restore(first, {"w": wanted})
    stream.set_state(meta["data"])
    pool.set_state(saved)
    if jax.process_index() == 0:
      print(f"resumed after {first} with {len(pool)} groups", flush=True)
  for step in range(first, int(last)):
    batch = next(stream)
    ids = (batch.trunks.point_id_NK % 999).astype(np.int32)
    shape = (len(ids), 4)
    reward = (ids[..., None] * np.array([3, 7]) % 5).astype(np.float32)
    branches = make_branches(
      tokens_NRC=np.repeat(ids, 2, axis=1)[..., None] * np.int32([1, 1, 1]),
      stem_length_NR=np.ones(shape, np.int32),
      length_NR=np.full(shape, 3, np.int32),
      sampler_logp_NRC=np.zeros((*shape, 3), np.float32),
      stopped_NR=np.ones(shape, bool),
    )
    # Each scores its share.
    reward = sharding.gather_rows(sharding.own_rows(reward), 4)
    pool.add(make_groups(
      batch.trunks, branches, reward, ids, batch.trunks.is_real_NK,
      update_step=step, round_index=0,
    ))
    taken = pool.take(4)
    state = {"w": update(state["w"], taken.batch.trunks.point_id_NK)}
  data = stream.get_state()
  saver.save(int(last), state, pool.get_state(), {"data": data})
"""


def go(workdir, processes, last):
  """Goes on to an update step, as so many processes; returns what is said."""
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launch.local", f"--processes={processes}"),
      *("--", sys.executable, "-c", RUN, str(workdir), str(last)),
    ],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stdout
  return done.stdout


def read(workdir, step):
  """Returns data stream, state and the bytes of the pool of a checkpoint."""
  folder = workdir / "steps" / str(step)
  meta = json.loads((folder / "meta" / "metadata").read_text())["user"]
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
    state = reader.restore(folder / "state")
  groups = (folder / "pool" / pool.FILE).read_bytes()
  return meta, state["w"].tolist(), groups


@pytest.mark.slow
def test_four_processes_go_on_as_two_and_as_one(tmp_path):
  many, one, lost = (tmp_path / x for x in ("many", "one", "lost"))
  go(many, 4, 2)
  assert "resumed after 2 with " in go(many, 2, 4)
  shutil.copytree(many, lost)
  said = go(many, 1, 5)
  assert "resumed after 4 with " in said and "with 0 groups" not in said
  go(one, 1, 5)
  # Data stream, pool and the state that is computed from both, bit by bit.
  assert read(many, 5) == read(one, 5)
  # What the second host wrote is gone: the checkpoint before counts.
  shutil.rmtree(lost / "steps" / "4" / "state" / "ocdbt.process_1")
  said = go(lost, 1, 5)
  assert "resumed after 2 with " in said
  assert "state/ocdbt.process_1" in said and "it is set aside in" in said
  assert read(lost, 5) == read(one, 5)
