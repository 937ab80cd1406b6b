# SPDX-License-Identifier: Apache-2.0
"""In-graph sampling of branches: trunks once, then one decoding loop.

The trunk's keys and values are computed in one pass and read by all of its
branches. A `lax.while_loop` then decodes all branches together, one position
a turn; the given stem tokens go through the same loop, so a branch is treated
alike whatever the length of its stem. The loop ends when the last branch has
drawn a stop token or reached its limit.

It takes a model as functions of (params, arrays) and knows nothing of its
inside. Rewards, meshes and files are not its business.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from srl_jax.ops import sampling
from srl_jax.types import Branches, Trunks


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """How completions are drawn.

  Attributes:
    samples: completions per branch point (the group size G).
    max_new_tokens: limit of each completion, its stop token included; stem
      tokens do not count.
    temperature: divides the logits; 0 takes the most likely token.
    top_k: keep that many most likely tokens; 0 keeps all.
    top_p: keep the most likely tokens that hold this mass; 1.0 keeps all.
  """

  samples: int = 8
  max_new_tokens: int = 256
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self):
    for name, is_allowed, allowed in (
      ("samples", self.samples >= 1, "1 or more"),
      ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
      ("temperature", self.temperature >= 0, "0 (greedy) or more"),
      ("top_k", self.top_k >= 0, "0 (off) or more"),
      ("top_p", 0 < self.top_p <= 1, "above 0, up to 1 (off)"),
    ):
      if not is_allowed:
        raise ValueError(
          f"sampling {name}={getattr(self, name)} is not allowed; set it to "
          f"{allowed}"
        )


class Policy(Protocol):
  """What the sampler needs of a model; `LanguageModel` documents each."""

  def trunk(self, params: Any, tokens_NS: Any, position_NS: Any) -> Any: ...

  def branch(
    self,
    params: Any,
    tokens_NRT: Any,
    position_NRT: Any,
    branch_at_NR: Any,
    trunk: Any,
    cache: Any,
  ) -> tuple[Any, Any]: ...

  def logits(self, params: Any, hidden_D: Any) -> Any: ...

  def init_cache(self, trunks: int, branches: int, width: int) -> Any: ...


@flax.struct.dataclass
class _State:
  """The loop's state. Tokens before `slot` + 1 of every branch are final."""

  slot: jax.Array
  tokens_NRC: jax.Array
  logp_NRC: jax.Array
  length_NR: jax.Array
  is_done_NR: jax.Array
  is_stopped_NR: jax.Array
  cache: Any


