# SPDX-License-Identifier: Apache-2.0
"""The model as the sampler and the trainer see it."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp


class Policy(Protocol):
  """What sampler and trainer need from a model.

  `LanguageModel` (models/transformer.py) says what arguments and results are.
  """

  @property
  def reads_what_is_seen(self) -> bool:
    """Whether wider trunks and caches cost decoding no time."""

  def is_for_decoding(self, params: Any) -> bool:
    """Whether parameters are in the form of `for_decoding`."""

  def for_decoding(self, params: Any) -> Any:
    """The parameters in the form that suits a decoding loop."""

  def trunk(self, params: Any, tokens_NS: Any, position_NS: Any) -> Any:
    """Keys and values of trunks."""

  def branch(
    self,
    params: Any,
    tokens_NRT: Any,
    position_NRT: Any,
    branch_at_NR: Any,
    trunk: Any,
    cache: Any = None,
    column: Any = None,
    start_NR: Any = None,
  ) -> tuple[Any, Any]:
    """Hidden states [N, R, T, D] of branch tokens; their keys and values."""

  def lanes(
    self,
    params: Any,
    trunk_NUS: Any,
    trunk_position_NUS: Any,
    tokens_NBW: Any,
    position_NBW: Any,
    first_NBW: Any,
    trunk_of_NB: Any,
  ) -> Any:
    """Hidden states [N, B, W, D] of branches that lie back to back."""

  def logits(self, params: Any, hidden_D: Any) -> Any:
    """Float32 logits [..., V] of hidden states [..., D]."""

  def head(self, params: Any) -> Any:
    """The output layer, for scoring tokens block by block."""

  def init_cache(self, trunk: Any, branches: int, width: int) -> Any:
    """An empty cache of `width` positions for the branches of each trunk."""


def trunk_positions(length_N: jax.Array, width: int) -> jax.Array:
  """Returns the positions [N, S] of right-padded trunks, -1 on padding.

  Trunks may have more axes than N.
  """
  position_S = jnp.arange(width)
  return jnp.where(position_S < length_N[..., None], position_S, -1)
