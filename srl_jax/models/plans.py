# SPDX-License-Identifier: Apache-2.0
"""What a layer's queries see of trunks and branches, and the kernels' plans.

A plan is made once for all layers that see the same: one for the layers that
see everything, and one for those with a sliding window.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srl_jax.models.config import ModelConfig
from srl_jax.ops import decode_attention, decode_plan, tree_attention, trees
from srl_jax.ops.attention import Source
from srl_jax.sharding import device_kind

# A window so long that it reaches beyond the start of every context.
_NO_WINDOW = 1 << 30


class RowPlans(NamedTuple):
  """What the kernels need to know of rows that hold trunks and branches.

  Attributes:
    whole: for layers that see everything.
    local: for layers with a sliding window; None in a model without.
  """

  whole: trees.Plan
  local: trees.Plan | None


class DecodePlans(NamedTuple):
  """What the kernel needs to know of a decoding iteration; see `RowPlans`."""

  whole: decode_plan.Plan
  local: decode_plan.Plan | None


def reads_what_is_seen(c: ModelConfig) -> bool:
  """Whether decoding reads only what branches see, by the kernel.

  Otherwise it reads all the room that there is, and narrow rooms are faster.
  """
  return decode_attention.is_chosen(
    c.decode_kernel, device_kind(), c.head_width
  )


def plan_rows(c: ModelConfig, labels: trees.Labels, shards: int) -> RowPlans:
  """Plans the attention of rows on `shards` devices each, for all layers."""

  def plan(window):
    return tree_attention.plan(
      labels,
      kv_heads=c.n_kv_heads,
      group=c.n_heads // c.n_kv_heads,
      head_width=c.head_width,
      window=window,
      shards=shards,
    )

  return RowPlans(plan(0), plan(c.sliding_window) if c.sliding_window else None)


def plan_decoding(
  c: ModelConfig, trunk: Source, own: Source, position_NRT: jax.Array
) -> DecodePlans:
  """Plans the attention of an iteration, once for all layers.

  Args:
    c: the model.
    trunk: the trunks, without their keys and values.
    own: the branches' caches, likewise.
    position_NRT: positions of the queries, T = 1.
  """

  def plan(is_local):
    return decode_plan.plan(
      of_trunk(c, trunk, position_NRT, is_local),
      of_branch(c, own, is_local),
      c.n_heads // c.n_kv_heads,
    )

  return DecodePlans(plan(False), plan(True) if c.sliding_window else None)


def of_layer(
  plans: RowPlans | DecodePlans, is_local: jax.Array | bool | None
) -> Any:
  """Returns the plan of a local or a global layer."""
  if plans.local is None:
    return plans.whole
  choose = functools.partial(jnp.where, is_local)
  return jax.tree.map(choose, plans.local, plans.whole)


def of_trunk(
  c: ModelConfig, source: Source, position_NRT: jax.Array, is_local
) -> Source:
  """A trunk as queries at these positions see it through a layer's window."""
  first_NRT = source.first_NRT
  # A row's later trunks begin further on.
  place_NRT = position_NRT if first_NRT is None else position_NRT + first_NRT
  return _through_window(c, source, place_NRT, is_local)


def of_branch(c: ModelConfig, own: Source, is_local) -> Source:
  """Their own branch as queries see it; each stands at its limit."""
  return _through_window(c, own, own.limit_NRT, is_local)


def _through_window(
  c: ModelConfig, source: Source, place_NRT, is_local
) -> Source:
  """A source as queries at these places see it through a layer's window."""
  if is_local is None or is_local is False:
    return source
  window = jnp.where(is_local, c.sliding_window, _NO_WINDOW)
  first_NRT = place_NRT - window + 1
  if source.first_NRT is not None:
    first_NRT = jnp.maximum(first_NRT, source.first_NRT)
  return source._replace(first_NRT=first_NRT)
