# SPDX-License-Identifier: Apache-2.0
"""Attention to several sources: by hand, masked as dropped, finite always."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import attention

N, R, T, H, M, E, S = 2, 3, 4, 2, 2, 6, 5
SCORING = attention.Scoring(E**-0.5)


@jax.jit
def attend(q, sources):
  return attention.attend(q, sources, scoring=SCORING)


RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.standard_normal(shape).astype(np.float32)


def source(k, v, position, limit_NRT):
  """A source of keys and values [.., X, H, E], laid out as it wants them."""
  if k.ndim == 5:
    return attention.source_of(k, v, position, limit_NRT)
  k, v = jnp.moveaxis(k, -3, -1), jnp.moveaxis(v, -3, -2)
  return attention.Source(k, v, position, limit_NRT)


Q_NRTHME = normal(N, R, T, H, M, E)
TRUNK_K, TRUNK_V = normal(2, N, S, H, E)
OWN_K, OWN_V = normal(2, N, R, T, H, E)
# In any order, with a hole in the second trunk.
TRUNK_AT = np.array([[3, 0, 4, 1, 2], [0, 1, -1, 2, 3]])
BRANCH_AT = np.array([[1, 5, 3], [4, 2, 1]])
TRUNK_MASK = np.array(
  [
    [[[at >= 0 and at < branch_at for at in trunk_at]] for branch_at in row]
    for trunk_at, row in zip(TRUNK_AT, BRANCH_AT, strict=True)
  ]
)
CAUSAL = np.broadcast_to(np.tril(np.ones((T, T), bool)), (N, R, T, T))
OWN_AT = BRANCH_AT[..., None] + np.arange(T)
TRUNK = source(TRUNK_K, TRUNK_V, TRUNK_AT, BRANCH_AT[..., None] - 1)
OWN = source(OWN_K, OWN_V, OWN_AT, OWN_AT)
# Sums of at most 11 terms in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_weights_by_hand():
  # Logits are halved: 2 ln 3 against 0 gives odds of 3 to 1.
  q = np.zeros((1, 1, 1, 1, 1, 4), np.float32)
  q[..., 0] = 2 * np.log(3.0)
  k = np.zeros((1, 1, 2, 1, 4), np.float32)
  k[0, 0, 0, 0, 0] = 1.0
  v = np.array([[8.0] * 4, [4.0] * 4], np.float32).reshape(1, 1, 2, 1, 4)
  at = np.array([[[0, 1]]])
  keys = [source(k, v, at, at[..., 1:])]
  got = attention.attend(q, keys, scoring=attention.Scoring(0.5))
  # Without the scaling the odds would be 9 to 1, and the mean 7.6.
  np.testing.assert_allclose(np.ravel(got), [7.0] * 4, rtol=1e-6)
  # Capped at 1 the logits are tanh(ln 3) = 0.8 and 0; capped before the
  # scaling, tanh(2 ln 3) / 2 = 0.49.
  capped = attention.Scoring(0.5, softcap=1.0)
  got = attention.attend(q, keys, scoring=capped)
  odds = np.exp(0.8)
  want = (8 * odds + 4) / (odds + 1)
  np.testing.assert_allclose(np.ravel(got), [want] * 4, rtol=1e-6)


def reference(q_NRTHME, keys, values, is_visible_NRTX):
  """One query at a time, in float64; keys are [N, R, X, H, E]."""
  q, k, v = (np.asarray(x, np.float64) for x in (q_NRTHME, keys, values))
  out = np.zeros(q.shape)
  for n, r, t, h, m in np.ndindex(q.shape[:-1]):
    is_visible_X = np.asarray(is_visible_NRTX)[n, r, t]
    logits = k[n, r, :, h] @ q[n, r, t, h, m] * SCORING.scale
    weights = np.where(is_visible_X, np.exp(logits), 0)
    out[n, r, t, h, m] = weights @ v[n, r, :, h] / weights.sum()
  return out


def repeated(x_NSHE):
  return np.repeat(x_NSHE[:, None], R, axis=1)


def test_one_softmax_over_a_shared_trunk_and_the_own_branch():
  sources = [TRUNK, OWN]
  keys = np.concatenate([repeated(TRUNK_K), OWN_K], axis=2)
  values = np.concatenate([repeated(TRUNK_V), OWN_V], axis=2)
  trunk_mask = np.broadcast_to(TRUNK_MASK, (N, R, T, S))
  visible = np.concatenate([trunk_mask, CAUSAL], axis=-1)
  want = reference(Q_NRTHME, keys, values, visible)
  np.testing.assert_allclose(attend(Q_NRTHME, sources), want, **CLOSE)
  # The order of the sources means nothing, and a copy of the trunk for each
  # branch is the same as sharing it.
  np.testing.assert_allclose(attend(Q_NRTHME, sources[::-1]), want, **CLOSE)
  copied = source(
    repeated(TRUNK_K), repeated(TRUNK_V), repeated(TRUNK_AT), TRUNK.limit_NRT
  )
  np.testing.assert_allclose(
    attend(Q_NRTHME, [copied, sources[1]]), want, **CLOSE
  )
  # A softmax per source, averaged, would be something else.
  averaged = sum(np.asarray(attend(Q_NRTHME, [s])) for s in sources) / 2
  assert abs(averaged - want).max() > 0.1


def test_a_masked_key_is_as_good_as_dropped():
  hidden, garbage_k, garbage_v = map(np.copy, (TRUNK_AT, TRUNK_K, TRUNK_V))
  hidden[:, 2] = -1
  garbage_k[:, 2] = garbage_v[:, 2] = 1e4
  limit = TRUNK.limit_NRT
  got = attend(Q_NRTHME, [source(garbage_k, garbage_v, hidden, limit), OWN])
  rest = np.delete(np.arange(S), 2)
  dropped = source(*(x[:, rest] for x in (TRUNK_K, TRUNK_V, TRUNK_AT)), limit)
  want = attend(Q_NRTHME, [dropped, OWN])
  np.testing.assert_allclose(got, want, **CLOSE)


def test_a_query_that_sees_nothing_is_finite_and_pulls_at_nothing():
  # Trunk 1 is padding: none of its queries sees any key.
  blind = np.arange(N)[:, None, None] == 1
  arrays = [Q_NRTHME, TRUNK_K, TRUNK_V, OWN_K, OWN_V]

  def total(arrays, blind):
    q, trunk_k, trunk_v, own_k, own_v = (100 * x for x in arrays)
    out = attention.attend(
      q,
      [
        source(trunk_k, trunk_v, TRUNK_AT, jnp.where(blind, -1, TRUNK[3])),
        source(own_k, own_v, OWN_AT, jnp.where(blind, -1, OWN_AT)),
      ],
      scoring=SCORING,
    )
    return jnp.where(blind[..., None, None, None], 0, out).sum()

  value, grads = jax.jit(jax.value_and_grad(total))(arrays, blind)
  assert np.isfinite(value)
  for grad in grads:
    grad = np.asarray(grad)
    assert np.isfinite(grad).all()
    assert not grad[1].any()
    assert grad[0].any()


def visible(key_at, *limits):
  nothing = np.zeros(())
  return attention.is_visible(
    attention.Source(nothing, nothing, key_at, *limits)
  )


def test_visibility_by_hand():
  # Two branch tokens, their padding, and keys left and right of padding.
  query_NRT = np.array([[[4, 5, -1]]])
  key_NRX = np.array([[[-1, 4, 5, -1, 6]]])
  np.testing.assert_array_equal(
    visible(key_NRX, query_NRT)[0, 0],
    np.array([[0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool),
  )
  # A trunk of three tokens, left padded; branches after 0, 2 and 3 of them.
  trunk_NS = np.array([[-1, -1, 0, 1, 2]])
  np.testing.assert_array_equal(
    visible(trunk_NS, np.array([[[-1], [1], [2]]]))[0, :, 0],
    np.array([[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], bool),
  )


def test_a_window_by_hand():
  # A window of 2: tokens at 4 and 5 see themselves and the one before.
  query_NRT = np.array([[[4, 5, -1]]])
  seen = visible(np.array([[0, 3, 4, 5, -1]]), query_NRT, query_NRT - 1)
  np.testing.assert_array_equal(
    seen[0, 0],
    np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool),
  )
  # Of a trunk that ends before position 4, the second of them sees nothing.
  seen = visible(np.array([[2, 3]]), np.array([[[3]]]), query_NRT - 1)
  np.testing.assert_array_equal(seen[0, 0, :2], [[False, True], [False] * 2])


def value_and_grads(arrays, max_logits):
  """Of attention to trunk and branch, and of a lone stream to itself.

  The branches see the last three positions only.
  """
  weights = np.cos(np.arange(Q_NRTHME.size)).reshape(Q_NRTHME.shape)

  def total(arrays):
    q, trunk_k, trunk_v, own_k, own_v = arrays
    branches = attention.attend(
      q,
      [
        source(trunk_k, trunk_v, *TRUNK[2:4])._replace(first_NRT=OWN_AT - 2),
        source(own_k, own_v, *OWN[2:4])._replace(first_NRT=OWN_AT - 2),
      ],
      scoring=SCORING,
      max_logits=max_logits,
    )
    at = OWN_AT[:, :1]
    lone = attention.attend(
      q[:, :1],
      [source(own_k[:, :1], own_v[:, :1], at, at)],
      scoring=SCORING,
      max_logits=max_logits,
    )
    return (weights * branches).sum() + (weights[:, :1] * lone**2).sum()

  return jax.jit(jax.value_and_grad(total))(arrays)


@pytest.mark.parametrize("max_logits", [1, 16, 40, 144])
def test_blocks_give_the_values_and_gradients_of_the_whole(max_logits):
  arrays = [Q_NRTHME, TRUNK_K, TRUNK_V, OWN_K, OWN_V]
  want = value_and_grads(arrays, 0)
  got = value_and_grads(arrays, max_logits)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got,
    want,
  )


@pytest.mark.parametrize("branches", [1, 2])
def test_blocks_bound_the_memory(branches):
  # 512 queries and keys, 2 heads: 2 MB of logits for each branch.
  q = jnp.ones((1, branches, 512, 1, 2, 8))
  k = jnp.ones((1, branches, 512, 1, 8))
  at = jnp.tile(jnp.arange(512), (1, branches, 1))

  def temporaries(max_logits):
    def total(q):
      return attention.attend(
        q, [source(k, k, at, at)], scoring=SCORING, max_logits=max_logits
      ).sum()

    compiled = jax.jit(jax.grad(total)).lower(q).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(0) > 2 * 2**20
  # 16 queries at a time: 64 kB of logits, a few times over.
  assert temporaries(16 * 512 * 2) < 2**20


@pytest.mark.parametrize("shape", [(256, 1), (1, 256), (16, 16)])
@pytest.mark.parametrize("max_logits", [0, 1])
def test_gradients_of_what_blocks_share_are_summed_in_float32(
  shape, max_logits
):
  # One query a block. Summed in bfloat16, they are wrong by 2%.
  arrays = normal(1, *shape, H, M, E), *normal(2, 1, S, H, E)
  q, k, v = (np.asarray(x, jnp.bfloat16) for x in arrays)
  weights = 1 + normal(*q.shape)
  at, limit_NRT = np.arange(S)[None], np.full((1, *shape), S - 1)

  def total(kv, q, max_logits):
    out = attention.attend(
      q,
      [source(*kv, at, limit_NRT)],
      scoring=SCORING,
      max_logits=max_logits,
    )
    return (weights * out.astype(jnp.float32)).sum()

  grads = jax.jit(jax.grad(total), static_argnums=2)
  k32, v32, q32 = (x.astype(np.float32) for x in (k, v, q))
  exact = grads((k32, v32), q32, 0)
  for got, want in zip(grads((k, v), q, max_logits), exact, strict=True):
    error = np.linalg.norm(got.astype(np.float32) - want)
    # Weights, outputs and gradients are rounded to 8 bits.
    assert error < 0.004 * np.linalg.norm(want)


def test_bfloat16_sums_in_float32():
  # A thousand equal weights: added up in bfloat16 they stall at 256.
  q = np.zeros((1, 1, 1, 1, 1, 2), jnp.bfloat16)
  k = np.zeros((1, 1000, 1, 2), jnp.bfloat16)
  v = np.ones((1, 1000, 1, 2), jnp.bfloat16)
  at = np.arange(1000)[None]
  got = attend(q, [source(k, v, at, np.full((1, 1, 1), 999))])
  assert got.dtype == jnp.bfloat16
  assert (np.asarray(got) == 1.0).all()
