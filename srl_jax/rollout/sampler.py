# SPDX-License-Identifier: Apache-2.0
"""The compiled sampler on a mesh: host trunks in, host branches out.

`rollout` has the algorithm; this only places its inputs, compiles its two
halves once per shape and brings the results back.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax

from srl_jax import sharding
from srl_jax.rollout import decode as rollout_lib
from srl_jax.types import Branches, Decoding, Trunks


class Started(NamedTuple):
  """A rollout that may still be under way.

  Attributes:
    prefilled: an array that is ready when the first half is done.
    branches: the samples.
    decoding: how full the slots were.
  """

  prefilled: jax.Array
  branches: Branches
  decoding: Decoding


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
    self._mesh, self.rules = mesh, rules
    self.config, self.stop_ids, self.pad_id = config, stop_ids, pad_id
    self.batch_devices = sharding.batch_devices(mesh, rules)
    self.prefill = jax.jit(functools.partial(rollout_lib.prefill, policy))
    self.decode = jax.jit(
      functools.partial(
        rollout_lib.decode,
        policy,
        config=config,
        stop_ids=stop_ids,
        pad_id=pad_id,
      )
    )

  def start(self, params: Any, trunks: Trunks, key: jax.Array) -> Started:
    """Starts sampling this process's trunks; returns without waiting."""
    trunks = sharding.put_batch(trunks, self._mesh, self.rules)
    prefilled = self.prefill(params, trunks)
    # A small one: what is held on to here stays in memory.
    smallest = min(jax.tree.leaves(prefilled.trunk), key=lambda x: x.size)
    return Started(smallest, *self.decode(prefilled, trunks, key))

  def sample(self, params: Any, trunks: Trunks, key: jax.Array) -> Branches:
    """Samples this process's trunks; returns its rows as numpy arrays."""
    branches = self.start(params, trunks, key).branches
    return sharding.local_rows(branches, self._mesh, self.rules)
