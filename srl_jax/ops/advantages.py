# SPDX-License-Identifier: Apache-2.0
"""Group advantages, and the spread of a group's rewards.

Written with methods that numpy and JAX arrays share: both run on the host, and
inside a fused update step. The filter of dynamic sampling, which goes by the
spread, is `update/groups.py:is_kept`. The last axis is the group.
"""

from __future__ import annotations

from srl_jax.types import Array


def group_advantages(reward_G: Array, *, divide_by_std: bool = True) -> Array:
  """A = (r - mean) / std over the group (GRPO; SRL paper, Section 3).

  Example: rewards [1, 0, 0, 1] give [1, -1, -1, 1]; with the sample standard
  deviation (divisor G - 1) they would be +-0.866.

  Args:
    reward_G: [..., G] rewards of the samples of a group.
    divide_by_std: False keeps the scale of the rewards (Dr. GRPO).

  Returns:
    [..., G]; exactly zero where all rewards of a group are equal.
  """
  # Subtracting a member first makes equal rewards exactly zero, whatever the
  # rounding of their mean.
  shifted_G = reward_G - reward_G[..., :1]
  centred_G = shifted_G - shifted_G.mean(-1, keepdims=True)
  if not divide_by_std:
    return centred_G
  std_1 = (centred_G**2).mean(-1, keepdims=True) ** 0.5
  return centred_G / (std_1 + (std_1 == 0))


def group_std(reward_G: Array) -> Array:
  """Population standard deviation, divisor G, of each group.

  Dynamic sampling keeps a group if this is greater than epsilon. With rewards
  of 0 and 1 that means: some samples are correct, but not all.
  """
  shifted_G = reward_G - reward_G[..., :1]
  return shifted_G.std(-1)
