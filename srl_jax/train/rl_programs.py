# SPDX-License-Identifier: Apache-2.0
"""The programs of rl_update.py, not yet run.

memory.py compiles them and says what memory they take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.rollout.rounds import QUEUED_PARTS
from srl_jax.sharding import abstract
from srl_jax.train import memory
from srl_jax.train.memory import DoesNotFitError, Program, bytes_per_device
from srl_jax.train.rl_setup import RlSetup
from srl_jax.train.shared_rounds import SharedRounds
from srl_jax.update import groups as groups_lib
from srl_jax.update.packing import PackShape, pack


def programs(setup: RlSetup, shared: SharedRounds | None) -> Iterator[Program]:
  """Yields the programs of sampling, of the reward and of the update.

  If one does not fit, those that read its results are left out.

  Args:
    setup: what the update steps are made of.
    shared: samples rounds in shared slots; None if each is sampled alone.
  """
  run, updater = setup.run, setup.updater
  state = updater.abstract_state()
  reference = state.trained if setup.config.loss.uses_reference else None
  beside_bytes = bytes_per_device((state.opt_state, reference))
  trunks, key = _part(setup)
  with jax.set_mesh(run.mesh):
    prefilled = jax.eval_shape(setup.sampler.prefill, state.params, trunks)
    branches, _ = jax.eval_shape(setup.sampler.decode, prefilled, trunks, key)
  if shared:
    yield from _shared(setup, shared, branches, state.params, beside_bytes)
  else:
    yield from _rollout(setup, state.params, beside_bytes)
  yield from memory.update_programs(
    updater,
    [_micro_batch(setup, branches, shape) for shape in setup.update_shapes],
    mesh=run.mesh,
    name=setup.name,
    rows_multiple=sharding.batch_devices(run.mesh, run.rules),
    narrower="trunks.points_per_trunk",
    has_reference=setup.config.loss.uses_reference,
  )


def _part(setup: RlSetup) -> tuple[Any, Any]:
  """Abstract trunks of one part of a round, and a random key."""
  sampling = setup.config.sampling
  rows = sampling.trunks_per_round // sampling.parts_per_round
  return setup.abstract_trunks(rows), setup.abstract_key()


def _micro_batch(setup: RlSetup, branches: Any, shape: PackShape) -> Any:
  """A micro-batch as `pack` makes it of no groups, abstract."""
  none = jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), branches)
  points, samples = setup.data.widths.points, setup.config.sampling.samples
  groups = groups_lib.make_groups(
    setup.data.empty_batch().trunks,
    none,
    np.zeros((0, points, samples), np.float32),
    np.zeros((0, points), np.int32),
    np.zeros((0, points), bool),
    update_step=0,
    round_index=0,
  )
  [batch] = pack(
    groups,
    shape,
    update_step=0,
    divide_by_std=setup.config.loss.divide_by_group_std,
  )
  return abstract.batch(batch, shape.rows, setup.run.mesh, setup.run.rules)


def _shared(
  setup: RlSetup, shared: SharedRounds, branches: Any, params: Any, beside: int
) -> Iterator[Program]:
  """Sampling in shared slots, and the reward of a round."""
  with contextlib.suppress(DoesNotFitError):
    rows_bytes = yield from shared.plan(params, beside)
    if setup.device_scorer:
      rows, run = len(branches.length_NR), setup.run
      placed = abstract.batch(branches, rows, run.mesh, run.rollout_rules)
      # The rows of the decoder stay in memory.
      at_rest = beside + bytes_per_device(params) + rows_bytes
      yield _reward(setup, placed, at_rest)


def _rollout(setup: RlSetup, params: Any, beside: int) -> Iterator[Program]:
  """The two halves of a rollout, and the reward of what they sample."""
  name, mesh = setup.name, setup.run.mesh
  remedy = (
    f"lower c.{name}.sampling.trunks_per_round or raise "
    f"c.{name}.sampling.parts_per_round or c.mesh.tensor"
  )
  trunks, key = _part(setup)
  prefill = Program(
    "rollout: prefill",
    setup.sampler.prefill,
    (params, trunks),
    mesh,
    remedy,
    beside,
  )
  yield prefill
  at_rest = beside + bytes_per_device(params)
  with contextlib.suppress(DoesNotFitError):
    prefilled = prefill.outputs()
    count = setup.config.sampling.parts_per_round
    waiting = min(count, QUEUED_PARTS) - 1
    decode = Program(
      "rollout: decode",
      setup.sampler.decode,
      (prefilled, trunks, key),
      mesh,
      remedy,
      at_rest + waiting * bytes_per_device(prefilled),
    )
    yield decode
    branches, _ = decode.outputs()
    if setup.device_scorer:
      yield _reward(setup, branches, at_rest)


def _reward(setup: RlSetup, branches: Any, at_rest: int) -> Program:
  """The reward on the device, of branches with shardings."""
  return Program(
    "reward",
    setup.device_scorer.program,
    (branches, setup.abstract_targets(branches.length_NR.shape[0])),
    setup.run.mesh,
    "lower c.device_reward.max_text_bytes or chunk_cells, or "
    "set c.device_reward.on='host'",
    at_rest,
  )
