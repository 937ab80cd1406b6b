# SPDX-License-Identifier: Apache-2.0
"""Slots of the decoder: which branch each one runs, and what it has sampled.

This is the bookkeeping of `decode`, without model or sampling. A slot whose
branch has ended takes the next branch from its trunk's queue.

The cache of a slot is a ring. All slots write the same column in an iteration,
and the entries of an ended branch are marked as empty when the next branch
takes the slot. The ring starts small and doubles when a branch outgrows it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from srl_jax.types import Branches, Trunks, completion_mask, make_branches


class TrunkQueue(NamedTuple):
  """The branches of each trunk, in the order in which slots take them.

  No slot has taken the branches `waiting_NR` when the decoding begins.
  """

  waiting_NR: jax.Array
  branch_at_NR: jax.Array
  stem_NRC: jax.Array
  stem_length_NR: jax.Array
  key_NR: jax.Array


class Slots(NamedTuple):
  """The branch in each slot, and the token that the slot runs next.

  `age_NB` counts the tokens of the branch that the slot has run. An idle slot
  has `branch_NB` = R and zeros elsewhere.
  """

  branch_NB: jax.Array
  age_NB: jax.Array
  token_NB: jax.Array


class Ended(NamedTuple):
  """Last iteration, slot and length of each ended branch, or zeros."""

  iteration_NR: jax.Array
  slot_NR: jax.Array
  length_NR: jax.Array
  is_stopped_NR: jax.Array


@flax.struct.dataclass
class State:
  """State of the decoding loop.

  No slot has taken the branches `waiting_NR` yet. The tapes `token_TNB` and
  `logp_TNB` hold what each slot made in each iteration.
  """

  iteration: jax.Array
  column: jax.Array
  waiting_NR: jax.Array
  busy_N: jax.Array
  slots: Slots
  ended: Ended
  token_TNB: jax.Array
  logp_TNB: jax.Array
  cache: Any


def make_queue(trunks: Trunks, key: jax.Array, samples: int) -> TrunkQueue:
  """Queues `samples` branches of every branch point."""
  repeat = functools.partial(jnp.repeat, repeats=samples, axis=1)
  point_id_NR = repeat(trunks.point_id_NK)
  sample_R = jnp.tile(jnp.arange(samples), trunks.point_id_NK.shape[1])
  return TrunkQueue(
    repeat(trunks.is_real_NK),
    repeat(trunks.branch_at_NK),
    repeat(trunks.stem_NKC),
    repeat(trunks.stem_length_NK),
    branch_keys(
      key, point_id_NR, jnp.broadcast_to(sample_R, point_id_NR.shape)
    ),
  )


def branch_keys(
  key: jax.Array, point_id_NR: jax.Array, sample_NR: jax.Array
) -> jax.Array:
  """Returns a key per branch [N, R]; each draw folds its position in."""
  fold = jax.vmap(jax.vmap(jax.random.fold_in))
  key_NR = jnp.broadcast_to(key, sample_NR.shape)
  return fold(fold(key_NR, point_id_NR), sample_NR)


def cache_widths(start: int, iterations: int) -> list[int]:
  """Returns cache widths that end with `iterations`, each half of the next.

  No width is below `start`; with `start` 0, `iterations` is the only width.
  """
  widths = [iterations]
  while start and -(-widths[0] // 2) >= start:
    widths.insert(0, -(-widths[0] // 2))
  return widths


def first_state(queue: TrunkQueue, cache: Any, longest: int) -> State:
  """Returns the first state; a branch takes at most `longest` iterations."""
  n, r = queue.waiting_NR.shape
  slots = cache.position.shape[1]
  # No slot is idle while a branch waits. So the last branch begins, at the
  # latest, after the iterations of all others, spread evenly over the slots.
  iterations = longest if slots == r else (r - 1) * longest // slots + longest
  zeros_NB = jnp.zeros((n, slots), jnp.int32)
  zeros_NR = jnp.zeros((n, r), jnp.int32)
  state = State(
    iteration=jnp.int32(0),
    column=jnp.int32(0),
    waiting_NR=queue.waiting_NR,
    busy_N=zeros_NB[:, 0],
    slots=Slots(zeros_NB + r, zeros_NB, zeros_NB),
    ended=Ended(zeros_NR, zeros_NR, zeros_NR, zeros_NR > 0),
    token_TNB=jnp.zeros((iterations, n, slots), jnp.int32),
    logp_TNB=jnp.zeros((iterations, n, slots), jnp.float32),
    cache=cache,
  )
  return refill(state, queue)


def of_slots(x_NR: jax.Array, branch_NB: jax.Array) -> jax.Array:
  """Returns the entries [N, B, ...] of the branches that the slots hold."""
  take = lambda x_R, branch_B: x_R.at[branch_B].get(mode="clip")  # noqa: E731
  return jax.vmap(take)(x_NR, branch_NB)


def given(
  stem_NRC: jax.Array, branch_NB: jax.Array, age_NB: jax.Array
) -> jax.Array:
  """Returns the stem token that follows the one each slot now runs."""
  stem_NBC = of_slots(stem_NRC, branch_NB)
  next_NB = jnp.minimum(age_NB + 1, stem_NBC.shape[2] - 1)
  return jnp.take_along_axis(stem_NBC, next_NB[..., None], axis=2)[..., 0]


def record(state, token_NB, logp_NB, is_done_NB, is_stop_NB) -> State:
  """Writes tokens and log-probs to the tapes, and moves slots on."""
  branch_NB, age_NB, _ = state.slots
  r = state.ended.iteration_NR.shape[1]
  is_live_NB = branch_NB < r
  # True for the slot in which a branch ends in this iteration.
  ends_NBR = is_done_NB[..., None] & (branch_NB[..., None] == jnp.arange(r))
  ends_NR = ends_NBR.any(1)

  def keep(old_NR, value_NB):
    value_NR = jnp.sum(ends_NBR * value_NB[..., None], axis=1)
    return jnp.where(ends_NR, value_NR.astype(old_NR.dtype), old_NR)

  slot_B = jnp.arange(branch_NB.shape[1])
  goes_on_NB = is_live_NB & ~is_done_NB
  slots = Slots(
    jnp.where(goes_on_NB, branch_NB, r),
    jnp.where(goes_on_NB, age_NB + 1, 0),
    jnp.where(goes_on_NB, token_NB, 0),
  )
  ended = Ended(
    keep(state.ended.iteration_NR, jnp.full_like(age_NB, state.iteration)),
    keep(state.ended.slot_NR, jnp.broadcast_to(slot_B, age_NB.shape)),
    # The tokens that were run, and the one that was drawn now.
    keep(state.ended.length_NR, age_NB + 2),
    keep(state.ended.is_stopped_NR, is_stop_NB),
  )
  write = jax.lax.dynamic_update_index_in_dim
  return state.replace(
    iteration=state.iteration + 1,
    column=(state.column + 1) % state.cache.position.shape[-1],
    busy_N=state.busy_N + is_live_NB.sum(1),
    slots=slots,
    ended=ended,
    token_TNB=write(state.token_TNB, token_NB, state.iteration, 0),
    logp_TNB=write(state.logp_TNB, logp_NB, state.iteration, 0),
  )


def refill(state: State, queue: TrunkQueue) -> State:
  """Gives each trunk's idle slots the branches that wait."""
  branch_NB, age_NB, token_NB = state.slots
  branch_NB, is_taken_NB, waiting_NR = take_branches(
    branch_NB, state.waiting_NR
  )
  first_NB = of_slots(queue.stem_NRC[..., 0], branch_NB)
  return state.replace(
    waiting_NR=waiting_NR,
    slots=Slots(branch_NB, age_NB, jnp.where(is_taken_NB, first_NB, token_NB)),
    cache=state.cache.forget(is_taken_NB),
  )


