# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: nothing lost, nothing changed, on any mesh, killed or not."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from srl_jax.checkpoint import CheckpointConfig, Checkpointer, sums


class Group(NamedTuple):
  tokens: np.ndarray
  rewards: np.ndarray


EIGHT = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def make_state(sharding=ONE, seed=0):
  w = jax.random.normal(jax.random.key(seed), (16, 4))
  params = {"w": w, "b": jnp.arange(8, dtype=jnp.bfloat16)}
  params = jax.device_put(params, sharding)
  optimizer = optax.adamw(1e-3).init(params)
  return {"params": params, "optimizer": optimizer}


def abstract(state, sharding=None):
  def shape(x):
    # Counters are scalars: they cannot be split over eight devices.
    spread = sharding if sharding is not None and x.ndim else x.sharding
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread)

  return jax.tree.map(shape, state)


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def open_at(path, **config):
  return Checkpointer(path, CheckpointConfig(**config))


@pytest.mark.parametrize(("saved", "restored"), [(EIGHT, ONE), (ONE, EIGHT)])
def test_a_state_restores_on_another_mesh(tmp_path, saved, restored):
  state = make_state(saved)
  with open_at(tmp_path) as checkpointer:
    checkpointer.save(1, state, {}, {})
  with open_at(tmp_path) as checkpointer:
    got, _, _ = checkpointer.restore(1, abstract(state, restored))
  assert_same(got, state)
  assert len(state["params"]["w"].sharding.device_set) != len(
    restored.device_set
  )
  assert got["params"]["w"].sharding.is_equivalent_to(restored, 2)


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
  state = {"w": jnp.arange(2.0**20)}
  template = abstract(state)
  add_one = jax.jit(lambda tree: {"w": tree["w"] + 1}, donate_argnums=0)
  with open_at(tmp_path) as checkpointer:
    checkpointer.save(1, state, {}, {})
    for _ in range(5):
      state = add_one(state)
    got, _, _ = checkpointer.restore(1, template)
  np.testing.assert_array_equal(got["w"], np.arange(2.0**20))


def test_a_pool_keeps_its_changing_shapes_and_exact_dtypes(tmp_path):
  empty = [Group(np.zeros((0, 3), np.int32), np.zeros((0,), np.float32))]
  wide = {
    "groups": [
      Group(np.ones((2, 5), np.uint16), np.array([np.nan, -1.0])),
      Group(np.ones((1, 9), bool), np.array(2**63 + 5, np.uint64)),
    ],
    "text": np.array(["é", "longer"]),
  }
  state = make_state()
  with open_at(tmp_path, keep=3) as checkpointer:
    for step, pool in enumerate(([], empty, wide)):
      checkpointer.save(step, state, pool, {})
    pools = [checkpointer.restore(i, abstract(state))[1] for i in range(3)]
  assert pools[0] == []
  # NamedTuples come back as dicts of their fields.
  assert_same([Group(**group) for group in pools[1]], empty)
  pools[2]["groups"] = [Group(**group) for group in pools[2]["groups"]]
  assert pools[2].pop("text").tolist() == wide.pop("text").tolist()
  assert_same(pools[2], wide)


def test_a_pool_is_saved_as_it_was_when_save_was_called(tmp_path):
  state, pool = make_state(), {"rewards": np.zeros(1000)}
  with open_at(tmp_path) as checkpointer:
    checkpointer.save(1, state, pool, {})
    pool["rewards"] += 1
    _, got, _ = checkpointer.restore(1, abstract(state))
  assert not got["rewards"].any()


@pytest.mark.parametrize(
  ("pool", "message"),
  [
    ({"a": [3]}, r"pool\['a'\]\[0\] is a int"),
    ({1: np.zeros(1)}, "pool is a dict"),
    (np.array([None]), "pool is a ndarray"),
  ],
)
def test_a_pool_of_something_else_is_refused(tmp_path, pool, message):
  with open_at(tmp_path) as checkpointer:
    with pytest.raises(ValueError, match=message):
      checkpointer.save(1, make_state(), pool, {})
    # The refusal leaves the checkpointer usable.
    checkpointer.save(1, make_state(), {}, {})
    assert checkpointer.latest_step() == 1


def test_meta_comes_back_exactly(tmp_path):
  meta = {
    "seed": 2**70 + 1,
    "iterator": {"position": [3, None, True], "name": "日本 \x00"},
    "fraction": 0.1 + 0.2,
  }
  state = make_state()
  with open_at(tmp_path) as checkpointer:
    checkpointer.save(1, state, {}, meta)
    assert checkpointer.restore(1, abstract(state))[2] == meta


