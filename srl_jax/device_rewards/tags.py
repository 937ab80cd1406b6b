# SPDX-License-Identifier: Apache-2.0
"""Splits texts at a pair of tags, on the device.

This is the counterpart of srl_jax.rewards.format, which defines what the parts
mean. Tags and white space are arguments here.

Axes: B rows, U positions of code points with gaps, as decode_utf8 returns them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from srl_jax.device_rewards import text


class Parts(NamedTuple):
  """Texts inside and outside of tags; lengths are int32 characters.

  Attributes:
    opens_B: number of opening tags.
    closes_B: number of closing tags.
    starts_with_open_B: True where only white space precedes an opening tag.
    inside_chars_B: length of the inside parts, each trimmed, joined by
      newlines and trimmed again.
    outside_chars_B: length of the outside parts, joined by nothing and
      trimmed.
    is_outside_BU: True on the characters that outside_chars_B counts.
  """

  opens_B: jax.Array
  closes_B: jax.Array
  starts_with_open_B: jax.Array
  inside_chars_B: jax.Array
  outside_chars_B: jax.Array
  is_outside_BU: jax.Array


def split(
  code_BU: jax.Array,
  is_character_BU: jax.Array,
  *,
  open_tag: str,
  close_tag: str,
  whitespace: str,
) -> Parts:
  """Splits each row at its tags, wherever they stand.

  Text after an opening tag is inside, text after a closing tag outside. Text
  before all tags is inside if the first tag closes (the prompt has opened it).

  Args:
    code_BU: code points at the first byte of each character, -1 elsewhere.
    is_character_BU: True at the first byte of each character.
    open_tag: opening tag, in ASCII.
    close_tag: closing tag, in ASCII.
    whitespace: the characters that are trimmed.
  """
  is_open_BU = text.begins(code_BU, open_tag)
  is_close_BU = text.begins(code_BU, close_tag)
  is_text_BU = is_character_BU & ~_covered(is_open_BU, len(open_tag))
  is_text_BU &= ~_covered(is_close_BU, len(close_tag))
  is_solid_BU = is_text_BU
  for space in whitespace:
    is_solid_BU &= code_BU != ord(space)

  last_open_BU, last_close_BU = _last(is_open_BU), _last(is_close_BU)
  first_open_B, first_close_B = _first(is_open_BU), _first(is_close_BU)
  is_inside_BU = jnp.where(
    jnp.maximum(last_open_BU, last_close_BU) < 0,
    (first_close_B < first_open_B)[:, None],
    last_open_BU > last_close_BU,
  )
  is_outside_BU = is_text_BU & ~is_inside_BU
  is_solid_outside_BU = is_solid_BU & is_outside_BU
  is_outside_BU &= _last(is_solid_outside_BU) >= 0
  is_outside_BU &= _next(is_solid_outside_BU) < code_BU.shape[1]
  first_other_B = jnp.minimum(_first(is_solid_BU), first_close_B)
  return Parts(
    opens_B=jnp.sum(is_open_BU, axis=1),
    closes_B=jnp.sum(is_close_BU, axis=1),
    starts_with_open_B=first_open_B < first_other_B,
    inside_chars_B=_length_inside(
      is_text_BU & is_inside_BU,
      is_solid_BU & is_inside_BU,
      is_open_BU,
      is_open_BU | is_close_BU,
    ),
    outside_chars_B=jnp.sum(is_outside_BU, axis=1),
    is_outside_BU=is_outside_BU,
  )


def _length_inside(is_inside_BU, is_solid_BU, is_open_BU, is_tag_BU):
  """Length of the trimmed parts and of the newlines that join them."""
  is_kept_BU = is_inside_BU & (_last(is_solid_BU) > _last(is_tag_BU))
  is_kept_BU &= _next(is_solid_BU) < _next(is_tag_BU)
  # One newline per part, from the first part with text to the last one.
  part_BU = jnp.cumsum(is_open_BU, axis=1)
  last_B = jnp.max(jnp.where(is_kept_BU, part_BU, 0), axis=1)
  first_B = jnp.min(jnp.where(is_kept_BU, part_BU, part_BU.shape[1]), axis=1)
  return jnp.sum(is_kept_BU, axis=1) + jnp.maximum(last_B - first_B, 0)


def _covered(is_begin_BU, length):
  """True on the `length` positions from each beginning."""
  since_BU = jnp.arange(is_begin_BU.shape[1]) - _last(is_begin_BU)
  return (since_BU < length) & (_last(is_begin_BU) >= 0)


def _last(is_here_BU):
  """Returns the last True position up to each position; -1 if none."""
  place_U = jnp.arange(is_here_BU.shape[1])
  return jax.lax.cummax(jnp.where(is_here_BU, place_U, -1), axis=1)


def _next(is_here_BU):
  """Returns the next True position from each position on; U if none."""
  place_U = jnp.arange(is_here_BU.shape[1])
  place_BU = jnp.where(is_here_BU, place_U, is_here_BU.shape[1])
  return jax.lax.cummin(place_BU, axis=1, reverse=True)


def _first(is_here_BU):
  """Returns the first True position of each row; U if none."""
  width = is_here_BU.shape[1]
  return jnp.min(jnp.where(is_here_BU, jnp.arange(width), width), axis=1)
