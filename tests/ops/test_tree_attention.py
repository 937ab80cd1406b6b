# SPDX-License-Identifier: Apache-2.0
"""The kernels for trunks and branches against plain attention, interpreted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import attention, tree_attention, trees
from srl_jax.ops.attention import Scoring, Source, source_of
from tests.support.trees import packed_row, random_tree

N, U, S, B, W = 2, 2, 90, 3, 70
SCORING = Scoring(0.3)
# What Gemma 2 has beside; the window is shorter than branches and trunks.
CAPPED, WINDOW = Scoring(0.2, softcap=2.0), 17
# Sums of 390 float32 terms in another order.
FLOAT32 = 2e-5
# bfloat16 has 8 bits, and the kernels round weights that are not yet divided
# by their sum.
BFLOAT16 = 2e-2


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
  """Rows of 390 tokens have four blocks."""
  monkeypatch.setattr(tree_attention, "_SIZES", {128: 1.0})


ROWS = packed_row(3, trunks=U, trunk=S, lanes=B, cells=W, length=30, rows=N)


def labels_of(rows):
  """Labels of rows, with padding up to whole blocks."""
  labels = trees.label_lanes(*rows.arrays)
  width = rows.seen_NTT.shape[1]
  room = ((0, 0), (0, tree_attention.padded(width) - width))
  return trees.Labels(*(jnp.pad(x, room, constant_values=-1) for x in labels))


def random_arrays(n, t, heads, dtype="float32"):
  """Queries, keys, values, and weights of a sum over the result."""
  rng = np.random.default_rng(0)
  h, m, e = heads
  shapes = ((h, m, e), (h, e), (h, e), (h, m, e))
  q, k, v, w = (rng.standard_normal((n, t, *x)) for x in shapes)
  return [jnp.asarray(x, dtype) for x in (q, k, v)], jnp.asarray(w, "float32")


def value_and_grads(attend, arrays, weights, is_token_NT):
  """The tokens' results, and gradients of a sum over them, as float32."""

  @jax.jit
  def run(arrays):
    def total(arrays):
      whole = attend(*arrays)
      out = jnp.where(is_token_NT[..., None, None, None], whole, 0)
      return (weights * out).sum(), (out, whole)

    return jax.grad(total, has_aux=True)(arrays)

  grads, (out, whole) = run(arrays)
  assert np.isfinite(np.asarray(whole, np.float32)).all()
  return [np.asarray(x, np.float32) for x in (out, *grads)]


def with_kernels(labels, heads, *, scoring=SCORING, window=0):
  h, m, e = heads
  plan = tree_attention.plan(
    labels, kv_heads=h, group=m, head_width=e, window=window
  )
  return functools.partial(
    tree_attention.attend, plan=plan, scoring=scoring, interpret=True
  )


def plain(rows, *, scoring=SCORING, window=0):
  """The same by `attention.attend`: the trunks alone, then the lanes."""
  trunk_NUS, position_NBW, first_NBW, trunk_of_NB = map(
    jnp.asarray, rows.arrays
  )
  trunk_XS = trunk_NUS.reshape(-1, 1, S)
  cell_NBW = jnp.where(position_NBW >= 0, jnp.arange(W), -1)
  start_NBW = position_NBW - (cell_NBW - first_NBW)

  def narrow(source, at):
    if not window:
      return source
    first = at - window + 1
    if source.first_NRT is not None:
      first = jnp.maximum(first, source.first_NRT)
    return source._replace(first_NRT=first)

  def attend(q, k, v):
    of_trunks, of_lanes = [], []
    for x in (q, k, v):
      of_trunks.append(x[:, : U * S].reshape(N * U, 1, S, *x.shape[2:]))
      lanes = x[:, U * S : U * S + B * W]
      of_lanes.append(lanes.reshape(N, B, W, *x.shape[2:]))
    alone = source_of(*of_trunks[1:], trunk_XS, trunk_XS)
    first = attention.attend(
      of_trunks[0], [narrow(alone, trunk_XS)], scoring=scoring
    )

    def copy(x):  # A copy of its trunk for each lane.
      x_NU = x.reshape(N, U, *x.shape[1:])
      return jax.vmap(lambda x_U, of_B: x_U[of_B])(x_NU, trunk_of_NB)

    trunk = Source(
      *(copy(x).reshape(N * B, *x.shape[1:]) for x in alone[:2]),
      copy(trunk_XS[:, 0]),
      start_NBW - 1,
    )
    own = source_of(*of_lanes[1:], cell_NBW, cell_NBW)
    own = own._replace(first_NRT=first_NBW)
    second = attention.attend(
      of_lanes[0],
      [narrow(trunk, position_NBW), narrow(own, cell_NBW)],
      scoring=scoring,
    )
    flat = lambda x: x.reshape(N, -1, *x.shape[3:])  # noqa: E731
    both = jnp.concatenate([flat(first), flat(second)], axis=1)
    room = q.shape[1] - both.shape[1]
    return jnp.pad(both, ((0, 0), (0, room), *((0, 0),) * 3))

  return attend


def assert_same(got, want, error):
  """Within `error` of the largest entry."""
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=error * abs(b).max())


