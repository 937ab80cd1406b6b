# SPDX-License-Identifier: Apache-2.0
"""Sampler and update of one model on one device, and random work for them.

The programs are those of a run, on a mesh of this device alone, so that an
accelerator and the CPU of one process can do the same work. gpu.py and
gpu_checks.py decide what is compared and measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import floor
from benchmarks.workload import Workload
from srl_jax import sharding
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.sampler import Sampler
from srl_jax.types import Branches, Trunks
from srl_jax.update.batch import Experience
from srl_jax.update.grpo import LossConfig, grpo_loss
from srl_jax.update.updater import Updater


class Engine:
  """The programs of one model, and its parameters, on one device."""

  def __init__(
    self, model: ModelConfig, device: jax.Device, params: Any = None
  ):
    """Makes the programs; parameters are random unless given (on the host)."""
    self.device = device
    self.rules = sharding.ShardingRules()
    self.mesh = sharding.make_mesh(sharding.MeshConfig(), [device])
    self.policy = LanguageModel(model, self.rules)
    with self.placed():
      self.params = (
        jax.device_put(params, sharding.replicated(self.mesh))
        if params is not None
        else sharding.born_sharded(
          self.policy.init,
          jax.random.key(0),
          mesh=self.mesh,
          rules=self.rules,
        )
      )

  @contextmanager
  def placed(self) -> Iterator[None]:
    """Context in which programs and arrays are made on the device."""
    with jax.default_device(self.device), jax.set_mesh(self.mesh):
      yield

  def put(self, batch: Any) -> Any:
    """Places a batch on the device."""
    return sharding.put_batch(batch, self.mesh, self.rules)

  def sampler(self, sampling: SamplingConfig) -> Sampler:
    """Returns a sampler without stop tokens, so that lengths are fixed."""
    return Sampler(
      self.policy,
      sampling,
      stop_ids=(),
      pad_id=0,
      mesh=self.mesh,
      rules=self.rules,
    )

  def updater(
    self, loss: LossConfig, optimizer: optax.GradientTransformation
  ) -> Updater:
    """Returns an updater with the GRPO loss at temperature 1."""
    return Updater(
      grpo_loss(self.policy, loss, 1.0),
      optimizer,
      lambda _: 0.0,
      self.params,
      self.mesh,
    )


def make_trunks(work: Workload, vocab_size: int) -> Trunks:
  """Returns random trunks; branches of a step see the steps before it."""
  rng = np.random.default_rng(work.seed)
  n, k = work.trajectories, work.steps
  width = floor.trunk_tokens(work)
  draw = lambda *shape: rng.integers(1, vocab_size, shape, np.int32)  # noqa: E731
  return Trunks(
    tokens_NS=draw(n, width),
    length_N=np.full(n, width, np.int32),
    branch_at_NK=np.tile(work.prompt_tokens.astype(np.int32), (n, 1)),
    stem_NKC=draw(n, k, work.stem_tokens),
    stem_length_NK=np.full((n, k), work.stem_tokens, np.int32),
    point_id_NK=np.arange(n * k, dtype=np.uint32).reshape(n, k),
    is_real_NK=np.ones((n, k), bool),
  )


def random_branches(work: Workload, vocab_size: int) -> Branches:
  """Returns branches as a sampler of uniform tokens would."""
  rng = np.random.default_rng(work.seed + 1)
  stem_NKC = make_trunks(work, vocab_size).stem_NKC
  n, r = work.trajectories, work.steps * work.samples
  width = work.stem_tokens + work.new_tokens
  tokens_NRC = rng.integers(1, vocab_size, (n, r, width), np.int32)
  tokens_NRC[..., : work.stem_tokens] = np.repeat(stem_NKC, work.samples, 1)
  is_completion_NRC = np.broadcast_to(
    np.arange(width) >= work.stem_tokens, (n, r, width)
  )
  logp_NRC = np.where(is_completion_NRC, -np.log(vocab_size), 0)
  return Branches(
    tokens_NRC=tokens_NRC,
    length_NR=np.full((n, r), width, np.int32),
    is_completion_NRC=is_completion_NRC,
    sampler_logp_NRC=logp_NRC.astype(np.float32),
    stopped_NR=np.zeros((n, r), bool),
  )


def make_batch(
  work: Workload, vocab_size: int, branches: Branches, trunks: int
) -> Experience:
  """Returns the first `trunks` trunks, their branches and random rewards."""
  rng = np.random.default_rng(work.seed + 2)
  shape = (work.trajectories, work.steps, work.samples)
  batch = Experience(
    trunks=make_trunks(work, vocab_size),
    branches=branches,
    reward_NKG=rng.random(shape, np.float32),
  )
  return jax.tree.map(lambda x: x[:trunks], batch)
