# SPDX-License-Identifier: Apache-2.0
"""Decoder-only transformer (Qwen, Llama, Gemma), on trunks and branches.

One set of weights serves all passes. `trunk` runs the trunk tokens once and
returns their keys and values. Branch tokens attend to the trunk and to their
own branch: `branch` runs them token by token with a cache, in the sampler;
`lanes` runs all tokens of the update at once, packed back to back, and with a
kernel trunks and branches in one pass. All use the same layers, so they agree.

Positions decide who sees whom: -1 marks padding, wherever it lies.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from srl_jax.models import layers, lora, plans
from srl_jax.models.block import Block
from srl_jax.models.config import LoraConfig, ModelConfig
from srl_jax.models.key_values import KeyValues, TrunkView
from srl_jax.ops import logprobs, tree_attention, trees
from srl_jax.ops.attention import Source
from srl_jax.sharding import (
  ShardingRules,
  constrain,
  constrain_tokens,
  device_kind,
  gather_weight,
  lookup,
  parts,
  row_split,
)

_policies = jax.checkpoint_policies
_REMAT = {
  "full": _policies.nothing_saveable,
  # A kernel's result is one of matrix products too.
  "dots": _policies.save_from_both_policies(
    _policies.dots_with_no_batch_dims_saveable,
    _policies.save_only_these_names(tree_attention.RESIDUALS),
  ),
}


class Transformer(nn.Module):
  """The module behind `LanguageModel`; see there for the methods.

  Its layers are stacked ("blocks"), or separate ("layers_0", ...) for decoding.
  """

  config: ModelConfig
  rules: ShardingRules
  is_stacked: bool = True

  def setup(self):
    c = self.config
    if self.is_stacked:
      block = Block
      if c.remat != "none":
        block = nn.remat(block, prevent_cse=False, policy=_REMAT[c.remat])
      self.blocks = nn.scan(
        block,
        length=c.n_layers,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(*(nn.broadcast,) * 4, 0, 0, 0),
        metadata_params={nn.PARTITION_NAME: "layers"},
      )(c, self.rules)
    else:
      self.layers = [Block(c, self.rules) for _ in range(c.n_layers)]
    normal = nn.initializers.normal(c.d_model**-0.5)
    self.embedding_VD = self._table("embedding", ("vocab", "embed"), normal)
    if not c.tie_embeddings:
      self.head_VD = self._table("head", ("vocab", "embed"), normal)
    self.final_norm = layers.RMSNorm(c, self.rules)

  def _table(self, name, axes, init):
    c = self.config
    return self.param(
      name,
      nn.with_logical_partitioning(init, axes),
      (c.vocab_size, c.d_model),
      jnp.dtype(c.param_dtype),
    )

  def __call__(self, tokens_NS):
    """Touches every parameter once; only for initialisation."""
    position_NS = jnp.indices(tokens_NS.shape)[1]
    x_NRTD, _ = self._run(tokens_NS[:, None], position_NS[:, None])
    return x_NRTD, self.head()

  def trunk(self, tokens_NS, position_NS):
    _, (k, v) = self._run(tokens_NS[:, None], position_NS[:, None])
    # The trunk runs as the only branch of its row.
    return KeyValues(k, v, position_NS)

  def branch(
    self, tokens_NRT, position_NRT, branch_at_NR, trunk, cache, column, start_NR
  ):
    position_NRC, decode_plans = position_NRT, None
    limit_NR1, first_NR1 = branch_at_NR[..., None] - 1, None
    if start_NR is not None:
      first_NR1 = start_NR[..., None]
      limit_NR1 += first_NR1
    trunk_view = TrunkView(trunk.position, limit_NR1, first_NRT=first_NR1)
    if cache is not None:
      position_NRC = jax.lax.dynamic_update_slice_in_dim(
        cache.position, position_NRT, column, axis=2
      )
      if plans.reads_what_is_seen(self.config):
        seen = trunk_view.source(None, None)
        own = Source(None, None, position_NRC, position_NRT)
        decode_plans = plans.plan_decoding(self.config, seen, own, position_NRT)
    x_NRTD, (k, v) = self._run(
      tokens_NRT,
      position_NRT,
      trunk_view=trunk_view,
      cache_view=layers.CacheView(position_NRC, column),
      layout=decode_plans,
      trunk_kv=(trunk.k, trunk.v),
      cache_kv=cache and (cache.k, cache.v),
    )
    return x_NRTD, KeyValues(k, v, position_NRC)

  def lanes(
    self,
    trunk_NUS,
    trunk_position_NUS,
    tokens_NBW,
    position_NBW,
    first_NBW,
    trunk_of_NB,
  ):
    """Trunks first, then the lanes that read their keys and values."""
    trunk_XS, position_XS = (
      x.reshape(-1, x.shape[-1]) for x in (trunk_NUS, trunk_position_NUS)
    )
    trunks = self.trunk(trunk_XS, position_XS)
    cell_W = jnp.arange(tokens_NBW.shape[-1])
    cell_NBW = jnp.where(position_NBW >= 0, cell_W, -1)
    # A branch begins at the position where it leaves its trunk.
    branch_at_NBW = position_NBW - (cell_NBW - first_NBW)
    x_NBWD, _ = self._run(
      tokens_NBW,
      position_NBW,
      trunk_view=TrunkView(trunks.position, branch_at_NBW - 1, trunk_of_NB),
      layout=layers.Lanes(cell_NBW, first_NBW),
      trunk_kv=(trunks.k, trunks.v),
    )
    return x_NBWD

  def rows(
    self,
    trunk_NUS,
    trunk_position_NUS,
    tokens_NBW,
    position_NBW,
    first_NBW,
    trunk_of_NB,
  ):
    """What `lanes` returns, from one pass over trunks and lanes together."""
    n, b, w = tokens_NBW.shape
    labels = trees.label_lanes(
      trunk_position_NUS, position_NBW, first_NBW, trunk_of_NB
    )
    trunk_tokens, (_, devices) = trunk_NUS[0].size, row_split(self.rules)
    real = trunk_tokens + b * w
    room = tree_attention.padded(real, devices) - real
    pad = functools.partial(jnp.pad, pad_width=((0, 0), (0, room)))
    labels = jax.tree.map(lambda x_NT: pad(x_NT, constant_values=-1), labels)
    both = [x.reshape(n, -1) for x in (trunk_NUS, tokens_NBW)]
    tokens_NT = jnp.concatenate(both, axis=1)
    x_NRTD, _ = self._run(
      pad(tokens_NT)[:, None],
      labels.position_NT[:, None],
      layout=plans.plan_rows(self.config, labels, devices),
    )
    x_NBWD = x_NRTD[:, 0, trunk_tokens:real].reshape(n, b, w, -1)
    return constrain_tokens(x_NBWD, self.rules)

  def _run(
    self,
    tokens,
    position,
    *,
    layout=None,
    trunk_view=None,
    cache_view=None,
    trunk_kv=None,
    cache_kv=None,
  ):
    # In the parameters' dtype: gradients of a frequent token are not summed in
    # bfloat16. Where the table's parts are: no device makes all its gradient.
    with jax.named_scope("embed"):
      x_NRTD = lookup(self.embedding_VD, tokens, self.rules)
      x_NRTD = x_NRTD.astype(self.config.dtype)
      if self.config.scale_embeddings:
        x_NRTD *= jnp.asarray(self.config.d_model**0.5, x_NRTD.dtype)
    x_NRTD = constrain_tokens(x_NRTD, self.rules)
    views = position, trunk_view, cache_view, layout
    kvs = trunk_kv, cache_kv
    local_L = self.config.is_local()
    if self.is_stacked:
      local_L = None if local_L is None else jnp.asarray(local_L)
      x_NRTD, kv = self.blocks(x_NRTD, *views, local_L, *kvs)
      return self.final_norm(x_NRTD), kv
    made = []
    for i, layer in enumerate(self.layers):
      of_layer = [kv and tuple(x[i] for x in kv) for kv in kvs]
      x_NRTD, kv = layer(x_NRTD, *views, local_L and local_L[i], *of_layer)
      made.append(kv)
    return self.final_norm(x_NRTD), tuple(zip(*made, strict=True))

  def head(self):
    table = self.embedding_VD if self.config.tie_embeddings else self.head_VD
    table = jnp.asarray(table, self.config.dtype)
    return gather_weight(table, ("vocab", "embed"), self.rules)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
  """Pure functions of (params, arrays), which is all that other code sees.

  Anything with the methods of `srl_jax.policy.Policy` can stand in for it (see
  `ScriptedModel` of the tests).
  """

  config: ModelConfig
  rules: ShardingRules = ShardingRules()

  def _apply(self, params, *args, method):
    is_stacked = not self.is_for_decoding(params)
    config = self.config if is_stacked else self._decoding().config
    module = Transformer(config, self.rules, is_stacked)
    return module.apply({"params": params}, *args, method=method)

  def _decoding(self) -> LanguageModel:
    """The model whose parameters `for_decoding` returns."""
    if not self.config.merges_adapters:
      return self
    config = dataclasses.replace(self.config, lora=LoraConfig())
    return dataclasses.replace(self, config=config)

  def init(self, key: jax.Array) -> Any:
    """Random parameters, boxed with their logical axis names."""
    module = Transformer(self.config, self.rules)
    return module.init(key, jnp.zeros((1, 2), jnp.int32))["params"]

  @property
  def reads_what_is_seen(self) -> bool:
    """Whether wider trunks and caches cost decoding memory, but no time."""
    return plans.reads_what_is_seen(self.config)

  def is_for_decoding(self, params: Any) -> bool:
    """Whether parameters are in the form of `for_decoding`."""
    return "blocks" not in params

  def for_decoding(self, params: Any) -> Any:
    """Returns the parameters in the form that suits a decoding loop.

    They are in the compute dtype, split as `rules` says, one array per layer,
    and in float32 adapters are merged. So no iteration of the loop casts them,
    sends them or copies a slice of them. The other methods take either form and
    compute the same numbers, up to the rounding of merged adapters. Parameters
    in this form already stay as they are.
    """
    if self.is_for_decoding(params):
      return params
    model = self._decoding()
    if not model.config.lora.rank:
      params = lora.merge(params, self.config.lora, "float32")
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0)))

    def of_leaf(box, x):
      return constrain(x.astype(self.config.dtype), box.names, self.rules)

    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    laid = jax.tree.map(of_leaf, boxed, params, is_leaf=is_box)
    stacked = laid.pop("blocks")
    for i in range(self.config.n_layers):
      laid[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], stacked)
    return laid

  def trunk(
    self, params: Any, tokens_NS: jax.Array, position_NS: jax.Array
  ) -> KeyValues:
    """Keys and values of the trunks, computed once for all branches.

    The positions of the tokens must rise along S. Padding (-1) may lie
    anywhere; with the cuDNN kernel it must lie right of the tokens.
    """
    return self._apply(params, tokens_NS, position_NS, method="trunk")

  def branch(
    self,
    params: Any,
    tokens_NRT: jax.Array,
    position_NRT: jax.Array,
    branch_at_NR: jax.Array,
    trunk: KeyValues,
    cache: KeyValues | None = None,
    column: jax.Array | None = None,
    start_NR: jax.Array | None = None,
  ) -> tuple[jax.Array, KeyValues]:
    """Hidden states [N, R, T, D] of branch tokens, and their keys and values.

    A token sees the trunk before `branch_at_NR`, and the cached and the given
    tokens of its own branch up to its own position. With a cache, the new keys
    and values are written into it at `column`, and the whole cache is returned.
    If a row has several trunks, `start_NR` is where a branch's trunk begins.
    """
    return self._apply(
      params,
      tokens_NRT,
      position_NRT,
      branch_at_NR,
      trunk,
      cache,
      column,
      start_NR,
      method="branch",
    )

  def lanes(
    self,
    params: Any,
    trunk_NUS: jax.Array,
    trunk_position_NUS: jax.Array,
    tokens_NBW: jax.Array,
    position_NBW: jax.Array,
    first_NBW: jax.Array,
    trunk_of_NB: jax.Array,
  ) -> jax.Array:
    """Hidden states [N, B, W, D] of branches that lie back to back in lanes.

    A token sees the trunk of its lane before the position at which its branch
    begins, and the tokens of its own branch up to itself.

    Args:
      params: the parameters.
      trunk_NUS: N rows of U trunks.
      trunk_position_NUS: positions of their tokens; -1 marks padding.
      tokens_NBW: N rows of B lanes of W cells.
      position_NBW: position of each token; -1 marks cells without a token.
      first_NBW: cell of the first token of the same branch.
      trunk_of_NB: which of the U trunks of its row a lane reads.
    """
    is_tree = tree_attention.is_chosen(self.config.lane_kernel, device_kind())
    return self._apply(
      params,
      trunk_NUS,
      trunk_position_NUS,
      tokens_NBW,
      position_NBW,
      first_NBW,
      trunk_of_NB,
      method="rows" if is_tree else "lanes",
    )

  def logits(self, params: Any, hidden_D: jax.Array) -> jax.Array:
    """Float32 logits [..., V] of hidden states [..., D]."""
    return logprobs.logits(self.head(params), hidden_D)

  def head(self, params: Any) -> logprobs.Head:
    """The output layer, for scoring tokens block by block."""
    table_VD = self._apply(params, method="head")
    mesh = jax.sharding.get_abstract_mesh()
    return logprobs.Head(
      table_VD,
      vocab_parts=parts(mesh, self.rules.axes_in_use("vocab")),
      token_parts=parts(mesh, self.rules.token_axes()),
      softcap=self.config.logit_softcap,
    )

  def init_cache(
    self, trunk: KeyValues, branches: int, width: int
  ) -> KeyValues:
    """An empty cache of `width` positions for the branches of each trunk."""
    n = trunk.position.shape[0]

    def zeros(shape_of):
      def of_array(x):
        *layers, _, h, y, z = x.shape
        shape = (*layers, n * branches, h, *shape_of(y, z))
        axes = (*(None for _ in layers), "batch", "kv_heads", None, None)
        return constrain(jnp.zeros(shape, x.dtype), axes, self.rules)

      return of_array

    return KeyValues(
      jax.tree.map(zeros(lambda e, _: (e, width)), trunk.k),
      jax.tree.map(zeros(lambda _, e: (width, e)), trunk.v),
      jnp.full((n, branches, width), -1, jnp.int32),
    )