# Heads: several, one; whole registers, halves, and none of both; groups that
# fill a register with a rest.
@pytest.mark.parametrize(
  ("heads", "options", "dtype"),
  [
    ((2, 3, 64), {}, "float32"),
    ((2, 2, 128), {"scoring": CAPPED}, "float32"),
    ((3, 1, 24), {"window": WINDOW}, "float32"),
    ((1, 3, 64), {"scoring": CAPPED, "window": WINDOW}, "float32"),
    pytest.param(
      *((2, 2, 16), {}, "bfloat16"),
      marks=pytest.mark.xfail(
        jax.__version_info__ >= (0, 12),
        raises=jax.errors.JaxRuntimeError,
        reason="JAX 0.12 on CPUs lacks some products of bfloat16",
      ),
    ),
  ],
)
def test_the_kernels_are_plain_attention(heads, options, dtype):
  labels = labels_of(ROWS)
  arrays, weights = random_arrays(*labels.enter_NT.shape, heads, dtype)
  is_token_NT = labels.enter_NT >= 0
  error = FLOAT32 if dtype == "float32" else BFLOAT16
  got, want = (
    value_and_grads(attend, arrays, weights, is_token_NT)
    for attend in (
      with_kernels(labels, heads, **options),
      plain(ROWS, **options),
    )
  )
  assert_same(got, want, error)


@pytest.mark.parametrize(
  "wrong",
  [{"window": WINDOW + 1}, {"scoring": Scoring(0.2)}, {"scoring": SCORING}],
)
def test_another_window_or_cap_would_be_seen(wrong):
  options = {"scoring": CAPPED, "window": WINDOW}
  labels = labels_of(ROWS)
  arrays, _ = random_arrays(*labels.enter_NT.shape, (1, 1, 16))
  right, other = (
    with_kernels(labels, (1, 1, 16), **x)(*arrays)
    for x in (options, options | wrong)
  )
  is_token_NT = labels.enter_NT >= 0
  assert abs((right - other)[is_token_NT]).max() > 100 * FLOAT32


def dense(seen_NTT):
  """Softmax over a square of logits, for any mask."""

  def attend(q, k, v):
    logits = SCORING.scale * jnp.einsum("nqhme,nkhe->nhmqk", q, k)
    logits = jnp.where(seen_NTT[:, None, None], logits, -1e30)
    return jnp.einsum("nhmqk,nkhe->nqhme", jax.nn.softmax(logits), v)

  return attend


# Also where the gradients of keys are summed in three parts.
@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_branches_of_branches_anywhere_in_a_row(parts):
  heads, width = (2, 2, 32), 384
  labels, seen_NTT, _ = random_tree(1, tokens=300, width=width)
  labels = jax.tree.map(jnp.asarray, labels)
  plan = trees.plan(labels, block=128, parts=parts)
  assert len(plan.backward) == parts
  arrays, weights = random_arrays(1, width, heads)
  kernels = functools.partial(
    tree_attention.attend, plan=plan, scoring=SCORING, interpret=True
  )
  got, want = (
    value_and_grads(attend, arrays, weights, labels.enter_NT >= 0)
    for attend in (kernels, dense(seen_NTT))
  )
  assert_same(got, want, FLOAT32)


def test_a_block_that_nobody_sees_is_not_read():
  labels = labels_of(ROWS)
  heads = (1, 1, 16)
  [q, k, v], _ = random_arrays(*labels.enter_NT.shape, heads)
  attend = with_kernels(labels, heads)
  blocks = attend.keywords["plan"].forward
  # The last block of keys is seen by none but its own queries.
  readers = blocks.query_NPI[(blocks.key_NPI == 3) & (blocks.flags_NPI > 0)]
  assert {*readers.tolist()} == {3}
  spoilt = (x.at[:, 384:].set(jnp.nan) for x in (k, v))
  out = attend(q, *spoilt)
  assert np.isfinite(out[:, :384]).all()
  assert np.isnan(out[:, 384:]).any()


def test_rows_of_padding_alone_are_finite():
  nothing = jnp.full((2, 256), -1)
  labels = trees.Labels(nothing, nothing, nothing)
  arrays, weights = random_arrays(2, 256, (1, 2, 16))
  everything = jnp.ones((2, 256), bool)
  attend = with_kernels(labels, (1, 2, 16))
  # Gradients too, whatever comes back for the padding.
  found = value_and_grads(attend, arrays, weights, everything)
  assert all(np.isfinite(x).all() for x in found)


@pytest.mark.parametrize("tokens", [1, 100, 700, 6204, 11_369, 40_000])
def test_rows_are_padded_little_and_only_once(monkeypatch, tokens):
  monkeypatch.undo()
  width = tree_attention.padded(tokens)
  assert tokens <= width < 1.1 * tokens + 128
  assert width % 128 == 0
  assert tree_attention.padded(width) == width


def test_gradients_of_many_or_wide_keys_are_summed_in_parts(monkeypatch):
  monkeypatch.undo()

  def parts(tokens, width):
    plan = functools.partial(
      tree_attention.plan, kv_heads=4, group=7, head_width=width
    )
    nothing = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    return len(jax.eval_shape(plan, trees.Labels(*[nothing] * 3)).backward)

  # 1 KiB of on-chip memory for a key of 128 lanes, twice.
  assert parts(8192, 128) == 1
  assert parts(32_768, 128) == 3
  assert parts(8192, 256) == 3


@pytest.mark.parametrize(
  ("kernel", "device", "want"),
  [
    ("auto", "cpu", False),
    ("auto", "NVIDIA H100 80GB HBM3", False),
    ("auto", "TPU v4", False),
    ("auto", "TPU v5 lite", True),
    ("auto", "TPU v5", True),
    ("auto", "TPU7x", True),
    ("plain", "TPU v5 lite", False),
    # Interpreted.
    ("tree", "cpu", True),
  ],
)
def test_auto_takes_the_kernels_on_tpus_with_room(kernel, device, want):
  assert tree_attention.is_chosen(kernel, device) == want


def test_a_tpu_without_room_is_refused():
  with pytest.raises(ValueError, match=r"'TPU v4'; set c.model.lane_kernel to"):
    tree_attention.is_chosen("tree", "TPU v4")
