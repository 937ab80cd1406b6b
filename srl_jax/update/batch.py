# SPDX-License-Identifier: Apache-2.0
"""The arrays that a loss is computed on, and what a loss is."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from srl_jax.types import Array, Branches, Ratio, Trunks


class MicroBatch(NamedTuple):
  """Some trunks with their branches, ready to be trained on.

  Attributes:
    trunks: the trunks and their branch points.
    branches: R = K * G branches of each; empty ones have length 0.
    reward_NKG: float32; rewards of the groups (zeros in SFT).
    is_fresh_NK: True for groups sampled by the very parameters that the
      batch now updates, so that their ratio starts at 1.
  """

  trunks: Trunks
  branches: Branches
  reward_NKG: Array
  is_fresh_NK: Array


class LossFn(Protocol):
  """Loss of one micro-batch: a ratio whose parts add, and its metrics."""

  def __call__(
    self, params: Any, batch: MicroBatch, reference: Any
  ) -> tuple[Ratio, Any]: ...
