# SPDX-License-Identifier: Apache-2.0
"""A decoding loop in segments, between which trunks and branches change.

decode.py samples one batch to its end. Here a row whose trunk has no branches
left gets the next trunk while other rows go on. `admit` runs trunks and puts
their keys and values into free rows; a row has one place for a trunk, or
several whose branches share its slots. `segment` decodes for a bounded number
of iterations. stream.py and shared.py own the queues and read the tapes.

Axes besides those of the legend: Q entries of a row's queue, M trunks that a
program runs, D devices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from srl_jax.policy import Policy, trunk_positions
from srl_jax.rollout import tapes
from srl_jax.rollout.decode import Prefilled, run_slots
from srl_jax.rollout.slots import (
  Slots,
  TrunkQueue,
  branch_keys,
  of_slots,
  take_branches,
)
from srl_jax.types import Array


class Queue(NamedTuple):
  """The branches of each row, running or waiting: Q entries per row.

  The host writes a queue between segments. All integers are int32 but
  point_id_NQ, which is uint32.

  Attributes:
    waiting_NQ: True where no slot has taken the branch yet.
    dropped_NQ: True where the branch is to be given up.
    branch_at_NQ: number of trunk tokens that the branch sees.
    stem_NQC: the given tokens at the head of the branch.
    stem_length_NQ: number of real stem tokens, at least one.
    point_id_NQ: name of the branch point, for random numbers.
    sample_NQ: index of the sample, for random numbers.
    max_new_NQ: limit of the completion in tokens, stop token included.
    temperature_NQ: divisor of the logits; 0 takes the most likely token.
    top_k_NQ: number of most likely tokens to keep; 0 keeps all.
    top_p_NQ: mass of the most likely tokens to keep; 1.0 keeps all.
  """

  waiting_NQ: Array
  dropped_NQ: Array
  branch_at_NQ: Array
  stem_NQC: Array
  stem_length_NQ: Array
  point_id_NQ: Array
  sample_NQ: Array
  max_new_NQ: Array
  temperature_NQ: Array
  top_k_NQ: Array
  top_p_NQ: Array


@flax.struct.dataclass
class Rows:
  """All that stays on the devices between segments.

  An idle slot has `entry_NB` = Q. `age_NB` counts the tokens that the slot's
  branch has run; `token_NB` is the one that it runs next. The cache is a ring:
  all slots write `column` in an iteration.
  """

  trunk: Any
  cache: Any
  column: jax.Array
  entry_NB: jax.Array
  age_NB: jax.Array
  token_NB: jax.Array


def empty_rows(
  policy: Policy,
  params: Any,
  *,
  rows: int,
  slots: int,
  entries: int,
  trunk_width: int,
  cache_width: int,
  places: int = 1,
) -> Rows:
  """Returns rows without trunks; `params` are `Policy.for_decoding`'s."""
  one_NS = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
  shapes = jax.eval_shape(policy.trunk, params, one_NS, one_NS)
  trunk = policy.init_cache(shapes, 1, places * trunk_width)
  zeros_NB = jnp.zeros((rows, slots), jnp.int32)
  return Rows(
    trunk=trunk._replace(position=trunk.position[:, 0]),
    cache=policy.init_cache(shapes, slots, cache_width),
    column=jnp.int32(0),
    entry_NB=zeros_NB + entries,
    age_NB=zeros_NB,
    token_NB=zeros_NB,
  )


def admit(
  policy: Policy,
  params: Any,
  trunk: Any,
  tokens_MS: jax.Array,
  length_M: jax.Array,
  row_M: jax.Array,
  place_M: jax.Array | None = None,
) -> Any:
  """Runs M trunks and returns the trunks of all rows; row N stands for none.

  With several places in a row, the trunks are as wide as a place, and `place_M`
  says which one each gets.
  """
  position_MS = trunk_positions(length_M, tokens_MS.shape[1])
  new = policy.trunk(params, tokens_MS, position_MS)
  return trunk.replace_rows(row_M, new, place_M)


