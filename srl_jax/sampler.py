# SPDX-License-Identifier: Apache-2.0
"""The compiled sampler on a mesh: host trunks in, host branches out.

`rollout.rollout` is the algorithm; this only places its inputs, compiles it
once per shape and brings the results back.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from srl_jax import rollout as rollout_lib
from srl_jax import sharding
from srl_jax.types import Branches, Trunks


class Sampler:
  """Samples branches of trunks with one sampling config and stop tokens."""

  def __init__(
    self,
    policy: rollout_lib.Policy,
    config: rollout_lib.SamplingConfig,
    *,
    stop_ids: tuple[int, ...],
    pad_id: int,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
  ):
    self._mesh, self._rules = mesh, rules
    self.config, self.stop_ids, self.pad_id = config, stop_ids, pad_id
    self.batch_devices = sharding.batch_devices(mesh, rules)
    self.program = jax.jit(
      functools.partial(
        rollout_lib.rollout,
        policy,
        config=config,
        stop_ids=stop_ids,
        pad_id=pad_id,
      )
    )

  def start(self, params: Any, trunks: Trunks, key: jax.Array) -> Branches:
    """Starts sampling this process's trunks; returns without waiting."""
    trunks = sharding.put_batch(trunks, self._mesh, self._rules)
    return self.program(params, trunks, key)

  def sample(self, params: Any, trunks: Trunks, key: jax.Array) -> Branches:
    """Samples this process's trunks; returns its rows as numpy arrays."""
    branches = self.start(params, trunks, key)
    return sharding.local_rows(branches, self._mesh, self._rules)