def take_branches(
  branch_NB: jax.Array, waiting_NR: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gives idle slots waiting branches: the i-th of a row takes the i-th.

  Returns:
    The branch of each slot, which slots have taken one, and what still waits.
  """
  is_idle_NB = branch_NB == waiting_NR.shape[1]
  rank_NB1 = jnp.cumsum(is_idle_NB, axis=1)[..., None]
  rank_N1R = jnp.cumsum(waiting_NR, axis=1)[:, None]
  can_NBR = is_idle_NB[..., None] & waiting_NR[:, None]
  takes_NBR = can_NBR & (rank_NB1 == rank_N1R)
  is_taken_NB = takes_NBR.any(2)
  branch_NB = jnp.where(is_taken_NB, takes_NBR.argmax(2), branch_NB)
  return branch_NB, is_taken_NB, waiting_NR & ~takes_NBR.any(1)


def grow(state: State, width: int) -> State:
  """Widens a full cache, with its oldest column moved to the front."""
  full = state.cache.position.shape[-1]
  return state.replace(
    cache=state.cache.grow(width, state.column), column=jnp.int32(full)
  )


def assemble(
  state: State, queue: TrunkQueue, max_new_tokens: int, pad_id: int
) -> Branches:
  """Collects the tokens and log-probs of each branch from the tapes."""
  ended = state.ended
  width = queue.stem_NRC.shape[2] + max_new_tokens
  position_C = jnp.arange(width)
  is_token_NRC = position_C < ended.length_NR[..., None]
  is_drawn_NRC = completion_mask(queue.stem_length_NR, ended.length_NR, width)
  # The last token of a branch was made in its last iteration.
  first_iteration_NR = ended.iteration_NR - (ended.length_NR - 1)
  iteration_NRC = first_iteration_NR[..., None] + position_C

  def of_branches(tape_TNB, otherwise):
    of_trunk = lambda tape_TB, iteration_RC, slot_R: (  # noqa: E731
      tape_TB.at[iteration_RC, slot_R[:, None]].get(mode="clip")
    )
    found_NRC = jax.vmap(of_trunk, in_axes=(1, 0, 0))(
      tape_TNB, iteration_NRC, ended.slot_NR
    )
    return jnp.where(is_drawn_NRC, found_NRC, otherwise)

  stem_NRC = jnp.pad(queue.stem_NRC, ((0, 0), (0, 0), (0, max_new_tokens)))
  return make_branches(
    tokens_NRC=of_branches(
      state.token_TNB, jnp.where(is_token_NRC, stem_NRC, pad_id)
    ),
    stem_length_NR=queue.stem_length_NR,
    length_NR=ended.length_NR,
    sampler_logp_NRC=of_branches(state.logp_TNB, 0.0),
    stopped_NR=ended.is_stopped_NR,
  )