def extend(
  policy: Policy,
  params: Any,
  trunk: Any,
  tokens_DMT: jax.Array,
  at_DM: jax.Array,
  length_DM: jax.Array,
  row_DM: jax.Array,
  is_given_DM: jax.Array,
) -> Any:
  """Runs what follows the heads of trunks that are there.

  Args:
    policy: the model's functions.
    params: parameters as `Policy.for_decoding` returns them.
    trunk: the trunks of all rows; those of each of D devices lie together.
    tokens_DMT: the tokens that follow, of M trunks of each device.
    at_DM: number of tokens that stay. With T more, the trunk is no wider.
    length_DM: number of real tokens that follow.
    row_DM: index among the device's rows; all differ.
    is_given_DM: False for rows that stay as they are.
  """
  place_T, at_DM1 = jnp.arange(tokens_DMT.shape[-1]), at_DM[..., None]
  is_real_DMT = place_T < length_DM[..., None]
  position_DMT = jnp.where(is_real_DMT, at_DM1 + place_T, -1)
  # Each is the only branch of a row.
  alone = lambda x: x.reshape(-1, 1, *x.shape[2:])  # noqa: E731
  heads = trunk.rows_of(row_DM)
  _, new = policy.branch(
    params, alone(tokens_DMT), alone(position_DMT), alone(at_DM), heads
  )

  def if_given(new, old):
    is_given = is_given_DM.reshape(-1, *(1,) * (old.ndim - 1))
    return jnp.where(is_given, new, old)

  longer = heads.put_behind(at_DM.reshape(-1), new)
  return trunk.with_rows(row_DM, jax.tree.map(if_given, longer, heads))


def resize(
  cache: Any, oldest: jax.Array, *, width: int
) -> tuple[Any, jax.Array]:
  """Makes a ring wider or narrower, or trunks wider.

  Column `oldest` becomes the first. A narrower ring has the last columns that
  were written, and must still have room for every branch.

  Returns:
    What has the new width, and the column that is written next.
  """
  full = cache.position.shape[-1]
  if width > full:
    return cache.grow(width, oldest), jnp.int32(full)
  return cache.shrink(width, oldest), jnp.int32(0)


class Settings(NamedTuple):
  """What is fixed when a segment is compiled.

  Attributes:
    segment_iterations: maximal number of iterations.
    stop_ids: token ids that end a completion and belong to it.
    likely: number A of most likely tokens to report.
    is_truncated: whether any branch uses top_k or top_p.
    is_greedy: whether any branch takes the most likely tokens.
    is_random: whether any branch draws at random.
    places: number of trunks that a row has room for; each has an equal share
      of the queue's entries, in order.
  """

  segment_iterations: int
  stop_ids: tuple[int, ...]
  likely: int = 0
  is_truncated: bool = True
  is_greedy: bool = True
  is_random: bool = True
  places: int = 1


def segment(
  policy: Policy,
  params: Any,
  rows: Rows,
  queue: Queue,
  key: jax.Array,
  enough: jax.Array,
  *,
  settings: Settings,
) -> tuple[Rows, tapes.Tape, jax.Array]:
  """Decodes for a number of iterations, one token per slot and iteration.

  Slots take the waiting branches of their row in the order of the queue. The
  random numbers of a token follow from (key, point_id, sample, position in the
  completion), as in decode.py.

  Args:
    policy: the model's functions.
    params: parameters as `Policy.for_decoding` returns them.
    rows: the state. No branch may outgrow the ring in this segment.
    queue: the branches of each row.
    key: random key.
    enough: the segment ends early when so many rows have nothing left to run.
    settings: what is static.

  Returns:
    The state, what was made, and which branches still wait [N, Q].
  """
  entries = queue.waiting_NQ.shape[1]
  branches = TrunkQueue(
    queue.waiting_NQ,
    queue.branch_at_NQ,
    queue.stem_NQC,
    queue.stem_length_NQ,
    branch_keys(key, queue.point_id_NQ, queue.sample_NQ),
  )

  def goes_on(carry):
    rows, waiting_NQ, tape = carry
    is_live_N = (rows.entry_NB < entries).any(1)
    idle = (~(is_live_N | waiting_NQ.any(1))).sum()
    return (
      (tape.iterations < settings.segment_iterations)
      & is_live_N.any()
      & (idle < enough)
    )

  def advance(carry):
    rows, waiting_NQ, tape = carry
    rows, made = _iterate(policy, params, rows, queue, branches, settings)
    return (*_refill(rows, queue, waiting_NQ), tapes.write(tape, made))

  is_dropped_NB = of_slots(queue.dropped_NQ, rows.entry_NB)
  is_dropped_NB &= rows.entry_NB < entries
  rows = rows.replace(
    entry_NB=jnp.where(is_dropped_NB, entries, rows.entry_NB),
    age_NB=jnp.where(is_dropped_NB, 0, rows.age_NB),
  )
  rows, waiting_NQ = _refill(rows, queue, queue.waiting_NQ & ~queue.dropped_NQ)
  shape = (settings.segment_iterations, *rows.entry_NB.shape)
  tape = tapes.empty_tape(shape, settings.likely)
  rows, waiting_NQ, tape = jax.lax.while_loop(
    goes_on, advance, (rows, waiting_NQ, tape)
  )
  return rows, tape._replace(oldest=rows.age_NB.max()), waiting_NQ