@pytest.mark.parametrize(
  ("meta", "message"),
  [
    ({"pair": (1, 2)}, "would come back changed"),
    ({1: "a"}, "would come back changed"),
    ({"x": np.int32(3)}, "not JSON: Object of type int32"),
    ({"x": float("nan")}, "not JSON: Out of range"),
  ],
)
def test_meta_that_json_would_change_is_refused(tmp_path, meta, message):
  with (
    open_at(tmp_path) as checkpointer,
    pytest.raises(ValueError, match=message),
  ):
    checkpointer.save(1, make_state(), {}, meta)


def test_only_the_last_checkpoints_are_kept_and_saving_twice_is_harmless(
  tmp_path,
):
  state = make_state()
  with open_at(tmp_path, keep=2) as checkpointer:
    assert checkpointer.latest_step() is None
    for step in (10, 20, 30):
      checkpointer.save(step, state, {}, {"step": step})
    checkpointer.save(30, state, {}, {"step": "again"})
    assert checkpointer.latest_step() == 30
    assert checkpointer.restore(30, abstract(state))[2] == {"step": 30}
    with pytest.raises(ValueError, match="no checkpoint 10; there is: 20, 30"):
      checkpointer.restore(10, abstract(state))


def test_a_state_of_another_model_is_refused_with_the_difference(tmp_path):
  state = make_state()
  with open_at(tmp_path) as checkpointer:
    checkpointer.save(1, state, {}, {})
    checkpointer.save_best(1, state["params"], 0.5)
    other = abstract(state)
    w = other["params"]["w"]
    other["params"]["w"] = jax.ShapeDtypeStruct((32, 4), w.dtype)
    other["params"]["extra"] = w
    message = (
      r"does not fit.* params/extra: saved nothing, this run has"
      r" float32\[16, 4\]; params/w: saved float32\[16, 4\], this run has"
      r" float32\[32, 4\]\. Use the config"
    )
    with pytest.raises(ValueError, match=message):
      checkpointer.restore(1, other)
    with pytest.raises(ValueError, match=message.replace("params/", "")):
      checkpointer.restore_best(other["params"])


def test_a_checkpoint_of_several_processes_of_before_is_read(tmp_path):
  state, pool = make_state(), {"rewards": np.arange(3)}
  with open_at(tmp_path) as checkpointer:
    checkpointer.save(1, state, pool, {"a": 1})
  step = epath.Path(tmp_path / "steps" / "1")
  # Each process wrote the same pool, and how many they were.
  for index in range(1, 4):
    (step / "pool" / "process_0.npz").copy(step / f"pool/process_{index}.npz")
  meta = {"process_count": 4, "user": {"a": 1}}
  (step / "meta" / "metadata").write_text(json.dumps(meta))
  found = json.dumps(sums._sums(step))
  (step / "checksums" / "files.json").write_text(found)
  with open_at(tmp_path) as checkpointer:
    _, got, meta = checkpointer.restore(1, abstract(state))
  assert (got["rewards"].tolist(), meta) == ([0, 1, 2], {"a": 1})


def test_the_best_slot_holds_one_set_of_parameters_beside_the_rest(tmp_path):
  early, late = make_state(seed=1)["params"], make_state(seed=2)["params"]
  with open_at(tmp_path, keep=1) as checkpointer:
    assert checkpointer.best() is None
    with pytest.raises(ValueError, match="no best parameters yet"):
      checkpointer.restore_best(abstract(early))
    checkpointer.save_best(10, early, 0.25)
    assert checkpointer.best() == (10, 0.25)
    checkpointer.save_best(30, late, 0.5)
    for step in (40, 50):
      checkpointer.save(step, make_state(), {}, {})
  with open_at(tmp_path, keep=1) as checkpointer:
    assert checkpointer.best() == (30, 0.5)
    assert checkpointer.latest_step() == 50
    assert_same(checkpointer.restore_best(abstract(late)), late)
    # A better value at an earlier step, as after a resume.
    checkpointer.save_best(20, early, 0.75)
    assert checkpointer.best() == (20, 0.75)
    assert_same(checkpointer.restore_best(abstract(early)), early)


def test_a_checkpoint_is_complete_after_the_best_parameters_before_it(
  tmp_path, monkeypatch
):
  is_released, sums_of = threading.Event(), sums._sums
  at_sums = {"best": threading.Event(), "steps": threading.Event()}

  def stuck(directory):
    slot = directory.parent.name
    at_sums[slot].set()
    assert slot == "steps" or is_released.wait(30)
    return sums_of(directory)

  monkeypatch.setattr(sums, "_sums", stuck)
  with open_at(tmp_path) as checkpointer:
    checkpointer.save_best(1, make_state()["params"], 0.5)
    checkpointer.save(1, make_state(), {}, {})
    # Both are written in the background, and the checkpoint would be first.
    assert at_sums["best"].wait(30) and not at_sums["steps"].wait(1)
    assert not (tmp_path / "steps" / "1").exists()
    is_released.set()
    checkpointer.wait()
    assert (checkpointer.latest_step(), checkpointer.best()) == (1, (1, 0.5))


