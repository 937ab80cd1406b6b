# SPDX-License-Identifier: Apache-2.0
"""The programs of an RL stage on TPUs that are not here.

The very functions that a run jits (both halves of a rollout, the reward on the
device, accumulation and optimizer step) on abstract arrays, sharded over
described devices: libtpu has the TPU compiler, which needs no TPU. Nothing is
allocated and no file of the run is read; what decides the widths has to stand
in the config. What the programs have to compute is counted in counting.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from srl_jax import sharding
from srl_jax.config import Config, RlConfig
from srl_jax.device_rewards import reward as device_reward
from srl_jax.domains import find_domain
from srl_jax.models import LanguageModel
from srl_jax.rollout import scoring
from srl_jax.rollout.rounds import DeviceScorer
from srl_jax.rollout.sampler import Sampler
from srl_jax.train import memory as memory_plan
from srl_jax.train.memory import Placer, Program, Scalars, Widths
from srl_jax.update import optim
from srl_jax.update.grpo import grpo_loss
from srl_jax.update.updater import Updater

# What libtpu would else ask a TPU machine's metadata server for, in vain; and
# leave for a second compilation, as no TPU is opened that two could not share.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def devices(topology: str) -> list[Any]:
  """The devices of a topology such as "v5e:2x4".

  Raises:
    ValueError: libtpu is not installed, or it knows no such topology.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "the TPU compiler is not installed; it is part of libtpu: pip install "
      "-c constraints.txt -e '.[tpu]'"
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=topology
    )
  except Exception as error:  # whatever the plug-in raises
    raise ValueError(
      f"--topology={topology}: {error}; give a generation and its shape in "
      "chips, for example v5e:2x4, v5e:8x8, v6e:8x8 or v5p:4x4x4"
    ) from error
  return list(described.devices)


def widths(config: Config, stage: str, stem: int, target: int) -> Widths:
  """The widths of a stage, by the limits of its config.

  Raises:
    ValueError: a limit is missing, so that the data would decide.
  """
  instances = getattr(config, stage).trunks
  needed = {"max_trunk_tokens": instances.max_trunk_tokens}
  points = 1
  if instances.task == "step":
    points = needed["points_per_trunk"] = instances.points_per_trunk
  for name, value in needed.items():
    if not value:
      raise ValueError(
        f"c.{stage}.trunks.{name} is 0, so the data decide how wide the "
        "arrays are; set it, for example with "
        f"--config.{stage}.trunks.{name}=..."
      )
  if not config.model.vocab_size:
    raise ValueError(
      "c.model.vocab_size is 0, so the tokenizer decides how large the model "
      "is; set it, for example with --config.model.vocab_size=..."
    )
  return Widths(instances.max_trunk_tokens, points, stem, target)


def programs(
  config: Config, stage: str, mesh: jax.sharding.Mesh, sizes: Widths
) -> Iterator[Program]:
  """Yields the programs of a stage, on a mesh of described devices."""
  section: RlConfig = getattr(config, stage)
  place = Placer(mesh)
  sampler = Sampler(
    LanguageModel(config.model, config.rollout_rules),
    section.sampling,
    # Which ids end a completion changes nothing but constants.
    stop_ids=(0, 1),
    pad_id=0,
    mesh=mesh,
    rules=config.rollout_rules,
  )
  yield from memory_plan.rl_programs(
    mesh=mesh,
    rules=config.rules,
    sampler=sampler,
    reward=_reward(config, stage, mesh, sizes),
    updater=_updater(config, section, mesh),
    sizes=sizes,
    trunks_per_part=section.trunks_per_round // section.parts_per_round,
    parts=section.parts_per_round,
    trunks_per_micro_batch=section.trunks_per_micro_batch,
    scalars=Scalars(
      place.whole(jax.eval_shape(lambda: jax.random.key(0))),
      place.whole(jax.ShapeDtypeStruct((), jnp.int32)),
    ),
    has_reference=section.loss.kl_coefficient > 0,
  )


def training_bytes(config: Config, stage: str, mesh: jax.sharding.Mesh) -> int:
  """Bytes per device of parameters, optimizer state and gradient sums."""
  updater = _updater(config, getattr(config, stage), mesh)
  return memory_plan.bytes_per_device(
    (updater.abstract_state(), updater.abstract_sums())
  )


def _updater(config, section, mesh) -> Updater:
  policy = LanguageModel(config.model, config.rules)
  boxed = jax.eval_shape(lambda: policy.init(jax.random.key(0)))
  params = Placer(mesh).as_sharded(
    nn.unbox(boxed), sharding.tree_shardings(boxed, mesh, config.rules)
  )
  total = section.update_steps * section.passes
  return Updater(
    grpo_loss(policy, section.loss, section.sampling.temperature),
    optim.make_optimizer(section.optim, total),
    optim.learning_rate(section.optim, total),
    params,
    mesh,
  )


def with_reward(config: Config, stage: str) -> RlConfig:
  """A stage's section with the reward of its domain, as far as it is known.

  A domain that only the data name has the reward of "general".
  """
  section = getattr(config, stage)
  name = config.data.domain or "general"
  reward = scoring.resolve_reward(
    section.reward, section.trunks.task, {name: find_domain(name)}, stage
  )
  return dataclasses.replace(section, reward=reward)


class _Spelling:
  """Stands in for a tokenizer, of which the reward only wants the bytes."""

  # Byte-level BPE: a handful on average, 128 in the longest (spaces).
  def __init__(self, vocab_size: int):
    self.vocab_size = vocab_size

  def token_bytes(self, token: int) -> bytes:
    return b" " * (128 if token == 0 else 6)


def _reward(config, stage, mesh, sizes) -> DeviceScorer | None:
  """The reward of a run on TPUs, if it is one for the device."""
  section = with_reward(config, stage)
  reason = device_reward.host_reason(section.reward, section.device_reward)
  longest = section.device_reward.sizes[-1]
  if reason or section.reward_on == "host" or sizes.target > longest:
    return None
  of_tpu = dataclasses.replace(
    section.device_reward, chunk_cells=section.device_reward.cells("tpu")
  )
  reward = device_reward.DeviceReward(
    section.reward, of_tpu, _Spelling(config.model.vocab_size)
  )
  return DeviceScorer(reward, sizes.target, mesh, config.rollout_rules)
