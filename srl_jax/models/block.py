# SPDX-License-Identifier: Apache-2.0
"""One block of the transformer: attention, then the MLP, each with a norm."""

from __future__ import annotations

from flax import linen as nn

from srl_jax.models import layers
from srl_jax.models.config import ModelConfig
from srl_jax.sharding import ShardingRules, constrain_tokens


class Block(nn.Module):
  """Reads a stream of tokens, and the keys and values that they see.

  The views of trunks and of the cache are the same in all layers; `trunk_kv`
  and `cache_kv` are the keys and values of this one.
  """

  config: ModelConfig
  rules: ShardingRules

  @nn.compact
  def __call__(
    self,
    x_NRTD,
    position_NRT,
    trunk_view,
    cache_view,
    layout,
    is_local,
    trunk_kv,
    cache_kv,
  ):
    c = self.config
    sources = [trunk_view.source(*trunk_kv)] if trunk_kv else []
    cache = layers.Cache(*cache_kv, cache_view) if cache_kv else None
    attend = layers.Attention(c, self.rules, name="attention")
    h_NRTD = self._norm("attention_norm", x_NRTD)
    h_NRTD, k, v = attend(
      h_NRTD, position_NRT, sources, cache, layout, is_local
    )
    if c.sandwich_norms:
      h_NRTD = self._norm("attention_out_norm", h_NRTD)
    x_NRTD = x_NRTD + h_NRTD
    h_NRTD = self._norm("mlp_norm", x_NRTD)
    h_NRTD = layers.GatedMLP(c, self.rules, name="mlp")(h_NRTD)
    if c.sandwich_norms:
      h_NRTD = self._norm("mlp_out_norm", h_NRTD)
    return constrain_tokens(x_NRTD + h_NRTD, self.rules), (k, v)

  def _norm(self, name, x_NRTD):
    return layers.RMSNorm(self.config, self.rules, name=name)(x_NRTD)
