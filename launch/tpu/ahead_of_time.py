# SPDX-License-Identifier: Apache-2.0
"""Builds a stage for TPUs without having any, and without its data.

The TPU compiler in libtpu needs no TPU. The stage is built on a mesh of
described devices and plans its programs as in any run; the array widths come
from the limits in its config instead of the data. Nothing is allocated and no
file of the run is read. counting.py counts the work of the programs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from typing import Any

import jax
from flax import linen as nn

from srl_jax import sharding
from srl_jax.config import Config
from srl_jax.data.batching import Widths
from srl_jax.data.templates import PlainTemplate
from srl_jax.domains import find_domain
from srl_jax.models import LanguageModel
from srl_jax.rollout import scoring
from srl_jax.sharding import abstract
from srl_jax.train.data import StageData
from srl_jax.train.memory import bytes_per_device
from srl_jax.train.rl import RlStage
from srl_jax.train.rl_config import RlConfig
from srl_jax.train.sft import SftStage
from srl_jax.train.stage import Run

# Without these, libtpu would ask a TPU machine's metadata server in vain, and
# refuse a second process; two may compile at once, as neither opens a TPU.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


def devices(topology: str, slices: int = 1) -> list[Any]:
  """Returns the described devices of slices of a topology such as "v5e:2x4".

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
      platform="tpu", topology_name=topology, num_slices=slices
    )
  except Exception as error:  # whatever the plug-in raises
    raise ValueError(
      f"--topology={topology}: {error}; give a generation and its shape in "
      "chips, for example v5e:2x4, v5e:8x8, v6e:8x8 or v5p:4x4x4"
    ) from error
  return list(described.devices)


def widths(
  config: Config, stage: str, stem_tokens: int, target_chars: int
) -> StageData:
  """Returns data without trunks, as wide as the limits of a stage allow.

  Args:
    config: config of the run.
    stage: "sft", "srl" or "rlvr".
    stem_tokens: number of given tokens at the head of a branch.
    target_chars: length of the longest expert step in characters.

  Raises:
    ValueError: a limit is missing, so that a width depends on the data, or the
      stage is of episodes or has two tasks.
  """
  if stage == "episodes":
    raise ValueError(
      "programs that sample episodes are not described here; leave the stage "
      "episodes out of --config.stages"
    )
  is_sft = stage == "sft"
  if is_sft and config.sft.alternate_solve:
    raise ValueError(
      "c.sft.alternate_solve is True, and its programs for whole solutions are "
      "not described here; type --config.sft.alternate_solve=False"
    )
  limits = getattr(config, stage).trunks
  needed = {"max_trunk_tokens": limits.max_trunk_tokens}
  points = 1
  if limits.task == "step":
    points = needed["points_per_trunk"] = limits.points_per_trunk
  if is_sft:
    needed["max_target_tokens"] = limits.max_target_tokens
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
  # Expert targets set widths only in SFT, not in the programs of an RL stage.
  target = stem_tokens + limits.max_target_tokens if is_sft else 0
  found = Widths(limits.max_trunk_tokens, points, stem_tokens, target)
  return StageData(found, found, target_chars)


def with_reward(config: Config, stage: str) -> RlConfig:
  """Returns a stage's section with the reward of its domain filled in.

  If only the data name the domain, the reward is that of "general".
  """
  section = getattr(config, stage)
  name = config.data.domain or "general"
  reward = scoring.resolve_reward(
    section.reward, section.trunks.task, {name: find_domain(name)}, stage
  )
  return dataclasses.replace(section, reward=reward)


class _Spelling:
  """Stands in for a tokenizer; the reward on the device needs token bytes."""

  pad_id = 0

  def __init__(self, vocab_size: int):
    self.vocab_size = vocab_size

  def token_bytes(self, token: int) -> bytes:
    # As in byte-level BPE: few bytes on average, 128 in the longest (spaces).
    return b" " * (128 if token == 0 else 6)

  def special_id(self, name: str) -> int:
    # The ids that end a completion change only constants of the programs.
    del name
    return 1


def make_run(config: Config, mesh: jax.sharding.Mesh) -> Run:
  """Returns a run on described devices, without data and with no tokenizer."""
  return Run(
    seed=config.seed,
    mesh=mesh,
    rules=config.rules,
    rollout_rules=config.rollout_rules,
    policy=LanguageModel(config.model, config.rules),
    tokenizer=_Spelling(config.model.vocab_size),
    template=PlainTemplate(),
    device_reward=config.device_reward,
  )


def build_stage(
  config: Config, stage: str, mesh: jax.sharding.Mesh, data: StageData
) -> RlStage | SftStage:
  """Returns a stage on described devices that can plan its programs."""
  run = make_run(config, mesh)
  if stage == "sft":
    built = SftStage(run, stage, config.sft, [data])
  else:
    built = RlStage(run, stage, with_reward(config, stage), data)
  boxed = jax.eval_shape(lambda: run.policy.init(jax.random.key(0)))
  shardings = sharding.tree_shardings(boxed, mesh, config.rules)
  built.prepare(abstract.with_shardings(nn.unbox(boxed), shardings))
  return built


def training_bytes(stage: RlStage | SftStage) -> int:
  """Returns bytes per device of parameters, optimizer state, gradient sums."""
  updater = stage.updater
  return bytes_per_device((updater.abstract_state(), updater.abstract_sums()))