def rollout(
  policy: Policy,
  params: Any,
  trunks: Trunks,
  key: jax.Array,
  *,
  config: SamplingConfig,
  stop_ids: tuple[int, ...],
  pad_id: int,
  temperature: jax.Array | None = None,
) -> Branches:
  """Samples `config.samples` completions at every real branch point.

  The branches of a trunk are ordered point by point: r = k * G + g. The
  random numbers of a token follow from (key, instance, sample, position in
  the completion) and from nothing else, so a sample does not depend on what
  else is in the batch or on how it is laid out.

  Example, with a model that always continues a token t with t + 1, greedy,
  stop token 9, padding 0, at most 4 new tokens, and one trunk [5, 6, 7]:

      branch_at  stem     completion     ended by
      2          [3]      [4, 5, 6, 7]   the limit of 4
      3          [1, 7]   [8, 9]         the stop token

      tokens_NRC        [[[3, 4, 5, 6, 7, 0], [1, 7, 8, 9, 0, 0]]]
      length_NR         [[5, 4]]
      stopped_NR        [[False, True]]

  Args:
    policy: the model's functions.
    params: its parameters.
    trunks: the batch; widths are static.
    key: random key of this round of sampling.
    config: static; see SamplingConfig.
    stop_ids: a completion ends with the first of these, which belongs to it.
    pad_id: fills the rest of the rows.
    temperature: instead of that of config, if it is to be an array; above 0.

  Returns:
    Branches of width C = stem width + max_new_tokens, whose log-probs are of
    the distribution drawn from; for greedy decoding, of the policy at
    temperature 1.
  """
  position_NS = trunk_positions(trunks)
  trunk = policy.trunk(params, trunks.tokens_NS, position_NS)
  repeat = lambda x: jnp.repeat(x, config.samples, axis=1)  # noqa: E731
  branch_at_NR = repeat(trunks.branch_at_NK)
  stem_length_NR = repeat(trunks.stem_length_NK)
  key_NR = _branch_keys(key, trunks.instance_NK, config.samples)
  stem_NRC = repeat(trunks.stem_NKC)
  room = ((0, 0), (0, 0), (0, config.max_new_tokens))
  tokens_NRC = jnp.pad(stem_NRC, room, constant_values=pad_id)
  n, r, width = tokens_NRC.shape
  stops = jnp.asarray(stop_ids, jnp.int32)

  def advance(state: _State) -> _State:
    column = jax.lax.dynamic_slice_in_dim
    is_live_NR = state.slot < state.length_NR
    position_NR = jnp.where(is_live_NR, branch_at_NR + state.slot, -1)
    hidden_NRTD, new = policy.branch(
      params,
      column(state.tokens_NRC, state.slot, 1, axis=2),
      position_NR[..., None],
      branch_at_NR,
      trunk,
      state.cache,
    )
    logits_NRV = policy.logits(params, hidden_NRTD[:, :, 0])
    following = state.slot + 1
    drawn_NR, logp_NR = _draw(
      config,
      config.temperature if temperature is None else temperature,
      logits_NRV,
      key_NR,
      following - stem_length_NR,
    )
    is_drawn_NR = (following >= stem_length_NR) & ~state.is_done_NR
    current_NR = column(state.tokens_NRC, following, 1, axis=2)[..., 0]
    token_NR = jnp.where(is_drawn_NR, drawn_NR, current_NR)
    logp_NR = jnp.where(is_drawn_NR, logp_NR, 0.0)
    is_stop_NR = is_drawn_NR & (token_NR[..., None] == stops).any(-1)
    is_full_NR = following + 1 - stem_length_NR >= config.max_new_tokens
    write = jax.lax.dynamic_update_slice_in_dim
    return _State(
      slot=following,
      tokens_NRC=write(
        state.tokens_NRC, token_NR[..., None], following, axis=2
      ),
      logp_NRC=write(state.logp_NRC, logp_NR[..., None], following, axis=2),
      length_NR=jnp.where(is_drawn_NR, following + 1, state.length_NR),
      is_done_NR=state.is_done_NR | is_stop_NR | (is_drawn_NR & is_full_NR),
      is_stopped_NR=state.is_stopped_NR | is_stop_NR,
      cache=state.cache.write(new, state.slot),
    )

  is_real_NR = repeat(trunks.is_real_NK)
  final = jax.lax.while_loop(
    lambda state: (state.slot < width - 1) & ~state.is_done_NR.all(),
    advance,
    _State(
      slot=jnp.int32(0),
      tokens_NRC=tokens_NRC,
      logp_NRC=jnp.zeros((n, r, width), jnp.float32),
      length_NR=jnp.where(is_real_NR, stem_length_NR, 0),
      is_done_NR=~is_real_NR,
      is_stopped_NR=jnp.zeros((n, r), bool),
      # The last token of a full row is never fed back: one slot less.
      cache=policy.init_cache(n, r, width - 1),
    ),
  )
  slots_C = jnp.arange(width)
  is_token_NRC = slots_C < final.length_NR[..., None]
  return Branches(
    tokens_NRC=jnp.where(is_token_NRC, final.tokens_NRC, pad_id),
    length_NR=final.length_NR,
    is_completion_NRC=is_token_NRC & (slots_C >= stem_length_NR[..., None]),
    sampler_logp_NRC=final.logp_NRC,
    stopped_NR=final.is_stopped_NR,
  )


def trunk_positions(trunks: Trunks) -> jax.Array:
  """Positions [N, S] of the trunk tokens, -1 on padding."""
  slots_S = jnp.arange(trunks.tokens_NS.shape[1])
  return jnp.where(slots_S < trunks.length_N[:, None], slots_S, -1)


def _branch_keys(key, instance_NK, samples):
  """One key per branch [N, R]; the position is folded in at each draw."""

  def of_point(instance):
    point_key = jax.random.fold_in(key, instance)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return fold(point_key, jnp.arange(samples))

  key_NKG = jax.vmap(jax.vmap(of_point))(instance_NK)
  return key_NKG.reshape(instance_NK.shape[0], -1)


def _draw(config, temperature, logits_NRV, key_NR, position_NR):
  """Draws a token for every branch; returns tokens and their log-probs."""
  logp_NRV = sampling.distribution(
    logits_NRV,
    temperature=1.0 if config.temperature == 0 else temperature,
    top_k=config.top_k,
    top_p=config.top_p,
  )
  n, r, vocab = logp_NRV.shape
  logp_BV = logp_NRV.reshape(n * r, vocab)
  if config.temperature == 0:
    token_B = sampling.draw_greedy(logp_BV)
  else:
    key_B = jax.vmap(jax.random.fold_in)(
      key_NR.reshape(-1), position_NR.reshape(-1)
    )
    token_B = sampling.draw(key_B, logp_BV)
  chosen_B = jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]
  return token_B.reshape(n, r), chosen_B.reshape(n, r)
