# SPDX-License-Identifier: Apache-2.0
"""In-graph sampling of branches: trunks once, then one decoding loop.

The trunk's keys and values are computed in one pass (`prefill`) and read by
all of its branches. A `lax.while_loop` (`decode`) then runs the slots of every
trunk together, one token a turn; the given stem tokens go through the same
loop, so a branch is treated alike whatever the length of its stem. A slot
whose branch has drawn a stop token or reached its limit takes the next one
from the trunk's queue. The loop ends with the last branch.

The cache of a slot is a ring: all slots write the same column at a turn, and
what a branch has left behind is marked as empty when the next one moves in.
The ring starts small and doubles when some branch grows out of it.

It takes a model as functions of (params, arrays) and knows nothing of its
inside. Rewards, meshes and files are not its business.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from srl_jax.ops import sampling
from srl_jax.types import Branches, Decoding, Trunks


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
    slots: how many branches of a trunk are decoded at a time; the others wait
      for a free slot. 0 decodes all at once, which is best where completions
      run to their limit. Where most end far below it (metric
      `slot_occupancy` below a half), half the branches or fewer take no more
      turns, and each turn is cheaper: benchmarks/slots.py measures it.
    cache_start: the branch cache starts with room for so many tokens, or
      somewhat more, and doubles when a branch needs it; 0 for all the room
      at once. Every width is a loop to compile, so set it below the default
      only where the usual completion is much shorter than that; see
      benchmarks/slots.py.
  """

  samples: int = 8
  max_new_tokens: int = 256
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  slots: int = 0
  cache_start: int = 512

  def __post_init__(self):
    for name, is_allowed, allowed in (
      ("samples", self.samples >= 1, "1 or more"),
      ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
      ("temperature", self.temperature >= 0, "0 (greedy) or more"),
      ("top_k", self.top_k >= 0, "0 (off) or more"),
      ("top_p", 0 < self.top_p <= 1, "above 0, up to 1 (off)"),
      ("slots", self.slots >= 0, "0 (all at once) or more"),
      ("cache_start", self.cache_start >= 0, "0 (all the room) or more"),
    ):
      if not is_allowed:
        raise ValueError(
          f"sampling {name}={getattr(self, name)} is not allowed; set it to "
          f"{allowed}"
        )


class Policy(Protocol):
  """What sampler and trainer need of a model; see `LanguageModel`."""

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
  ) -> tuple[Any, Any]: ...

  def logits(self, params: Any, hidden_D: Any) -> Any: ...

  def head(self, params: Any) -> Any: ...

  def init_cache(self, trunk: Any, branches: int, width: int) -> Any: ...


class Prefilled(NamedTuple):
  """What the decoding loop reads and never changes.

  Attributes:
    params: as `Policy.for_decoding` returns them.
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
  temperature: jax.Array | None = None,
) -> tuple[Branches, Decoding]:
  """Samples `config.samples` completions at every real branch point.

  The branches of a trunk are ordered point by point: r = k * G + g. The
  random numbers of a token follow from (key, point_id, sample, position in
  the completion) and from nothing else, so a sample does not depend on what
  else is in the batch, on how it is laid out or on the number of slots.

  Example, with a model that always continues a token t with t + 1, greedy,
  stop token 9, padding 0, at most 4 new tokens, and one trunk [5, 6, 7]:

      branch_at  stem     completion     ended by
      2          [3]      [4, 5, 6, 7]   the limit of 4
      3          [1, 7]   [8, 9]         the stop token

      tokens_NRC        [[[3, 4, 5, 6, 7, 0], [1, 7, 8, 9, 0, 0]]]
      length_NR         [[5, 4]]
      stopped_NR        [[False, True]]

  The four turns of the loop, in which the first slot always has a token to
  run and the second three times, make busy_N [7] and slot_turns_N [8]; with
  one slot there are seven turns, all of them busy.

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
    temperature 1. And how full the slots were.
  """
  return decode(
    policy,
    prefill(policy, params, trunks),
    trunks,
    key,
    config=config,
    stop_ids=stop_ids,
    pad_id=pad_id,
    temperature=temperature,
  )


def prefill(policy: Policy, params: Any, trunks: Trunks) -> Prefilled:
  """The first half of a rollout: everything that is computed once."""
  params = policy.for_decoding(params)
  position_NS = trunk_positions(trunks)
  return Prefilled(params, policy.trunk(params, trunks.tokens_NS, position_NS))


class _Queue(NamedTuple):
  """The branches of each trunk, and the order in which slots take them."""

  branch_at_NR: jax.Array
  stem_NRC: jax.Array
  stem_length_NR: jax.Array
  key_NR: jax.Array
  order_NR: jax.Array
  length_N: jax.Array


class _Slots(NamedTuple):
  """What each slot is at: the token that it runs next, of which branch.

  `branch_NB` is R in an idle slot, and the other entries are 0 there.
  """

  branch_NB: jax.Array
  age_NB: jax.Array
  token_NB: jax.Array


class _Ended(NamedTuple):
  """Of branches that have ended: last turn, slot, length; zeros before."""

  turn_NR: jax.Array
  slot_NR: jax.Array
  length_NR: jax.Array
  is_stopped_NR: jax.Array


@flax.struct.dataclass
class _State:
  """The loop's state. The tapes hold what each slot made at each turn."""

  turn: jax.Array
  column: jax.Array
  taken_N: jax.Array
  busy_N: jax.Array
  slots: _Slots
  ended: _Ended
  token_TNB: jax.Array
  logp_TNB: jax.Array
  cache: Any


