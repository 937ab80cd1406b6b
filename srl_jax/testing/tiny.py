# SPDX-License-Identifier: Apache-2.0
"""A tiny language model, batches for it, and meshes, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from srl_jax import sharding
from srl_jax.data import batching
from srl_jax.data.trunks import BranchPoint, Trunk
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.sharding import MESH_AXES
from srl_jax.trajectory import Step, Trajectory
from srl_jax.types import Trunks
from srl_jax.update.batch import Experience

# Every width differs from the others and divides over a mesh of 2 x 2 x 2.
TINY = ModelConfig(
  vocab_size=32,
  d_model=16,
  n_layers=2,
  n_heads=4,
  n_kv_heads=2,
  head_width=6,
  d_mlp=24,
  max_positions=64,
)


def random_params(model: LanguageModel, seed: int = 0) -> Any:
  """Returns parameters far from their initial values.

  Initial values hide mistakes: biases are zero, norm scales are one, and the
  logits are so small that everything is nearly uniform.
  """
  abstract = nn.unbox(jax.eval_shape(model.init, jax.random.key(0)))
  leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    noise = rng.standard_normal(leaf.shape)
    value = 1 + 0.3 * noise if path[-1].key == "scale" else 0.4 * noise
    return jnp.asarray(value, leaf.dtype)

  return jax.tree.unflatten(tree, [fill(*leaf) for leaf in leaves])


def make_trunk(
  tokens: Sequence[int], *points: tuple[int, Sequence[int], int]
) -> Trunk:
  """Returns a trunk; points are (branch_at, stem, point_id)."""
  return Trunk(
    trajectory=Trajectory(str(points[0][2]), "general", "?", (Step("."),)),
    tokens=np.array(tokens, np.int32),
    points=tuple(
      BranchPoint(
        step=step,
        at=at,
        stem=np.array(stem, np.int32),
        target="",
        target_tokens=np.zeros(0, np.int32),
        point_id=point_id,
      )
      for step, (at, stem, point_id) in enumerate(points)
    ),
  )


def make_trunks(
  trunks: Sequence[Trunk],
  *,
  trunk_width: int = 0,
  points: int = 0,
  stem_width: int = 0,
) -> Trunks:
  """Returns trunks as arrays; each width is at least what they need."""
  least = batching.widths(trunks)
  return batching.collate(
    trunks,
    trunk_width=max(trunk_width, least.trunk),
    points=max(points, least.points),
    stem_width=max(stem_width, least.stem),
  ).trunks


def four_trunks() -> Trunks:
  """Four trunks of different lengths with one or two branch points each."""
  return make_trunks(
    [
      make_trunk(range(1, 9), (3, [10], 1), (8, [11, 12], 2)),
      make_trunk(range(5, 11), (4, [13, 10], 3)),
      make_trunk([2, 4, 8], (3, [10], 4), (1, [12], 5)),
      make_trunk([9, 9, 1, 3], (2, [10], 6), (4, [14], 7)),
    ]
  )


def put_params(values, model, mesh, rules) -> Any:
  """Puts parameters where the rules say; compiles nothing."""
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  return jax.device_put(values, sharding.tree_shardings(abstract, mesh, rules))


def separate_prompts(trunks: Trunks) -> Trunks:
  """Makes each real branch point a trunk, cut where its branches hang off.

  This is the flat layout of other systems: a full prompt per branch point.
  """
  rows, points = np.nonzero(trunks.is_real_NK)
  pick = lambda x_NK: x_NK[rows, points][:, None]  # noqa: E731
  length_N = trunks.branch_at_NK[rows, points]
  width = int(length_N.max())
  is_seen_NS = np.arange(width) < length_N[:, None]
  return Trunks(
    tokens_NS=np.where(is_seen_NS, trunks.tokens_NS[rows, :width], 0),
    length_N=length_N,
    branch_at_NK=pick(trunks.branch_at_NK),
    stem_NKC=pick(trunks.stem_NKC),
    stem_length_NK=pick(trunks.stem_length_NK),
    point_id_NK=pick(trunks.point_id_NK),
    is_real_NK=pick(trunks.is_real_NK),
  )


def separate_rows(x_NR: Any, trunks: Trunks) -> np.ndarray:
  """Returns branches [N, K * G, ...] in the layout of separate_prompts."""
  x_NR = np.asarray(x_NR)
  count, points = trunks.is_real_NK.shape
  x_NKG = x_NR.reshape(count, points, -1, *x_NR.shape[2:])
  return x_NKG[np.nonzero(trunks.is_real_NK)]


def separate_batch(batch: Experience) -> Experience:
  """Returns the same branches and rewards on separate prompts."""
  trunks = batch.trunks
  rows = lambda x_NR: separate_rows(x_NR, trunks)  # noqa: E731
  return Experience(
    trunks=separate_prompts(trunks),
    branches=type(batch.branches)(*map(rows, batch.branches)),
    reward_NKG=rows(batch.reward_NKG)[:, None, 0],
  )


def small_mesh(
  data: int = 1, fsdp: int = 1, tensor: int = 1
) -> jax.sharding.Mesh:
  """Returns a mesh over the first devices; the others stay idle."""
  sizes = (data, fsdp, tensor)
  return jax.make_mesh(
    sizes,
    MESH_AXES,
    devices=jax.devices()[: data * fsdp * tensor],
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )
