# SPDX-License-Identifier: Apache-2.0
"""The kernel of decoding against plain attention, interpreted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import attention, decode_attention, decode_plan
from srl_jax.ops.attention import Scoring, Source

N, B, S, C = 3, 4, 44, 30
# Float32 and bfloat16 roundings of some tens of terms in another order.
FLOAT32, BFLOAT16 = 1e-5, 2e-2


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
  """A trunk has three blocks and a cache four, the last not whole."""
  monkeypatch.setattr(decode_plan, "TRUNK", 16)
  monkeypatch.setattr(decode_plan, "OWN", 8)


def turn(heads, dtype="float32", window=0, trunks=1):
  """Queries, trunks and caches of a turn; which slots are idle.

  All slots of the first row are idle. The caches are rings, whose column is in
  the middle. With several trunks, each has an equal part of the row.
  """
  rng = np.random.default_rng(0)
  h, m, e = heads
  shapes = (N, B, 1, h, m, e), (N, h, e, S), (N, h, S, e)
  caches = (N * B, h, e, C), (N * B, h, C, e)
  q, k, v, own_k, own_v = (rng.standard_normal(x) for x in (*shapes, *caches))
  room = S // trunks
  length_NU = rng.integers(1, room + 1, (N, trunks))
  place_S = np.arange(room)
  position_NS = np.where(
    place_S < length_NU[..., None],
    room * np.arange(trunks)[:, None] + place_S,
    -1,
  ).reshape(N, S)
  start_NB = rng.integers(0, trunks, (N, B))
  at_NB = rng.integers(0, np.take_along_axis(length_NU, start_NB, 1) + 1)
  age_NB = rng.integers(0, C, (N, B))
  is_idle_NB = rng.random((N, B)) < 0.3
  is_idle_NB[0] = True
  back_C = (13 - np.arange(C)) % C
  own_NB = np.where(is_idle_NB, -1, at_NB + age_NB)
  position_NBC = np.where(
    (back_C <= age_NB[..., None]) & ~is_idle_NB[..., None],
    own_NB[..., None] - back_C,
    -1,
  )
  first_NB = start_NB * room
  trunk_limit_NB1 = (at_NB + first_NB - 1)[..., None]
  cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
  trunk = Source(
    cast(k), cast(v), jnp.asarray(position_NS), jnp.asarray(trunk_limit_NB1)
  )
  if trunks > 1:
    trunk = trunk._replace(first_NRT=jnp.asarray(first_NB)[..., None])
  own = Source(
    cast(own_k),
    cast(own_v),
    jnp.asarray(position_NBC),
    jnp.asarray(own_NB)[..., None],
  )
  if window:
    first_NB1 = own.limit_NRT - window + 1
    own = own._replace(first_NRT=first_NB1)
    trunk = trunk._replace(
      first_NRT=jnp.maximum(first_NB1 + first_NB[..., None], trunk.first_NRT)
      if trunks > 1
      else first_NB1
    )
  return cast(q), trunk, own, is_idle_NB


@functools.partial(jax.jit, static_argnames="scoring")
def attend(q, trunk, own, scoring):
  plan = decode_plan.plan(trunk, own, q.shape[4])
  out = decode_attention.attend(
    *(q[:, :, 0], trunk.k, trunk.v, own.k, own.v, plan),
    scoring=scoring,
    interpret=True,
  )
  return out.astype(jnp.float32), plan


@pytest.mark.parametrize("trunks", [1, 2])
@pytest.mark.parametrize(
  ("heads", "dtype", "window", "scoring"),
  [
    ((2, 3, 16), "float32", 0, Scoring(0.3)),
    ((1, 9, 8), "float32", 11, Scoring(0.3, softcap=2.0)),
    ((2, 8, 16), "bfloat16", 0, Scoring(0.3)),
  ],
)
def test_the_kernel_is_plain_attention(heads, dtype, window, scoring, trunks):
  q, trunk, own, is_idle_NB = turn(heads, dtype, window, trunks)
  got, _ = attend(q, trunk, own, scoring)
  want = attention.attend(q, [trunk, own], scoring=scoring)[:, :, 0]
  live = ~is_idle_NB
  assert live.any() and (live.sum(1) < B).any()
  np.testing.assert_allclose(
    got[live],
    want[live].astype(jnp.float32),
    atol=FLOAT32 if dtype == "float32" else BFLOAT16,
  )
  assert not np.asarray(got)[is_idle_NB].any(), "idle slots get zeros"


@pytest.mark.parametrize(
  ("items", "rows", "calls"), [(2 * 128, 256, 3), (1 << 14, 1, 6)]
)
def test_many_slots_and_long_lists_take_several_rows_and_calls(
  monkeypatch, items, rows, calls
):
  q, trunk, own, _ = turn((2, 3, 16), trunks=2)
  want, _ = attend(q, trunk, own, Scoring(0.3))
  monkeypatch.setattr(decode_plan, "_SLOTS", 2)
  # A group of two slots has 3 + 2 * 4 items, which take 128 numbers.
  monkeypatch.setattr(decode_attention, "_ITEMS", items)
  monkeypatch.setattr(decode_attention, "_ROWS", rows)
  made, call = [], decode_attention._call
  monkeypatch.setattr(
    decode_attention, "_call", lambda *x, **y: made.append(0) or call(*x, **y)
  )
  attend.clear_cache()
  got, plan = attend(q, trunk, own, Scoring(0.3))
  attend.clear_cache()
  assert len(made) == calls
  assert plan.flags_NI.shape == (6, 11)
  np.testing.assert_array_equal(got, want)


def test_what_is_shorter_than_a_block_is_one(monkeypatch):
  monkeypatch.setattr(decode_plan, "TRUNK", 512)
  monkeypatch.setattr(decode_plan, "OWN", 256)
  q, trunk, own, is_idle_NB = turn((2, 3, 16))
  attend.clear_cache()
  got, plan = attend(q, trunk, own, Scoring(0.3))
  attend.clear_cache()
  assert plan.flags_NI.shape == (N, 1 + B)
  assert plan.position_NS.shape == (N, S)
  want = attention.attend(q, [trunk, own], scoring=Scoring(0.3))[:, :, 0]
  np.testing.assert_allclose(got[~is_idle_NB], want[~is_idle_NB], atol=FLOAT32)


@pytest.mark.parametrize("window", [0, 11])
def test_what_no_slot_sees_is_not_read(window):
  q, trunk, own, is_idle_NB = turn((2, 3, 16), window=window)
  idle_NB1 = jnp.asarray(is_idle_NB)[..., None]
  of_live = trunk._replace(limit_NRT=jnp.where(idle_NB1, -1, trunk.limit_NRT))
  is_read_NX = blocks(attention.is_visible(of_live)[:, :, 0].any(1), 16)
  is_read_NBX = blocks(attention.is_visible(own)[:, :, 0], 8)
  want, plan = attend(q, trunk, own, Scoring(0.3))
  items = np.asarray(plan.flags_NI & ~0b11 > 0).sum()
  assert items == is_read_NX[:, ::16].sum() + is_read_NBX[..., ::8].sum()
  assert items < plan.flags_NI.size / 2
  # What is not read may be anything.
  away_NX, away_X = ~is_read_NX, ~is_read_NBX.reshape(N * B, -1)
  poisoned = (
    trunk._replace(
      k=jnp.where(away_NX[:, None, None, :S], jnp.nan, trunk.k),
      v=jnp.where(away_NX[:, None, :S, None], jnp.nan, trunk.v),
    ),
    own._replace(
      k=jnp.where(away_X[:, None, None, :C], jnp.nan, own.k),
      v=jnp.where(away_X[:, None, :C, None], jnp.nan, own.v),
    ),
  )
  got, _ = attend(q, *poisoned, Scoring(0.3))
  np.testing.assert_array_equal(got, want)


def blocks(is_seen, size):
  """True for all positions of a block of which one is seen."""
  room = -is_seen.shape[-1] % size
  is_seen = np.pad(is_seen, [(0, 0)] * (is_seen.ndim - 1) + [(0, room)])
  is_some = is_seen.reshape(*is_seen.shape[:-1], -1, size).any(-1)
  return np.repeat(is_some, size, axis=-1)


@pytest.mark.parametrize(
  ("kernel", "device", "head_width", "want"),
  [
    ("auto", "cpu", 128, False),
    ("auto", "NVIDIA H100 80GB HBM3", 128, False),
    ("auto", "TPU v4", 128, False),
    ("auto", "TPU v5 lite", 128, True),
    ("auto", "TPU7x", 256, True),
    ("auto", "TPU v5 lite", 64, False),
    ("ragged", "TPU v5 lite", 64, True),
    ("plain", "TPU v5 lite", 128, False),
    # Interpreted.
    ("ragged", "cpu", 16, True),
  ],
)
def test_auto_takes_the_kernel_where_it_suits(kernel, device, head_width, want):
  assert decode_attention.is_chosen(kernel, device, head_width) == want


def test_a_tpu_without_room_is_refused():
  said = r"decode_kernel='ragged' needs .*'TPU v4'; set c.model.decode_kernel"
  with pytest.raises(ValueError, match=said):
    decode_attention.is_chosen("ragged", "TPU v4", 128)
