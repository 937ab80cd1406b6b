# SPDX-License-Identifier: Apache-2.0
"""RL update steps that are one program each; see update/fused.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from srl_jax import sharding
from srl_jax.sharding import abstract
from srl_jax.train.memory import Program
from srl_jax.train.rl_setup import RlSetup
from srl_jax.train.stage import Dispatched
from srl_jax.update.fused import fused_update
from srl_jax.update.groups import Pool
from srl_jax.update.updater import TrainState


class FusedUpdate:
  """Samples, scores, filters and updates in one donated program."""

  def __init__(self, setup: RlSetup):
    self.setup = setup
    # A round is a batch of its own, so nothing ever waits here.
    self.pool = Pool()
    score = setup.device_scorer.score
    self._program = jax.jit(
      fused_update(
        setup.sampler.rollout,
        lambda branches, targets: score(branches, targets)[0],
        setup.updater.functions,
        dynamic_sampling=setup.config.dynamic_sampling,
        trunks_per_micro_batch=setup.config.trunks_per_micro_batch,
        divide_by_std=setup.config.loss.divide_by_group_std,
      ),
      donate_argnums=0,
      out_shardings=(
        setup.updater.shardings,
        sharding.replicated(setup.run.mesh),
      ),
    )

  def take(
    self, state: TrainState, update_step: int, reference: Any
  ) -> tuple[TrainState, Dispatched]:
    """Starts an update step; returns without waiting."""
    setup = self.setup
    run = setup.run
    batch = next(setup.data.batches)
    trunks, targets = sharding.put_batch(
      (batch.trunks, setup.device_scorer.targets(batch)),
      run.mesh,
      run.rollout_rules,
    )
    state, metrics = self._program(
      state,
      trunks,
      targets,
      run.key(setup.name, "sample", update_step, 0),
      jnp.int32(update_step),
      reference,
    )
    values = {"groups_carried": 0, "groups_expired": 0, "stale_share": 0.0}
    return state, Dispatched(values, [[part] for part in metrics])

  def get_state(self) -> dict[str, Any]:
    """No state besides the pool."""
    return {}

  def set_state(self, state: dict[str, Any]) -> None:
    """Needs none."""

  def compiled(self) -> list[Any]:
    """The jitted functions of an update step."""
    return [self._program]

  def plan(self) -> Iterator[Program]:
    """The program of an update step, before it runs."""
    setup = self.setup
    run, rows = setup.run, setup.config.sampling.trunks_per_round
    state = setup.updater.abstract_state()
    args = (
      state,
      setup.abstract_trunks(rows),
      setup.abstract_targets(rows),
      setup.abstract_key(),
      abstract.scalar(jnp.int32(0), run.mesh),
      state.trained if setup.config.loss.uses_reference else None,
    )
    name = setup.name
    yield Program(
      "fused update",
      self._program,
      args,
      run.mesh,
      f"lower c.{name}.sampling.trunks_per_round or "
      f"c.{name}.trunks_per_micro_batch, or set c.{name}.fuse=False",
    )
