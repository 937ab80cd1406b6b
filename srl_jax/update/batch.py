# SPDX-License-Identifier: Apache-2.0
"""The arrays that a loss is computed from, and the type of a loss."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from srl_jax.types import Array, Branches, Ratio, Trunks


class MicroBatch(NamedTuple):
  """Trunks with their branches, ready for training.

  Attributes:
    trunks: the trunks and their branch points.
    branches: R = K * G branches per trunk; empty branches have length 0.
    reward_NKG: float32 rewards of the groups (zeros in SFT).
    is_fresh_NK: True for groups sampled by the same parameters that the
      batch now updates, so that their ratio starts at 1.
  """

  trunks: Trunks
  branches: Branches
  reward_NKG: Array
  is_fresh_NK: Array


class LossFn(Protocol):
  """Loss of one micro-batch, as a ratio whose parts add, and its metrics."""

  def __call__(
    self, params: Any, batch: MicroBatch, reference: Any
  ) -> tuple[Ratio, Any]: ...