def decode(
  policy: Policy,
  prefilled: Prefilled,
  trunks: Trunks,
  key: jax.Array,
  *,
  config: SamplingConfig,
  stop_ids: tuple[int, ...],
  pad_id: int,
  temperature: jax.Array | None = None,
) -> tuple[Branches, Decoding]:
  """The second half of a rollout; see there."""
  queue = _make_queue(trunks, key, config.samples)
  n, r, stem_width = queue.stem_NRC.shape
  # The last token of a full row is never run.
  steps = stem_width + config.max_new_tokens - 1
  widths = cache_widths(config.cache_start, steps)
  cache = policy.init_cache(
    prefilled.trunk, min(config.slots or r, r), widths[0]
  )
  state = _first_state(queue, cache, steps)
  stops = jnp.asarray(stop_ids, jnp.int32)

  def advance(state: _State) -> _State:
    slots = state.slots
    branch_at_NB = _of_slots(queue.branch_at_NR, slots)
    is_live_NB = slots.branch_NB < r
    position_NB = jnp.where(is_live_NB, branch_at_NB + slots.age_NB, -1)
    hidden_NBTD, cache = policy.branch(
      prefilled.params,
      slots.token_NB[..., None],
      position_NB[..., None],
      branch_at_NB,
      prefilled.trunk,
      state.cache,
      state.column,
    )
    logits_NBV = policy.logits(prefilled.params, hidden_NBTD[:, :, 0])
    place_NB = slots.age_NB + 1 - _of_slots(queue.stem_length_NR, slots)
    drawn_NB, logp_NB = _draw(
      config,
      config.temperature if temperature is None else temperature,
      logits_NBV,
      _of_slots(queue.key_NR, slots),
      place_NB,
    )
    is_drawn_NB = is_live_NB & (place_NB >= 0)
    token_NB = jnp.where(is_drawn_NB, drawn_NB, _given(queue, slots))
    is_stop_NB = is_drawn_NB & (token_NB[..., None] == stops).any(-1)
    is_full_NB = is_drawn_NB & (place_NB + 1 >= config.max_new_tokens)
    state = state.replace(cache=cache)
    state = _record(
      state, token_NB, logp_NB, is_stop_NB | is_full_NB, is_stop_NB
    )
    return state if slots.age_NB.shape[1] == r else _refill(state, queue)

  for i, width in enumerate(widths):
    if i:
      state = _grow(state, width)
    state = jax.lax.while_loop(
      lambda state, width=width: (
        (state.slots.branch_NB < r).any() & (state.slots.age_NB < width).all()
      ),
      advance,
      state,
    )
  slot_turns = state.turn * state.slots.age_NB.shape[1]
  return (
    _assemble(state, queue, config.max_new_tokens, pad_id),
    Decoding(state.busy_N, jnp.full(n, slot_turns)),
  )


