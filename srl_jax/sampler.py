# SPDX-License-Identifier: Apache-2.0
"""The compiled sampler on a mesh: host trunks in, host branches out.

`rollout.rollout` is the algorithm; this only places its inputs, compiles it
once per shape and brings the results back.
"""

from __future__ import annotations

from collections.abc import Callable
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
    lay_out: Callable[[Any], Any] = lambda params: params,
  ):
    """Prepares the program; `lay_out` brings parameters where it wants them."""
    self._mesh, self._rules = mesh, rules
    self.config, self.stop_ids, self.pad_id = config, stop_ids, pad_id
    self.batch_devices = sharding.batch_devices(mesh, rules)

    def rollout(params: Any, trunks: Trunks, key: jax.Array) -> Branches:
      return rollout_lib.rollout(
        policy,
        lay_out(params),
        trunks,
        key,
        config=config,
        stop_ids=stop_ids,
        pad_id=pad_id,
      )

    self.program = jax.jit(rollout)

  def start(self, params: Any, trunks: Trunks, key: jax.Array) -> Branches:
    """Starts sampling this process's trunks; returns without waiting."""
    trunks = sharding.put_batch(trunks, self._mesh, self._rules)
    return self.program(params, trunks, key)

  def sample(self, params: Any, trunks: Trunks, key: jax.Array) -> Branches:
    """Samples this process's trunks; returns its rows as numpy arrays."""
    branches = self.start(params, trunks, key)
    return sharding.local_rows(branches, self._mesh, self._rules)
