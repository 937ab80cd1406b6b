# SPDX-License-Identifier: Apache-2.0
"""The reward on the device as a compiled program on a mesh."""

from __future__ import annotations

from typing import Any

import jax

from srl_jax import sharding
from srl_jax.data.batching import TrunkBatch
from srl_jax.device_rewards.reward import (
  DeviceReward,
  Targets,
  encode_targets,
)


class DeviceScorer:
  """The compiled reward on a mesh, and the targets it compares with.

  Attributes:
    score: (branches, targets) -> (scores, is_scored_NKG), for use inside a
      larger program.
    program: `score`, compiled as a program of its own.
  """

  def __init__(
    self,
    reward: DeviceReward,
    target_chars: int,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
  ):
    """`target_chars` is the length of the longest target, in characters."""
    self._target_chars = target_chars
    self._mesh, self._rules = mesh, rules
    spec = rules.spec(("batch",))
    # The reward sorts rows by length, which must not cross devices.
    self.score = jax.shard_map(
      reward, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    self.program = jax.jit(self.score)

  def targets(self, batch: TrunkBatch) -> Targets:
    """Returns the expert's steps of a batch as numpy arrays."""
    return encode_targets(batch, self._target_chars)

  def start(self, branches: Any, batch: TrunkBatch) -> Any:
    """Starts scoring a batch; returns without waiting."""
    targets = sharding.put_batch(self.targets(batch), self._mesh, self._rules)
    return self.program(branches, targets)