def _make_queue(trunks: Trunks, key: jax.Array, samples: int) -> _Queue:
  repeat = functools.partial(jnp.repeat, repeats=samples, axis=1)
  is_real_NR = repeat(trunks.is_real_NK)
  return _Queue(
    repeat(trunks.branch_at_NK),
    repeat(trunks.stem_NKC),
    repeat(trunks.stem_length_NK),
    _branch_keys(key, trunks.point_id_NK, samples),
    jnp.argsort(~is_real_NR, axis=1, stable=True),
    is_real_NR.sum(1),
  )


def cache_widths(start: int, steps: int) -> list[int]:
  """Ends with `steps`; each is half of the next, none less than `start`."""
  widths = [steps]
  while start and -(-widths[0] // 2) >= start:
    widths.insert(0, -(-widths[0] // 2))
  return widths


def _first_state(queue: _Queue, cache: Any, steps: int) -> _State:
  n, r = queue.order_NR.shape
  slots = cache.position.shape[1]
  # A slot is never idle while a branch waits, so the last one begins before
  # the others' steps, spread evenly over the slots, are over.
  turns = steps if slots == r else (r - 1) * steps // slots + steps
  zeros_NB = jnp.zeros((n, slots), jnp.int32)
  zeros_NR = jnp.zeros((n, r), jnp.int32)
  state = _State(
    turn=jnp.int32(0),
    column=jnp.int32(0),
    taken_N=zeros_NB[:, 0],
    busy_N=zeros_NB[:, 0],
    slots=_Slots(zeros_NB + r, zeros_NB, zeros_NB),
    ended=_Ended(zeros_NR, zeros_NR, zeros_NR, zeros_NR > 0),
    token_TNB=jnp.zeros((turns, n, slots), jnp.int32),
    logp_TNB=jnp.zeros((turns, n, slots), jnp.float32),
    cache=cache,
  )
  return _refill(state, queue)


def _of_slots(x_NR: jax.Array, slots: _Slots) -> jax.Array:
  """The entries [N, B, ...] of the branches that the slots hold."""
  take = lambda x_R, branch_B: x_R.at[branch_B].get(mode="clip")  # noqa: E731
  return jax.vmap(take)(x_NR, slots.branch_NB)


def _given(queue: _Queue, slots: _Slots) -> jax.Array:
  """The stem tokens that follow those which the slots run."""
  stem_NBC = _of_slots(queue.stem_NRC, slots)
  next_NB = jnp.minimum(slots.age_NB + 1, stem_NBC.shape[2] - 1)
  return jnp.take_along_axis(stem_NBC, next_NB[..., None], axis=2)[..., 0]


def _record(state, token_NB, logp_NB, is_done_NB, is_stop_NB) -> _State:
  """Puts what the slots made on the tapes, and moves them on."""
  branch_NB, age_NB, _ = state.slots
  r = state.ended.turn_NR.shape[1]
  is_live_NB = branch_NB < r
  # Of each branch, the slot in which it ends now.
  ends_NBR = is_done_NB[..., None] & (branch_NB[..., None] == jnp.arange(r))
  ends_NR = ends_NBR.any(1)

  def keep(old_NR, value_NB):
    value_NR = jnp.sum(ends_NBR * value_NB[..., None], axis=1)
    return jnp.where(ends_NR, value_NR.astype(old_NR.dtype), old_NR)

  slot_B = jnp.arange(branch_NB.shape[1])
  record = jax.lax.dynamic_update_index_in_dim
  goes_on_NB = is_live_NB & ~is_done_NB
  return state.replace(
    turn=state.turn + 1,
    column=(state.column + 1) % state.cache.position.shape[-1],
    busy_N=state.busy_N + is_live_NB.sum(1),
    slots=_Slots(
      jnp.where(goes_on_NB, branch_NB, r),
      jnp.where(goes_on_NB, age_NB + 1, 0),
      jnp.where(goes_on_NB, token_NB, 0),
    ),
    ended=_Ended(
      keep(state.ended.turn_NR, jnp.full_like(age_NB, state.turn)),
      keep(state.ended.slot_NR, jnp.broadcast_to(slot_B, age_NB.shape)),
      keep(state.ended.length_NR, age_NB + 2),
      keep(state.ended.is_stopped_NR, is_stop_NB),
    ),
    token_TNB=record(state.token_TNB, token_NB, state.turn, 0),
    logp_TNB=record(state.logp_TNB, logp_NB, state.turn, 0),
  )


def _refill(state: _State, queue: _Queue) -> _State:
  """Gives the next branches of each trunk's queue to its idle slots."""
  slots, r = state.slots, queue.order_NR.shape[1]
  is_idle_NB = slots.branch_NB == r
  place_NB = state.taken_N[:, None] + jnp.cumsum(is_idle_NB, axis=1) - 1
  is_taken_NB = is_idle_NB & (place_NB < queue.length_N[:, None])
  at_NB = jnp.minimum(place_NB, r - 1)
  next_NB = jnp.take_along_axis(queue.order_NR, at_NB, axis=1)
  branch_NB = jnp.where(is_taken_NB, next_NB, slots.branch_NB)
  slots = slots._replace(branch_NB=branch_NB)
  first_NB = _of_slots(queue.stem_NRC[..., 0], slots)
  return state.replace(
    taken_N=state.taken_N + is_taken_NB.sum(1),
    slots=slots._replace(
      token_NB=jnp.where(is_taken_NB, first_NB, slots.token_NB)
    ),
    cache=state.cache.forget(is_taken_NB),
  )


def _grow(state: _State, width: int) -> _State:
  """Widens the cache once it is full; the oldest column comes to the front."""
  full = state.cache.position.shape[-1]
  return state.replace(
    cache=state.cache.grow(width, state.column), column=jnp.int32(full)
  )


def _assemble(
  state: _State, queue: _Queue, max_new_tokens: int, pad_id: int
) -> Branches:
  """Finds the tokens of each branch on the tapes."""
  ended = state.ended
  width = queue.stem_NRC.shape[2] + max_new_tokens
  slots_C = jnp.arange(width)
  length_NR1 = ended.length_NR[..., None]
  is_token_NRC = slots_C < length_NR1
  is_drawn_NRC = is_token_NRC & (slots_C >= queue.stem_length_NR[..., None])
  # The last token of a branch was made in its last turn.
  turn_NRC = ended.turn_NR[..., None] - (length_NR1 - 1) + slots_C

  def of_branches(tape_TNB, otherwise):
    of_trunk = lambda tape_TB, turn_RC, slot_R: (  # noqa: E731
      tape_TB.at[turn_RC, slot_R[:, None]].get(mode="clip")
    )
    found_NRC = jax.vmap(of_trunk, in_axes=(1, 0, 0))(
      tape_TNB, turn_NRC, ended.slot_NR
    )
    return jnp.where(is_drawn_NRC, found_NRC, otherwise)

  stem_NRC = jnp.pad(queue.stem_NRC, ((0, 0), (0, 0), (0, max_new_tokens)))
  return Branches(
    tokens_NRC=of_branches(
      state.token_TNB, jnp.where(is_token_NRC, stem_NRC, pad_id)
    ),
    length_NR=ended.length_NR,
    is_completion_NRC=is_drawn_NRC,
    sampler_logp_NRC=of_branches(state.logp_TNB, 0.0),
    stopped_NR=ended.is_stopped_NR,
  )


def trunk_positions(trunks: Trunks) -> jax.Array:
  """Positions [N, S] of the trunk tokens, -1 on padding."""
  slots_S = jnp.arange(trunks.tokens_NS.shape[1])
  return jnp.where(slots_S < trunks.length_N[:, None], slots_S, -1)


def _branch_keys(key, point_id_NK, samples):
  """One key per branch [N, R]; the position is folded in at each draw."""

  def of_point(point_id):
    point_key = jax.random.fold_in(key, point_id)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return fold(point_key, jnp.arange(samples))

  key_NKG = jax.vmap(jax.vmap(of_point))(point_id_NK)
  return key_NKG.reshape(point_id_NK.shape[0], -1)


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
