# SPDX-License-Identifier: Apache-2.0
"""The least work that an update step can be: what projections are held against.

The same tokens, laid out over the same devices, but: a query meets only the
keys that it sees, a trunk is computed once, nothing is padded or recomputed,
every slot always has a token, an iteration reads weights once and of keys and
values only those of tokens, and nothing goes over links.
"""

from __future__ import annotations

import jax.numpy as jnp

from srl_jax.models import ModelConfig

from .drawn import Batch
from .work import Split, Work


class Ideal:
  """Counts the least work of a model, per device."""

  def __init__(self, config: ModelConfig, split: Split):
    c = self._config = config
    self._split = split
    self._devices = split.size(split.mesh)
    self._size = jnp.dtype(c.dtype).itemsize
    self._heads = c.n_heads * c.head_width
    # Keys and values of a token.
    self._kv = 2 * c.n_layers * c.n_kv_heads * c.head_width
    block = c.d_model * (2 * self._heads + 3 * c.d_mlp)
    self._blocks = c.n_layers * block + c.d_model * self._kv
    self._table = c.vocab_size * c.d_model

  def trunks(self, trunks: float, length: int) -> Work:
    """Returns the work of `trunks` trunks on all devices together."""
    tokens = trunks * length
    flops = 2 * self._blocks * tokens + self._attend(tokens * (length + 1) / 2)
    return Work(flops / self._devices, self._weights(self._blocks))

  def decode(
    self, batch: Batch, completions: float, mean: float, live: float
  ) -> Work:
    """Returns the work of drawing completions.

    Args:
      batch: drawn branches, for how many keys a token sees.
      completions: how many are drawn, on all devices together.
      mean: their mean length in tokens.
      live: slots on all devices together.
    """
    tokens, shape = completions * mean, batch.shape
    cells = batch.cells_M.sum()
    own = float((batch.cells_M * (batch.cells_M + 1)).sum() / 2 / cells)
    at = float((batch.cells_M * batch.at_M).sum() / cells)
    flops = 2 * (self._blocks + self._table) * tokens
    flops += self._attend(tokens * (at + own))
    trunks = live / (shape.points * shape.samples)
    keys = (live * own + trunks * shape.trunk) * self._kv * self._size
    memory = self._weights(self._blocks + self._table) + keys / self._devices
    return Work(flops / self._devices, memory * tokens / live)

  def update(self, batch: Batch) -> Work:
    """Returns the work of the gradient of a batch; only compute counts."""
    branches = float(batch.cells_M.sum())
    tokens = float(batch.length_N.sum()) + branches
    # A matrix that is not trained needs no gradient.
    passes = 2 + (not self._config.lora.rank)
    flops = passes * 2 * (self._blocks * tokens + self._table * branches)
    flops += 3 * self._attend(batch.visible_pairs)
    return Work(flops / self._devices)

  def _attend(self, pairs: float) -> float:
    return 4 * pairs * self._heads * self._config.n_layers

  def _weights(self, elements: float) -> float:
    """Bytes of weights that a device reads."""
    return elements * self._size / self._split.parts("mlp")
