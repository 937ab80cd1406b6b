# SPDX-License-Identifier: Apache-2.0
"""The model as the sampler and the trainer see it."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp


class Policy(Protocol):
  """What sampler and trainer need from a model; see `LanguageModel`."""

  @property
  def reads_what_is_seen(self) -> bool: ...

  def is_laid_out(self, params: Any) -> bool: ...

  def for_decoding(self, params: Any) -> Any: ...

  def trunk(self, params: Any, tokens_NS: Any, position_NS: Any) -> Any: ...

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
  ) -> tuple[Any, Any]: ...

  def lanes(
    self,
    params: Any,
    trunk_NUS: Any,
    trunk_position_NUS: Any,
    tokens_NBW: Any,
    position_NBW: Any,
    first_NBW: Any,
    trunk_of_NB: Any,
  ) -> Any: ...

  def logits(self, params: Any, hidden_D: Any) -> Any: ...

  def head(self, params: Any) -> Any: ...

  def init_cache(self, trunk: Any, branches: int, width: int) -> Any: ...


def trunk_positions(length_N: jax.Array, width: int) -> jax.Array:
  """Returns the positions [N, S] of right-padded trunks, -1 on padding.

  Trunks may have more axes than N.
  """
  position_S = jnp.arange(width)
  return jnp.where(position_S < length_N[..., None], position_S, -1)