def _refill(
  rows: Rows, queue: Queue, waiting_NQ: jax.Array
) -> tuple[Rows, jax.Array]:
  """Gives idle slots the branches that wait; returns what still waits."""
  entry_NB, is_taken_NB, waiting_NQ = take_branches(rows.entry_NB, waiting_NQ)
  first_NB = of_slots(queue.stem_NQC[..., 0], entry_NB)
  rows = rows.replace(
    entry_NB=entry_NB,
    token_NB=jnp.where(is_taken_NB, first_NB, rows.token_NB),
    cache=rows.cache.forget(is_taken_NB),
  )
  return rows, waiting_NQ


def _iterate(policy, params, rows, queue, branches, settings):
  """Runs a token in every slot; returns the rows and what the tape gets."""
  entries = queue.waiting_NQ.shape[1]
  of = lambda x_NQ: of_slots(x_NQ, rows.entry_NB)  # noqa: E731
  made = run_slots(
    policy,
    Prefilled(params, rows.trunk),
    rows.cache,
    rows.column,
    Slots(rows.entry_NB, rows.age_NB, rows.token_NB),
    branches,
    stop_ids=settings.stop_ids,
    max_new=of(queue.max_new_NQ),
    start_NB=_start(rows, entries, settings.places),
    temperature=of(queue.temperature_NQ)[..., None],
    top_k=of(queue.top_k_NQ)[..., None] if settings.is_truncated else 0,
    top_p=of(queue.top_p_NQ)[..., None] if settings.is_truncated else 1.0,
    is_greedy=settings.is_greedy,
    is_random=settings.is_random,
  )
  kind_NB = jnp.where(made.is_full_NB, tapes.FULL, tapes.DRAWN)
  kind_NB = jnp.where(made.is_stop_NB, tapes.STOPPED, kind_NB)
  of_tape = (
    rows.entry_NB,
    jnp.where(made.is_drawn_NB, kind_NB, tapes.NOTHING),
    made.token_NB,
    made.logp_NB,
    *_of_policy(made.logits_NBV, made.token_NB, settings.likely),
  )
  goes_on_NB = rows.entry_NB < entries
  goes_on_NB &= ~(made.is_stop_NB | made.is_full_NB)
  rows = rows.replace(
    cache=made.cache,
    column=(rows.column + 1) % made.cache.position.shape[-1],
    entry_NB=jnp.where(goes_on_NB, rows.entry_NB, entries),
    age_NB=jnp.where(goes_on_NB, rows.age_NB + 1, 0),
    token_NB=jnp.where(goes_on_NB, made.token_NB, 0),
  )
  return rows, of_tape


def _start(rows: Rows, entries: int, places: int) -> jax.Array | None:
  """Where the trunk of each slot's branch begins; None if at 0."""
  if places == 1:
    return None
  place_NB = rows.entry_NB // (entries // places)
  return place_NB * (rows.trunk.position.shape[1] // places)


def _of_policy(logits_NBV, drawn_NB, count):
  """Log-prob of the drawn token; the most likely ones, best first, and theirs.

  All are of temperature 1. Without a count, nothing is computed.
  """
  if not count:
    empty = jnp.zeros((*drawn_NB.shape, 0))
    return jnp.zeros(drawn_NB.shape), empty.astype(jnp.int32), empty
  logp_NBV = jax.nn.log_softmax(logits_NBV.astype(jnp.float32))
  chosen_NB1 = jnp.take_along_axis(logp_NBV, drawn_NB[..., None], axis=-1)
  logp_NBA, token_NBA = jax.lax.top_k(logp_NBV, count)
  return chosen_NB1[..., 0], token_NBA, logp_NBA