def test_a_reader_creates_and_removes_nothing(tmp_path):
  state = make_state()
  with open_at(tmp_path, keep=3) as checkpointer:
    for step in (1, 2, 3):
      checkpointer.save(step, state, {}, {})
  unfinished = tmp_path / "steps" / "4.orbax-checkpoint-tmp"
  unfinished.mkdir()
  config = CheckpointConfig(keep=1)
  with Checkpointer(tmp_path, config, read_only=True) as reader:
    assert reader.latest_step() == 3
    assert_same(reader.restore(1, abstract(state))[0], state)
  assert unfinished.exists()
  with open_at(tmp_path) as checkpointer:
    checkpointer.save(5, state, {}, {})
  assert not unfinished.exists()


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_reader_gets_the_best_parameters_that_replace_those_it_reads(
  tmp_path, monkeypatch, when
):
  older, newer = (make_state(seed=seed)["params"] for seed in (1, 2))
  check = sums.check

  def replace(folder=None):
    monkeypatch.setattr(sums, "check", check)
    writer.save_best(2, newer, 0.6)
    writer.wait()
    if folder:  # The files were read, and are gone when the arrays are.
      assert not folder.exists()

  config = CheckpointConfig()
  with open_at(tmp_path) as writer:
    writer.save_best(1, older, 0.5)
    writer.wait()
    with Checkpointer(tmp_path, config, read_only=True) as reader:
      assert reader.best() == (1, 0.5)
      if when == "while":
        monkeypatch.setattr(sums, "check", replace)
      else:
        replace()
      assert_same(reader.restore_best(abstract(newer)), newer)
      assert reader.best() == (2, 0.6)


def test_a_reader_gives_up_when_the_best_parameters_change_all_the_time(
  tmp_path, monkeypatch
):
  params = make_state()["params"]
  steps = iter(range(2, 99))

  def replace(folder):
    writer.save_best(next(steps), params, 0.5)
    writer.wait()

  with open_at(tmp_path) as writer:
    writer.save_best(1, params, 0.5)
    writer.wait()
    monkeypatch.setattr(sums, "check", replace)
    config = CheckpointConfig()
    with (
      Checkpointer(tmp_path, config, read_only=True) as reader,
      pytest.raises(ValueError, match="were replaced 5 times; try again"),
    ):
      reader.restore_best(abstract(params))


def test_checkpoints_are_due_at_multiples_only(tmp_path):
  with open_at(tmp_path, every_update_steps=3) as checkpointer:
    due = [step for step in range(10) if checkpointer.is_due(step)]
  assert due == [3, 6, 9]
  with open_at(tmp_path, every_update_steps=0) as checkpointer:
    assert not any(map(checkpointer.is_due, range(10)))


@pytest.mark.parametrize("config", [{"every_update_steps": -1}, {"keep": 0}])
def test_a_config_that_could_not_resume_is_refused(config):
  with pytest.raises(ValueError, match=r"=(-1|0); set it to"):
    CheckpointConfig(**config)


WRITER = """
  import asyncio, sys
  import jax.numpy as jnp, numpy as np
  from srl_jax import checkpoint
  from srl_jax.checkpoint.pool import ocp_future

  with checkpoint.Checkpointer(
    sys.argv[1], checkpoint.CheckpointConfig()
  ) as checkpointer:
    def save(step):
      state = {"w": jnp.full(1000, step)}
      pool = {"rewards": np.full(step, step)}
      checkpointer.save(step, state, pool, {"step": step})
      checkpointer.save_best(step, state, step)

    save(1)
    checkpointer.wait()

    class Stuck(ocp_future.CommitFutureAwaitingContractedSignals):
      def __init__(self, coroutine, name):
        async def write():
          print("writing", flush=True)
          await asyncio.sleep(3600)
          await coroutine
        super().__init__(write(), name=name)

    ocp_future.CommitFutureAwaitingContractedSignals = Stuck
    save(2)
"""


def test_kill_in_the_middle_of_a_write_leaves_the_last_one_whole(tmp_path):
  # The writer hangs while the pool of step 2 is being written, so that the
  # kill hits the middle of it every time.
  writer = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)],
    stdout=subprocess.PIPE,
    env=os.environ | {"XLA_FLAGS": ""},
  )
  with writer:
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
  left = {path.name for path in (tmp_path / "steps").iterdir()}
  assert len(left) == 2, "step 2 must have been begun"
  with open_at(tmp_path) as checkpointer:
    assert checkpointer.latest_step() == 1
    template = {"w": jax.ShapeDtypeStruct((1000,), jnp.int32, sharding=ONE)}
    state, pool, meta = checkpointer.restore(1, template)
    np.testing.assert_array_equal(state["w"], np.full(1000, 1))
    assert (pool["rewards"].tolist(), meta) == ([1], {"step": 1})
    # Going on works: what was begun is in nobody's way.
    checkpointer.save(2, state, {}, {})
    assert checkpointer.latest_step() == 2
