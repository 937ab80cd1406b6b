# SPDX-License-Identifier: Apache-2.0
"""In-graph sampling of branches: trunks once, then one decoding loop.

`prefill` computes the keys and values of each trunk in one pass, and all its
branches read them. `decode` is a `lax.while_loop` that runs the slots of all
trunks together, one token per slot and iteration. The given stem tokens go
through the same loop, so stems may differ in length. When the branch of a slot
draws a stop token or reaches its limit, the slot takes the next branch from the
trunk's queue. The loop ends with the last branch.

The bookkeeping of slots is in slots.py. The model comes in as functions of
(params, arrays). Not for: rewards, meshes, files.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srl_jax import sharding, strict
from srl_jax.ops import sampling
from srl_jax.policy import Policy, trunk_positions
from srl_jax.rollout.slots import (
  Slots,
  State,
  TrunkQueue,
  assemble,
  cache_widths,
  first_state,
  given,
  grow,
  make_queue,
  of_slots,
  record,
  refill,
)
from srl_jax.types import Branches, SlotUse, Trunks

# First widths of the cache. A loop more compiles in seconds on a CPU, and takes
# an accelerator's compiler much longer.
CACHE_START, _START_ON_CPU = 512, 64


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """What a compiled sampler needs to know.

  Fields shared with `train.rl_config.RoundConfig` have the same meaning.

  Attributes:
    samples: completions per branch point (the group size G).
    max_new_tokens: limit of each completion in tokens, stop token included
      and stem tokens excluded.
    temperature: divisor of the logits; 0 takes the most likely token.
    slots: branches of a trunk that are decoded at a time; 0 for all at once.
    cache_start: initial width of the branch cache in tokens, which doubles
      when a branch needs it; 0 for the full width, as always where decoding
      reads only what is seen; -1 for 64 on a CPU and 512 elsewhere. No run
      sets it; benchmarks/slots.py does.
  """

  samples: int = 8
  max_new_tokens: int = 256
  temperature: float = 1.0
  slots: int = 0
  cache_start: int = -1

  def __post_init__(self):
    strict.check_numbers(
      self,
      samples="[1, )",
      max_new_tokens="[1, )",
      temperature="[0, )",
      slots="[0, )",
      cache_start="[-1, )",
    )


class Prefilled(NamedTuple):
  """What the decoding loop reads and never changes.

  Attributes:
    params: parameters as `Policy.for_decoding` returns them.
    trunk: keys and values of the trunks.
  """

  params: Any
  trunk: Any


def rollout(
  policy: Policy,
  params: Any,
  trunks: Trunks,
  key: jax.Array,
  *,
  config: SamplingConfig,
  stop_ids: tuple[int, ...],
  pad_id: int,
) -> tuple[Branches, SlotUse]:
  """Samples `config.samples` completions at every real branch point.

  The branches of a trunk are ordered point by point: r = k * G + g. The
  random numbers of a token follow from (key, point_id, sample, position in
  the completion) and from nothing else. So a sample does not depend on the
  rest of the batch, on its layout or on the number of slots.

  Example, with a model that always continues a token t with t + 1, greedy,
  stop token 9, padding 0, at most 4 new tokens, and one trunk [5, 6, 7]:

      branch_at  stem     completion     ended by
      2          [3]      [4, 5, 6, 7]   the limit of 4
      3          [1, 7]   [8, 9]         the stop token

      tokens_NRC        [[[3, 4, 5, 6, 7, 0], [1, 7, 8, 9, 0, 0]]]
      length_NR         [[5, 4]]
      stopped_NR        [[False, True]]

  The loop takes four iterations. The first slot runs a token in all of them,
  the second in three: busy_N is [7] and slot_iterations_N is [8]. With one slot
  there are seven iterations, all of them busy.

  Args:
    policy: the model's functions.
    params: the model's parameters.
    trunks: the batch of trunks; its widths are static.
    key: random key of this round of sampling.
    config: how to draw; static.
    stop_ids: token ids that end a completion and belong to it.
    pad_id: token id that fills the rest of each row.

  Returns:
    Branches of width C = stem width + max_new_tokens, and how full the slots
    were. Log-probs are those of the distribution drawn from; in greedy
    decoding, those of the policy at temperature 1.
  """
  return decode(
    policy,
    prefill(policy, params, trunks),
    trunks,
    key,
    config=config,
    stop_ids=stop_ids,
    pad_id=pad_id,
  )


@jax.named_scope("prefill")
def prefill(policy: Policy, params: Any, trunks: Trunks) -> Prefilled:
  """Runs the first half of a rollout: all that is computed once."""
  params = policy.for_decoding(params)
  position_NS = trunk_positions(trunks.length_N, trunks.tokens_NS.shape[1])
  return Prefilled(params, policy.trunk(params, trunks.tokens_NS, position_NS))


@jax.named_scope("decode")
def decode(
  policy: Policy,
  prefilled: Prefilled,
  trunks: Trunks,
  key: jax.Array,
  *,
  config: SamplingConfig,
  stop_ids: tuple[int, ...],
  pad_id: int,
) -> tuple[Branches, SlotUse]:
  """Runs the second half of `rollout`, which documents the arguments."""
  queue = make_queue(trunks, key, config.samples)
  n, r, stem_width = queue.stem_NRC.shape
  # The model never runs the last token of a full row: nothing follows it.
  iterations = stem_width + config.max_new_tokens - 1
  widths = cache_widths(_cache_start(policy, config), iterations)
  cache = policy.init_cache(
    prefilled.trunk, min(config.slots or r, r), widths[0]
  )
  state = first_state(queue, cache, iterations)

  def advance(state: State) -> State:
    made = run_slots(
      policy,
      prefilled,
      state.cache,
      state.column,
      state.slots,
      queue,
      stop_ids=stop_ids,
      max_new=config.max_new_tokens,
      temperature=config.temperature,
      is_greedy=config.temperature == 0,
      is_random=config.temperature > 0,
    )
    state = record(
      state.replace(cache=made.cache),
      made.token_NB,
      made.logp_NB,
      made.is_stop_NB | made.is_full_NB,
      made.is_stop_NB,
    )
    return state if state.slots.age_NB.shape[1] == r else refill(state, queue)

  for i, width in enumerate(widths):
    if i:
      state = grow(state, width)
    state = jax.lax.while_loop(
      lambda state, width=width: (
        (state.slots.branch_NB < r).any() & (state.slots.age_NB < width).all()
      ),
      advance,
      state,
    )
  slot_iterations = state.iteration * state.slots.age_NB.shape[1]
  return (
    assemble(state, queue, config.max_new_tokens, pad_id),
    SlotUse(state.busy_N, jnp.full(n, slot_iterations)),
  )


def _cache_start(policy: Policy, config: SamplingConfig) -> int:
  # Where the width of the cache costs no time, one loop is compiled.
  if policy.reads_what_is_seen:
    return 0
  if config.cache_start >= 0:
    return config.cache_start
  return _START_ON_CPU if sharding.device_kind() == "cpu" else CACHE_START


class Made(NamedTuple):
  """What an iteration made in each slot.

  Attributes:
    token_NB: the token that comes next: drawn, or of the stem.
    logp_NB: log-prob of a drawn token, in nats.
    is_drawn_NB: False in idle slots, and where the stem goes on.
    is_stop_NB: True where a stop token was drawn.
    is_full_NB: True where the last token allowed was drawn.
    logits_NBV: of the model.
    cache: with the tokens that were run.
  """

  token_NB: jax.Array
  logp_NB: jax.Array
  is_drawn_NB: jax.Array
  is_stop_NB: jax.Array
  is_full_NB: jax.Array
  logits_NBV: jax.Array
  cache: Any


def run_slots(
  policy: Policy,
  prefilled: Prefilled,
  cache: Any,
  column: jax.Array,
  slots: Slots,
  queue: TrunkQueue,
  *,
  stop_ids: tuple[int, ...],
  max_new: int | jax.Array,
  start_NB: jax.Array | None = None,
  **drawing: Any,
) -> Made:
  """Runs the next token of every slot; one iteration of a decoding loop.

  Args:
    policy: the model's functions.
    prefilled: parameters and trunks.
    cache: keys and values of the slots.
    column: where the cache gets those of this iteration.
    slots: the branches that run, and their tokens.
    queue: the branches of each trunk.
    stop_ids: token ids that end a completion.
    max_new: limit of a completion in tokens, of all slots or of each [N, B].
    start_NB: where the trunk of each slot begins; None if at 0.
    **drawing: the keywords of `draw`.
  """
  branch_NB, age_NB, token_NB = slots
  branch_at_NB = of_slots(queue.branch_at_NR, branch_NB)
  is_live_NB = branch_NB < queue.branch_at_NR.shape[1]
  position_NB = jnp.where(is_live_NB, branch_at_NB + age_NB, -1)
  hidden_NBTD, cache = policy.branch(
    prefilled.params,
    token_NB[..., None],
    position_NB[..., None],
    branch_at_NB,
    prefilled.trunk,
    cache,
    column,
    start_NB,
  )
  logits_NBV = policy.logits(prefilled.params, hidden_NBTD[:, :, 0])
  place_NB = age_NB + 1 - of_slots(queue.stem_length_NR, branch_NB)
  key_NB = of_slots(queue.key_NR, branch_NB)
  drawn_NB, logp_NB = draw(logits_NBV, key_NB, place_NB, **drawing)
  is_drawn_NB = is_live_NB & (place_NB >= 0)
  given_NB = given(queue.stem_NRC, branch_NB, age_NB)
  token_NB = jnp.where(is_drawn_NB, drawn_NB, given_NB)
  is_stop_NBI = token_NB[..., None] == jnp.asarray(stop_ids, jnp.int32)
  return Made(
    token_NB,
    logp_NB,
    is_drawn_NB,
    is_drawn_NB & is_stop_NBI.any(-1),
    is_drawn_NB & (place_NB + 1 >= max_new),
    logits_NBV,
    cache,
  )


@jax.named_scope("draw")
def draw(
  logits_NBV: jax.Array,
  key_NB: jax.Array,
  place_NB: jax.Array,
  *,
  temperature: float | jax.Array,
  top_k: int | jax.Array = 0,
  top_p: float | jax.Array = 1.0,
  is_greedy: bool,
  is_random: bool,
) -> tuple[jax.Array, jax.Array]:
  """Draws a token in every slot; returns tokens and their log-probs.

  Args:
    logits_NBV: of the model.
    key_NB: the key of each slot's branch.
    place_NB: position of the token in its completion.
    temperature: of all slots, or of each [N, B, 1]; 0 takes the most likely.
    top_k: see `sampling.distribution`.
    top_p: see `sampling.distribution`.
    is_greedy: whether any temperature may be 0.
    is_random: whether any temperature may be above 0.
  """
  logp_NBV = sampling.distribution(
    logits_NBV,
    temperature=jnp.where(temperature == 0, 1.0, temperature),
    top_k=top_k,
    top_p=top_p,
  )
  logp_BV = logp_NBV.reshape(place_NB.size, -1)
  if is_greedy:
    token_B = sampling.draw_greedy(logp_BV)
  if is_random:
    key_B = jax.vmap(jax.random.fold_in)(
      key_NB.reshape(-1), place_NB.reshape(-1)
    )
    drawn_B = sampling.draw(key_B, logp_BV)
    if is_greedy:
      token_B = jnp.where((temperature == 0).reshape(-1), token_B, drawn_B)
    else:
      token_B = drawn_B
  chosen_B = jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]
  return token_B.reshape(place_NB.shape), chosen_B.reshape(place_NB.shape)
