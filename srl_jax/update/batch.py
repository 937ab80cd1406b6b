# SPDX-License-Identifier: Apache-2.0
"""The arrays that a loss is computed from, and the type of a loss.

packing.py makes micro-batches of groups on the host; `one_branch_per_lane`
makes them inside a program.

Axes besides those of the legend: N rows, U trunks of a row, B lanes of a row,
W cells of a lane.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from srl_jax.ops import advantages
from srl_jax.types import Array, Branches, Ratio, Trunks


class Experience(NamedTuple):
  """Trunks with their branches and rewards, as they were sampled.

  Attributes:
    trunks: the trunks and their branch points.
    branches: R = K * G branches per trunk; empty branches have length 0.
    reward_NKG: float32 rewards of the groups (zeros in SFT).
  """

  trunks: Trunks
  branches: Branches
  reward_NKG: Array


class MicroBatch(NamedTuple):
  """Rows of U trunks that share B lanes, ready for training.

  A lane holds branches back to back, all of one trunk. What an array says of
  a cell is about the token in it, or about the token that it predicts. The
  last token of a branch predicts nothing and needs no cell.

  Attributes:
    trunk_NUS: tokens of the trunks.
    trunk_length_NU: number of real tokens of each trunk; 0 where there is none.
    trunk_of_NB: which of the row's trunks the branches of a lane hang off.
    tokens_NBW: tokens of the branches.
    position_NBW: position of the token in its own context; -1 marks cells
      without a token.
    first_NBW: cell of the first token of the same branch.
    targets_NBW: the next token of the same branch.
    completion_tokens_NBW: where the target is a completion token, the number
      of completion tokens of its branch; 0 elsewhere. Where it is above 0, the
      target counts in the loss.
    sampler_logp_NBW: float32, nats; log-prob of the target under the
      distribution it was drawn from; 0 where it does not count.
    advantage_NBW: float32 advantage of the branch (0 in SFT).
    is_fresh_NBW: True for branches sampled by the same parameters that the
      batch now updates, so that their ratio starts at 1.
    branches_N: number of branches with completion tokens.
  """

  trunk_NUS: Array
  trunk_length_NU: Array
  trunk_of_NB: Array
  tokens_NBW: Array
  position_NBW: Array
  first_NBW: Array
  targets_NBW: Array
  completion_tokens_NBW: Array
  sampler_logp_NBW: Array
  advantage_NBW: Array
  is_fresh_NBW: Array
  branches_N: Array


class LossFn(Protocol):
  """Loss of one micro-batch, as a ratio whose parts add, and its metrics."""

  def __call__(
    self, params: Any, batch: MicroBatch, reference: Any
  ) -> tuple[Ratio, Any]: ...


def one_branch_per_lane(
  experience: Experience, *, divide_by_std: bool = True, is_fresh: bool = True
) -> MicroBatch:
  """Returns rows of one trunk (U = 1), with a lane for each of its branches.

  It needs no packing, so it can be part of a program; much of the lanes is
  padding where branches are short or empty.

  Args:
    experience: N trunks and their branches.
    divide_by_std: see `advantages.group_advantages`.
    is_fresh: whether the parameters that are updated have sampled them.
  """
  trunks, branches, reward_NKG = experience
  n, r, width = branches.tokens_NRC.shape
  samples = reward_NKG.shape[-1]
  shape = (n, r, width - 1)

  def wide(x_NR):
    return jnp.broadcast_to(x_NR[..., None], shape)

  branch_at_NR = jnp.repeat(trunks.branch_at_NK, samples, axis=1)
  cell_W = jnp.arange(width - 1)
  is_token_NBW = cell_W < branches.length_NR[..., None] - 1
  is_counted_NBW = jnp.asarray(branches.is_completion_NRC)[..., 1:]
  tokens_NB = is_counted_NBW.sum(-1)
  advantage_NKG = advantages.group_advantages(
    reward_NKG, divide_by_std=divide_by_std
  )
  return MicroBatch(
    trunk_NUS=trunks.tokens_NS[:, None],
    trunk_length_NU=trunks.length_N[:, None],
    trunk_of_NB=jnp.zeros((n, r), jnp.int32),
    tokens_NBW=branches.tokens_NRC[..., :-1],
    position_NBW=jnp.where(is_token_NBW, branch_at_NR[..., None] + cell_W, -1),
    first_NBW=jnp.zeros(shape, jnp.int32),
    targets_NBW=branches.tokens_NRC[..., 1:],
    completion_tokens_NBW=jnp.where(is_counted_NBW, tokens_NB[..., None], 0),
    sampler_logp_NBW=branches.sampler_logp_NRC[..., 1:],
    advantage_NBW=wide(jnp.asarray(advantage_NKG).reshape(n, r)),
    is_fresh_NBW=jnp.full(shape, is_fresh),
    branches_N=(tokens_NB > 0).sum(-1),
  )
