# SPDX-License-Identifier: Apache-2.0
"""What a run needs, by counting alone: seconds, not minutes.

The compiler adds padding, copies and temporaries; projection.py asks it.
Nothing is allocated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from srl_jax import sharding
from srl_jax.config import Config
from srl_jax.models import LanguageModel

from . import ahead_of_time, drawn, phases, projection
from .chips import Chip
from .work import Split


class Need(NamedTuple):
  """What an RL stage needs.

  Attributes:
    state_bytes: per device: parameters, optimizer state, gradient sums.
    memory_bytes: per device, while sampling or updating, whichever is more.
    step_s: seconds of an update step at the chip's peak rates.
  """

  state_bytes: int
  memory_bytes: int
  step_s: float


def need(
  config: Config,
  stage: str,
  devices: list,
  chip: Chip,
  link_bytes_per_s: float,
  lengths: drawn.Lengths,
  *,
  lanes: int,
  stem: int = 16,
  target: int = 1024,
) -> Need:
  """Counts a stage on devices, which may be described ones.

  Args:
    config: config of the run.
    stage: "srl" or "rlvr".
    devices: what the mesh is made of.
    chip: rates of one of them.
    link_bytes_per_s: what it receives in a collective.
    lengths: what is sampled and kept.
    lanes: a device stores arrays whose last axis is a multiple of it: 128 on a
      TPU, so heads of width 64 take twice their memory; 1 for no such thing.
    stem: number of given tokens at the head of a branch.
    target: length of the longest expert step in characters.

  Raises:
    ValueError: the mesh does not fit the devices, or the config leaves widths
      to the data.
  """
  data = ahead_of_time.widths(config, stage, stem, target)
  mesh = sharding.make_mesh(config.mesh, devices)
  section = ahead_of_time.with_reward(config, stage)
  built = ahead_of_time.build_stage(config, stage, mesh, data)
  state = ahead_of_time.training_bytes(built)
  shapes = built.updates.setup.update_shapes
  step = phases.step_of(
    config, section, mesh, data, shapes, lengths, on_chip=chip.on_chip_bytes
  )
  width = stem + section.sampling.max_new_tokens
  return Need(
    state,
    state
    + max(
      _sampling(config, section, mesh, data.widths, width, lanes),
      _updating(config, mesh, data.widths.trunk, width, shapes[0]),
    ),
    projection.step_seconds(step.phases, chip, link_bytes_per_s),
  )


def _sampling(config, section, mesh, widths, width, lanes) -> int:
  """Bytes of the weights, keys and values of one part of a round."""
  split = Split(dict(mesh.shape), config.rollout_rules)
  model = config.model
  boxed = jax.eval_shape(lambda: LanguageModel(model).init(jax.random.key(0)))
  is_box = lambda x: hasattr(x, "names")  # noqa: E731
  weights = sum(
    split.stored(box) for box in jax.tree.leaves(boxed, is_leaf=is_box)
  )
  sampling = section.sampling
  trunks = sampling.trunks_per_round // sampling.parts_per_round / split.batch
  branches = widths.points * sampling.samples
  live = sampling.slots_of(branches)
  tokens = trunks * (widths.trunk + live * width)
  head = math.ceil(model.head_width / lanes) * lanes
  heads = model.n_kv_heads * head / split.parts("kv_heads")
  size = jnp.dtype(model.dtype).itemsize
  return int(size * (weights + tokens * 2 * model.n_layers * heads))


def _updating(config, mesh, trunk: int, width: int, shape) -> int:
  """Bytes of what the backward pass keeps of a micro-batch, layer by layer."""
  split = Split(dict(mesh.shape), config.rules)
  rows, trunks_of_row, lanes = shape
  tokens = rows / split.batch * (trunks_of_row * trunk + lanes * width)
  model = config.model
  kept = model.d_model
  if model.remat != "full":
    # What the products of a layer give: queries, keys, values, what attention
    # found, the sum of its heads, two halves of the MLP, and its sum.
    queries = model.n_heads * model.head_width
    keys = model.n_kv_heads * model.head_width
    kept += 2 * (queries + keys + model.d_mlp + model.d_model)
  size = jnp.dtype(model.dtype).itemsize
  return int(size * tokens * kept * model.n_layers)
