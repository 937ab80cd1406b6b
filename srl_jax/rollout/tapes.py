# SPDX-License-Identifier: Apache-2.0
"""The tape of a decoding segment: what each slot made in each iteration.

segments.py writes it on the devices; stream.py and shared.py read it.

Axes besides those of the legend: A most likely tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from srl_jax.types import Array

# What a tape says of a slot in an iteration: nothing was drawn (idle, or a
# token of the stem), a token was drawn, a stop token was, or the last one
# allowed.
NOTHING, DRAWN, STOPPED, FULL = range(4)


class Tape(NamedTuple):
  """What each slot made in each iteration of a segment.

  Attributes:
    iterations: number of iterations that were run; later entries mean nothing.
    oldest: the greatest age of a branch at the end, in tokens.
    entry_TNB: the slot's entry of the queue; Q if it was idle.
    kind_TNB: NOTHING, DRAWN, STOPPED or FULL.
    token_TNB: the token, where one was drawn.
    logp_TNB: its log-prob, in nats, under the distribution drawn from.
    policy_logp_TNB: its log-prob at temperature 1, without top-k and top-p; 0
      if A is 0.
    likely_TNBA: the A most likely tokens at each draw.
    likely_logp_TNBA: their log-probs at temperature 1, without top-k and top-p.
  """

  iterations: Array
  oldest: Array
  entry_TNB: Array
  kind_TNB: Array
  token_TNB: Array
  logp_TNB: Array
  policy_logp_TNB: Array
  likely_TNBA: Array
  likely_logp_TNBA: Array


def empty_tape(shape: tuple[int, int, int], likely: int) -> Tape:
  """Returns a tape of `shape` [T, N, B], with `likely` tokens at each draw."""
  return Tape(
    iterations=jnp.int32(0),
    oldest=jnp.int32(0),
    entry_TNB=jnp.zeros(shape, jnp.int32),
    kind_TNB=jnp.zeros(shape, jnp.int32),
    token_TNB=jnp.zeros(shape, jnp.int32),
    logp_TNB=jnp.zeros(shape, jnp.float32),
    policy_logp_TNB=jnp.zeros(shape, jnp.float32),
    likely_TNBA=jnp.zeros((*shape, likely), jnp.int32),
    likely_logp_TNBA=jnp.zeros((*shape, likely), jnp.float32),
  )


def write(tape: Tape, made: tuple[jax.Array, ...]) -> Tape:
  """Writes an iteration to the tape; `made` is in the order of its fields."""
  put = jax.lax.dynamic_update_index_in_dim
  of_iteration = [
    put(x, value.astype(x.dtype), tape.iterations, 0)
    for x, value in zip(tape[2:], made, strict=True)
  ]
  return Tape(tape.iterations + 1, tape.oldest, *of_iteration)
