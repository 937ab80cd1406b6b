# SPDX-License-Identifier: Apache-2.0
"""The compiled sampler on a mesh: host trunks in, host branches out.

The algorithm is in decode.py. The sampler places its inputs, compiles its two
halves once per shape and copies the results to the host.
"""

from __future__ import annotations

import functools
from typing import Any

import jax

from srl_jax import sharding
from srl_jax.policy import Policy
from srl_jax.rollout.decode import (
  SamplingConfig,
  decode,
  prefill,
  rollout,
)
from srl_jax.types import Branches, SlotUse, Trunks


class Sampler:
  """Samples branches of trunks with one sampling config and stop tokens."""

  def __init__(
    self,
    policy: Policy,
    config: SamplingConfig,
    *,
    stop_ids: tuple[int, ...],
    pad_id: int,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
  ):
    self.mesh, self.rules, self.config = mesh, rules, config
    self.batch_devices = sharding.batch_devices(mesh, rules)
    static = {"config": config, "stop_ids": stop_ids, "pad_id": pad_id}
    self.prefill = jax.jit(functools.partial(prefill, policy))
    self.decode = jax.jit(functools.partial(decode, policy, **static))
    # Both halves as one function, for use inside a larger program.
    self.rollout = functools.partial(rollout, policy, **static)

  def start(
    self, params: Any, trunks: Trunks, key: jax.Array
  ) -> tuple[Branches, SlotUse]:
    """Starts sampling trunks, the same of all processes; does not wait."""
    trunks = sharding.put_batch(trunks, self.mesh, self.rules)
    return self.decode(self.prefill(params, trunks), trunks, key)

  def sample(self, params: Any, trunks: Trunks, key: jax.Array) -> Branches:
    """Samples trunks; returns all branches to every process, as numpy."""
    branches, _ = self.start(params, trunks, key)
    return sharding.read(sharding.for_every_process(branches, self.mesh))
